"""What the user said, written down by the thinker itself: a fork of its cache behind the utterance is asked for it.

The fork shares the pages of the conversation's cache and is thrown away; nothing of it stays in the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.kv_cache import KVCache
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.pieces import line
from omni_rt.engine.qwen3_omni.requests import Choice, Chunk, Read
from omni_rt.engine.qwen3_omni.utterance import Utterance

# Nobody says more tokens than this in a second; and something to start with.
_TOKENS_A_SECOND = 8
_TOKENS = 16


class Transcription:
    """Made a token a step, greedily, once the utterance is in the cache."""

    def __init__(self, parts: Parts, utterance: Utterance, item_id: str) -> None:
        self.item_id = item_id
        self.turn: Turn = utterance.turn
        self._parts = parts
        self._utterance = utterance
        self._cache: KVCache | None = None
        self._position = 0.0
        self._next: Sequence[int] = ()
        self._stream = parts.tokenizer.stream()
        self._text = ""
        self._left = 0

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def request(self, context: Context) -> Read | None:
        """One token further; None if there is nothing to write. `context` must hold the utterance's turn, prefilled."""
        if self._cache is None:
            if not self._utterance.audio_tokens or not context.holds(self.turn):
                return None
            self._cache, self._position = context.fork_before_close(self.turn)
            self._next = (*self._utterance.ending, *self._parts.prompt.transcription)
            self._left = _TOKENS + _TOKENS_A_SECOND * self._utterance.samples // 16_000
        chunk = Chunk(self._cache, self._next, line(len(self._next), self._position), self._taken)
        return Read(chunk, choice=Choice(0.0, "any", 0.0))

    def take(self, token: int) -> str | None:
        """The text when it is done."""
        if token == self._parts.spec.tokens.im_end or self._left <= 0:
            self.close()
            return (self._text + self._stream.finish()).strip()
        self._text += self._stream.push(token)
        self._next = (token,)
        self._left -= 1
        return None

    def _taken(self, _: Tensor) -> None:
        self._position += len(self._next)
