"""The words of a clip that is no part of a conversation: read alone in a context of its own, which is thrown away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.parts import Parts, told
from omni_rt.engine.qwen3_omni.reply import PREFILL_ROWS
from omni_rt.engine.qwen3_omni.requests import Choice, Read, Request, Result
from omni_rt.engine.qwen3_omni.utterance import Utterance

# What interrupts is told by its first words.
_TOKENS = 12


class Overhearing:
    """Implements the scheduler's Work: encodes the clip, then writes its words a token a step, greedily.

    `tell` hears the words or an error, once, on the scheduler's thread, unless it is closed before. It is due when it
    was asked for: before all but what is late already.
    """

    def __init__(self, parts: Parts, pcm: Pcm, tell: Callable[[str | EngineError], None]) -> None:
        """`pcm` 16 kHz, as `check_clip` lets through."""
        self._parts = parts
        self._pcm = pcm
        self._tell = tell
        self._asked_at = parts.scheduler.now()
        self._context: Context | None = None
        self._turn = Turn("user")
        self._stream = parts.tokenizer.stream()
        self._text = ""
        self._left = _TOKENS

    def begin(self, prior: float | None) -> None:
        """`prior` is the loudest cell of the person's utterances before."""
        parts = self._parts
        self._context = Context(parts.omni.thinker, parts.pool.new())
        self._context.turns.append(self._turn)
        self._utterance = Utterance(parts, self._context, self._turn, prior)
        # the encoder has a captured step for a whole second, none for a part of the first
        self._utterance.append(np.pad(self._pcm, (0, -len(self._pcm) % INPUT_RATE)))
        self._utterance.close()
        parts.scheduler.add(self)

    def close(self) -> None:
        """Give everything back; safe to call twice, and before `begin`."""
        self._parts.scheduler.remove(self)
        if self._context is not None:
            self._context.close()

    # -- work

    def deadline(self, now: float) -> float | None:
        return self._asked_at

    def request(self) -> Request | None:
        assert self._context is not None
        if not self._utterance.finished:
            return None
        return Read(self._context.chunk(PREFILL_ROWS), choice=Choice(0.0, "any", 0.0))

    def take(self, request: Request, result: Result) -> None:
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, int)
        ended = result == self._parts.spec.tokens.im_end
        if not ended:
            self._text += self._stream.push(result)
            self._left -= 1
        if ended or not self._left:
            self._end((self._text + self._stream.finish()).strip())
        else:
            self._write(pieces.text((result,)))

    def step(self) -> None:
        self._utterance.work()
        if self._utterance.finished:
            self._turn.pieces.pop()
            self._write(pieces.text((*self._utterance.ending, *self._parts.prompt.transcription)))

    def failed(self, error: Exception) -> None:
        self._end(told(error))

    # -- inside

    def _write(self, piece: pieces.Piece) -> None:
        assert self._context is not None
        self._turn.pieces.append(piece)
        self._context.changed()

    def _end(self, heard: str | EngineError) -> None:
        self.close()
        self._tell(heard)
