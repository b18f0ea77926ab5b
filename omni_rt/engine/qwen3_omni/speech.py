"""The spoken side of one reply: which frame comes next, and when it is needed."""

from __future__ import annotations

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
        self._now = parts.scheduler.now
        self._context = context
        self._voice = voice or parts.voices[0]
        self._generator = generator
        self._line: Line | None = None
        self._started_at: float | None = None
        self._kept: Pcm | None = None
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
        """A frame was made."""
        return self.frames > 0

    @property
    def out(self) -> bool:
        """The first of its sound was given away."""
        return self._started_at is not None

    def deadline(self) -> float:
        """When the next frame is needed by the ear, in seconds of the scheduler's clock, once the first is out."""
        assert self._started_at is not None
        return self._started_at + FRAME_S * self.frames - _LATE_S

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

    def take(self, frame: Frame, made: Made, *, patient: bool = False) -> Pcm | None:
        """What was made of it; None if that was the end. `patient`: the first frame is kept until the second is made,
        so that whoever hears it does not run out of sound."""
        line, self._uniform = frame.line, None
        if frame.token is None:
            self._text_over = True
        else:
            self.tokens += 1
        if made.ended:
            self.whole = True
            return self._with_kept(self._machine.flush(line)) if line.frames else None
        assert made.pcm is not None
        most = min(_MOST_FRAMES, _FRAMES_AT_LEAST + _FRAMES_PER_TOKEN * self.tokens)
        self.whole = line.frames >= (most if self._text_over else _MOST_FRAMES)
        if self.whole:
            return self._with_kept(np.concatenate([made.pcm, self._machine.flush(line)]))
        if patient and line.frames == 1:
            self._kept = made.pcm
            return None
        return self._with_kept(made.pcm)

    def _with_kept(self, pcm: Pcm) -> Pcm:
        """The sound to give away."""
        kept, self._kept = self._kept, None
        if self._started_at is None:
            self._started_at = self._now()
        return pcm if kept is None else np.concatenate([kept, pcm])

    def close(self) -> None:
        """The talker's cache is the user's again."""
        if self._line is not None:
            self._machine.release(self._line)
