"""How much of a conversation the model has before it, and which items leave first."""

from __future__ import annotations

from collections.abc import Iterable

from omni_rt.core.conversation import Item, Picture, Speech, Text

# Rough tokens: what a character, a second of speech, a picture and an item by itself take. Only their proportions
# matter once the engine has counted.
CHARACTER = 0.25
SPEECH_MS = 0.0125
PICTURE = 300.0
ITEM = 6.0

# Share of the engine's context that a conversation may take by its own rules; beyond it engines drop by theirs.
FULL = 0.75


class ContextWindow:
    """Tokens of a conversation: the engine counts them with each reply, in between and item by item they are estimated.

    `fixed` is the estimate of what is no item: instructions and tools.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` is the engine's context in tokens."""
        self.capacity = capacity
        self._scale = 1.0

    @property
    def limit(self) -> float:
        return FULL * self.capacity

    def counted(self, tokens: int, fixed: float, items: Iterable[Item]) -> None:
        """The engine has counted `tokens` for all this."""
        if tokens:
            self._scale = tokens / (fixed + sum(map(weigh, items)))

    def tokens(self, fixed: float, items: Iterable[Item]) -> float:
        return self._scale * (fixed + sum(map(weigh, items)))

    def excess(self, items: list[Item], fixed: float, ratio: float, limit: int | None) -> list[str]:
        """Ids of the oldest items that leave, none if all fit.

        Whole exchanges leave, until what stays takes at most the share `ratio` of `limit` tokens (None: of what is left
        beside `fixed`). The last exchange always stays.
        """
        most = self.limit - self._scale * fixed
        most = max(0.0, most if limit is None else min(most, limit))
        left = self._scale * sum(map(weigh, items))
        if left <= most:
            return []
        gone = 0
        for start in exchanges(items):
            if left <= ratio * most:
                break
            left -= self._scale * sum(map(weigh, items[gone:start]))
            gone = start
        return [item.id for item in items[:gone]]


def exchanges(items: list[Item]) -> list[int]:
    """Where the exchanges begin, each with what the user says."""
    return [n for n, item in enumerate(items) if item.kind == "message" and item.role == "user"]


def weigh(item: Item) -> float:
    """The estimate for one item."""
    written = len(item.output) + len(item.call.arguments) + len(item.call.name) if item.call else len(item.output)
    return ITEM + CHARACTER * written + sum(map(_weigh_part, item.parts))


def _weigh_part(part: Text | Speech | Picture) -> float:
    match part:
        case Text():
            return CHARACTER * len(part.text)
        case Speech():
            return max(CHARACTER * len(part.transcript or ""), SPEECH_MS * part.audio_ms)
        case Picture():
            return PICTURE
