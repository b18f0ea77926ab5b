"""A conversation as the chat model sees it: turns of token ids that are only ever added at the end.

What is already in it changes in three ways, none of which moves anything else: a rollback drops turns from the end, an
interrupted reply is cut to what was heard, and the oldest exchanges leave when the context is full.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

Tokenise = Callable[[str], Awaitable[list[int]]]


@dataclass(frozen=True, slots=True)
class Marks:
    """Token ids that set turns apart in ChatML, and those of marks that a sentence may end with."""

    system: tuple[int, ...]
    user: tuple[int, ...]
    assistant: tuple[int, ...]
    end: tuple[int, ...]
    newline: tuple[int, ...]
    punctuation: frozenset[int] = frozenset()


@dataclass(slots=True)
class Turn:
    """One turn. Its content is `ids` and after them `pending`, text that has not been tokenised yet.

    A turn without content (nothing was understood or written, or not yet) is left out, and so is one that is `gone`.
    `said` is what the user said or wrote, without what the camera showed meanwhile; `calls` are the calls in an
    assistant's turn.
    """

    role: Literal["system", "user", "assistant", "tool"]
    pending: str = ""
    ids: list[int] = field(default_factory=list)
    item_id: str = ""
    said: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    gone: bool = False

    @property
    def shown(self) -> bool:
        return not self.gone and bool(self.ids or self.pending)


class Context:
    def __init__(self, marks: Marks, tokenise: Tokenise) -> None:
        self.marks = marks
        self.system = Turn("system")
        self.turns: list[Turn] = []
        self._tokenise = tokenise

    def add(self, turn: Turn) -> None:
        self.turns.append(turn)

    def shown(self, until: Turn | None = None) -> list[Turn]:
        """The turns that count, up to `until` if that is given."""
        turns = takewhile(lambda turn: turn is not until, self.turns)
        return [turn for turn in turns if turn.shown]

    def before(self, turn: Turn) -> Turn | None:
        """The turn right before `turn`, even one that does not count."""
        earlier = list(takewhile(lambda other: other is not turn, self.turns))
        return earlier[-1] if earlier else None

    def answered(self, until: Turn) -> list[tuple[str, str]]:
        """The calls since the user last spoke, `until` a turn."""
        calls: list[tuple[str, str]] = []
        for turn in self.shown(until):
            calls = [] if turn.role == "user" else calls + turn.calls
        return calls

    async def ids(self, *tail: Turn, until: Turn | None = None) -> list[int]:
        """All tokens up to the end of the last turn; turns of `tail` count as if they had been added."""
        turns = [self.system, *self.shown(until), *(turn for turn in tail if turn.shown)]
        ids: list[int] = []
        before = ""
        for turn in turns:
            opened = await self.opened(turn)
            if before == turn.role == "tool":
                # results that follow one another share a turn
                del ids[-len(self.marks.end) :]
                opened[: len(self.marks.user)] = self.marks.newline
            ids += [*opened, *self.marks.end]
            before = turn.role
        return ids

    async def opened(self, turn: Turn) -> list[int]:
        """The tokens that `turn` begins with, without its end."""
        await self._complete(turn)
        return [*self._opening(turn), *turn.ids]

    async def unended(self, turn: Turn) -> list[int]:
        """The tokens up to the last word of `turn`, without the marks that follow it."""
        ids = [*await self.ids(until=turn), *await self.opened(turn)]
        while ids[-1] in self.marks.punctuation:
            ids.pop()
        return ids

    def leave(self, tokens: int) -> bool:
        """Let the oldest exchanges go that make up `tokens` tokens; returns whether any went.

        An exchange is a user's turn and everything up to the next one. The last of them stays.
        """
        shown = self.shown()
        starts = [index for index, turn in enumerate(shown) if turn.role == "user"]
        gone = 0
        for end in starts[1:]:
            if tokens <= 0:
                break
            tokens -= sum(map(self._size, shown[gone:end]))
            gone = end
        for turn in shown[:gone]:
            turn.gone = True
        return gone > 0

    def least(self) -> int:
        """Tokens that stay whatever leaves: the system's turn and the last exchange."""
        shown = self.shown()
        last = max((index for index, turn in enumerate(shown) if turn.role == "user"), default=0)
        return sum(map(self._size, [self.system, *shown[last:]]))

    async def _complete(self, turn: Turn) -> None:
        while turn.pending:
            text = turn.pending
            ids = await self._tokenise(text)
            if turn.pending == text:
                turn.ids += ids
                turn.pending = ""

    def _size(self, turn: Turn) -> int:
        return len(self._opening(turn)) + len(turn.ids) + len(self.marks.end)

    def _opening(self, turn: Turn) -> tuple[int, ...]:
        match turn.role:
            case "system":
                return self.marks.system
            case "assistant":
                return self.marks.assistant
            case _:
                return self.marks.user
