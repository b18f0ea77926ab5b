"""How much one conversation may hold, and which turns leave when it holds too much.

The context counts as full at a share of it; then the oldest exchanges (a user's turn and all up to the next one) leave
until another share is held. The instructions and the last exchange stay.
"""

from __future__ import annotations

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.context import Context, Turn

_FULL = 0.85
_EASED = 0.5


class Room:
    """Counts in tokens. `system` is the turn with the instructions, `reply` the longest reply."""

    def __init__(self, context: Context, system: Turn, capacity: int, reply: int) -> None:
        self._context = context
        self._system = system
        self._capacity = capacity
        self._reserve = min(reply, capacity // 4)

    @property
    def largest_turn(self) -> int:
        """A larger one leaves no room for a reply, whatever else leaves."""
        return self._capacity - self._reserve // 2 - len(self._system)

    def full(self, *, urgent: bool) -> bool:
        """Whether the oldest turns shall leave; `urgent` when a reply is about to be made."""
        return self._context.rows > (self._capacity - self._reserve if urgent else _FULL * self._capacity)

    def oldest(self) -> list[Turn]:
        """The exchange that leaves next; none when enough have left, or only one is there."""
        turns = self._context.turns
        starts = [n for n, turn in enumerate(turns) if turn.role == "user" and not turn.results]
        if self._context.rows <= _EASED * self._capacity or len(starts) < 2:
            return []
        first = next(n for n, turn in enumerate(turns) if turn is not self._system)
        return turns[first : next(n for n in starts if n > first)]

    def check(self, *, for_reply: bool) -> None:
        """Raises EngineError `context_full` when what must stay leaves too little."""
        if self._context.rows > self._capacity - (self._reserve // 2 if for_reply else 0):
            raise EngineError(
                "context_full",
                f"{self._context.rows} tokens of instructions and the last turn leave no room for a reply in a context "
                f"of {self._capacity}; shorten them, or raise qwen.context_tokens",
            )

    def too_large(self, turn: Turn) -> EngineError:
        return EngineError(
            "context_full",
            f"an item of {len(turn)} tokens was left out: beside the instructions there is room for "
            f"{self.largest_turn} in a context of {self._capacity}; shorten it, or raise qwen.context_tokens",
        )
