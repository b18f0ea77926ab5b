"""The spoken side of one reply: which frame comes next, and when it is needed."""

from __future__ import annotations

import time

import numpy as np
import torch

from omni_rt.engine.api import EngineError, Pcm
from omni_rt.engine.qwen3_omni.context import Context
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.requests import Frame, Line, Made
from omni_rt.engine.qwen3_omni.sampler import noise

FRAME_S = 0.08
# Nobody speaks so slowly: a talker that has not ended by then has lost the thread.
_FRAMES_PER_TOKEN = 8
_FRAMES_AT_LEAST = 25
_MOST_FRAMES = 4096
# Code2Wav's sound lags behind the frames by its look-ahead.
_LATE_S = 0.024


class Speech:
    """`begin` with the read of the first token, then a `frame` for each 80 ms, made and taken, until it is `whole`."""

    def __init__(self, parts: Parts, context: Context, voice: str, generator: torch.Generator) -> None:
        if parts.omni.talker is None:
            raise EngineError("no_speech", "these weights have no talker; they only write")
        self._machine = parts.machine
        self._context = context
        self._voice = voice or parts.voices[0]
        self._generator = generator
        self._line: Line | None = None
        self._started_at: float | None = None
        self._text_over = False
        self._uniform: torch.Tensor | None = None
        self.tokens = 0
        """Tokens of the text that were spoken, or are about to be."""
        self.whole = False
        """Nothing more will come."""

    @property
    def frames(self) -> int:
        """Frames that became sound."""
        return self._line.frames if self._line is not None else 0

    @property
    def begun(self) -> bool:
        return self._started_at is not None

    def deadline(self) -> float:
        """When the next frame is needed, in seconds of the monotonic clock; 0 before the first."""
        return 0.0 if self._started_at is None else self._started_at + FRAME_S * self.frames - _LATE_S

    def begin(self) -> Line:
        """The line behind the user's rows, to be begun by the machine; a second call takes another place."""
        place, cache = self._context.talker_place(), self._context.talker_cache
        assert cache is not None
        self._line = Line(cache, place.rows, place.next, self._voice)
        return self._line

    def frame(self, token: int | None) -> Frame:
        """The next 80 ms, with the next token of the text, or None when the text is over."""
        assert self._line is not None
        if self._uniform is None:
            self._uniform = noise(self._generator, 16)
        return Frame(self._line, token, "pad" if self._text_over else "eos", self._uniform)

    def take(self, frame: Frame, made: Made) -> Pcm | None:
        """What was made of it; None if that was the end."""
        line, self._uniform = frame.line, None
        if frame.token is None:
            self._text_over = True
        else:
            self.tokens += 1
        if made.ended:
            self.whole = True
            return self._machine.flush(line) if line.frames else None
        assert made.pcm is not None
        if self._started_at is None:
            self._started_at = time.monotonic()
        most = min(_MOST_FRAMES, _FRAMES_AT_LEAST + _FRAMES_PER_TOKEN * self.tokens)
        if line.frames < (most if self._text_over else _MOST_FRAMES):
            return made.pcm
        self.whole = True
        return np.concatenate([made.pcm, self._machine.flush(line)])

    def close(self) -> None:
        """The talker's cache is the user's again."""
        if self._line is not None:
            self._machine.release(self._line)
