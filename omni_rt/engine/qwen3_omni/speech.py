"""The spoken side of one reply: talker frames and their sound."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from omni_rt.engine.api import EngineError, Pcm
from omni_rt.engine.qwen3_omni.context import Context
from omni_rt.engine.qwen3_omni.layers import numbers
from omni_rt.engine.qwen3_omni.parts import Parts, Voice
from omni_rt.engine.qwen3_omni.sampler import noise
from omni_rt.engine.qwen3_omni.talker import TalkerState

FRAME_S = 0.08
# Nobody speaks so slowly: a talker that has not ended by then has lost the thread.
_FRAMES_PER_TOKEN = 8
_FRAMES_AT_LEAST = 25
_MOST_FRAMES = 4096


class Speech:
    """`prepare` when everything before the answer is prefilled, then `frame` for each 80 ms until it is `whole`."""

    def __init__(self, parts: Parts, context: Context, voice: str, generator: torch.Generator) -> None:
        talker, code2wav, speaking = parts.omni.talker, parts.omni.code2wav, parts.speaking
        if talker is None or code2wav is None or speaking is None:
            raise EngineError("no_speech", "these weights have no talker; they only write")
        self._talker = talker
        self._code2wav = code2wav
        self._speaking: Voice = speaking
        self._thinker = parts.omni.thinker
        self._context = context
        self._prefix = speaking.fixed.prefix(voice or parts.voices[0])
        self._generator = generator
        self._state: TalkerState | None = None
        self._sound = code2wav.state()
        self._started_at: float | None = None
        self._text_over = False
        self.tokens = 0
        """Tokens of the text that were spoken, or are about to be."""
        self.frames = 0
        """Frames that became sound."""
        self.whole = False
        """Nothing more will come."""

    @property
    def begun(self) -> bool:
        return self._started_at is not None

    def deadline(self) -> float:
        """When the next frame is needed, in seconds of the monotonic clock; 0 before the first."""
        return 0.0 if self._started_at is None else self._started_at + FRAME_S * self.frames

    def prepare(self) -> None:
        """Prefill the rows that no answer changes."""
        if self._state is None:
            place, cache = self._context.talker_place(), self._context.talker_cache
            assert cache is not None
            self._state = self._talker.start(cache, place.rows, place.next)
            self._talker.prefill([self._state], [self._prefix])

    def frame(self, token: int | None, *, ended: bool) -> Pcm | None:
        """The next 80 ms, with the next token of the text, or None when the text is over; None if that was the end."""
        assert self._state is not None
        if token is None and not ended:
            raise ValueError("the next token of the text must be waited for")
        codes = self._talker.frames(
            [self._state],
            self._row(token)[None],
            self._speaking.codes,
            self._speaking.residuals,
            noise(self._generator, 16)[None],
        )
        numbers: list[int] = codes[0].tolist()
        if self._talker.ended(numbers):
            self.whole = True
            return _pcm(self._code2wav.flush(self._sound)) if self.frames else None
        if self._started_at is None:
            self._started_at = time.monotonic()
        samples = self._code2wav.step(codes[:, :, None], self._sound)
        self.frames += 1
        most = min(_MOST_FRAMES, _FRAMES_AT_LEAST + _FRAMES_PER_TOKEN * self.tokens)
        if self.frames >= (most if self._text_over else _MOST_FRAMES):
            self.whole = True
            samples = torch.cat([samples, self._code2wav.flush(self._sound)], dim=1)
        return _pcm(samples)

    def close(self) -> None:
        """The talker's cache is the user's again."""
        if self._state is not None:
            self._state.cache.truncate(min(self._state.rows, self._state.cache.length))

    def _row(self, token: int | None) -> Tensor:
        assert self._state is not None
        if token is None:
            fixed = self._speaking.fixed
            row = fixed.pad if self._text_over else fixed.eos
            self._text_over = True
            return row
        self.tokens += 1
        embedded = self._thinker.embed(numbers([token], self._talker.device))[0]
        return self._talker.text_rows(embedded) if self._state.frames else self._talker.first_row(embedded)


def _pcm(samples: Tensor) -> Pcm:
    """Float sound [1, m] as int16 on the host."""
    pcm: Pcm = (samples[0] * 32767.0).round().to(torch.int16).cpu().numpy()
    return pcm
