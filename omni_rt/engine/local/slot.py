"""One session's place in the chat model and what is in its cache."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from omni_rt.engine.local.chat import PREFILL_TOKENS, ChatModel


class Slot:
    """`lock` is held by whoever lets the model work in this slot."""

    def __init__(self, chat: ChatModel, number: int) -> None:
        self.chat = chat
        self.number = number
        self.lock = asyncio.Lock()
        self.cached: list[int] = []
        self._move = False
        self._judged: tuple[list[int], float] | None = None

    def dropped(self) -> None:
        """Turns have left from the middle of the prompt: what was computed for those behind them is to be kept."""
        self._move = True

    def missing(self, prompt: Sequence[int]) -> int:
        """How many tokens of `prompt` are not in the cache."""
        agreed = 0
        for cached, wanted in zip(self.cached, prompt, strict=False):
            if cached != wanted:
                break
            agreed += 1
        return len(prompt) - agreed

    async def advance(
        self, prompt: Sequence[int], most: int = PREFILL_TOKENS, *, judge: Sequence[int] | None = None
    ) -> int:
        """Evaluate the next few tokens of `prompt`, at most `most`; returns how many. With `judge`, the tokens that end
        a turn, its ending is known once all of it is evaluated."""
        missing = self.missing(prompt)
        move, self._move = self._move, False
        known = len(prompt) if move else len(prompt) - missing + min(missing, most)
        self.cached = list(prompt[: len(prompt) - missing])  # so much is there even if this is cancelled
        ends = judge if known == len(prompt) else None
        read = await self.chat.prefill(self.number, prompt[:known], move=move, judge=ends)
        self.cached = list(prompt[:known])
        if read.ending is not None:
            self._judged = self.cached, read.ending
        return read.evaluated

    def ending(self, prompt: Sequence[int]) -> float | None:
        """How likely a sentence ends with `prompt`, if that was judged last."""
        return self._judged[1] if self._judged is not None and self._judged[0] == prompt else None
