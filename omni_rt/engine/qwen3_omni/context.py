"""One conversation as the model holds it: the turns, and how far the caches of thinker and talker agree with them.

The turns are what the next reply shall build on; they change freely. The caches hold a prefix of their rows and follow
in bounded steps (`advance`). A change in the middle cuts both caches there; what comes after is prefilled again from
the pieces, which keep the encoders' features, so nothing is ever encoded twice.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni.kv_cache import KVCache
from omni_rt.engine.qwen3_omni.machine import read_chunks
from omni_rt.engine.qwen3_omni.pieces import Offsets, Piece
from omni_rt.engine.qwen3_omni.requests import Chunk, Listening
from omni_rt.engine.qwen3_omni.talker import Talker
from omni_rt.engine.qwen3_omni.thinker import Thinker

TurnRole = Literal["system", "user", "assistant"]


@dataclass(slots=True, eq=False)
class Turn:
    """`pieces` are all its rows, markers included. The talker is shown user turns only. `results` of tools, if any."""

    role: TurnRole
    pieces: list[Piece] = field(default_factory=list)
    item_id: str = ""
    results: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


@dataclass(frozen=True, slots=True)
class _Placed:
    """A piece at its place: its first row, and where it begins and is anchored in position space, for both models."""

    turn: Turn
    piece: Piece
    row: int
    talker_row: int
    anchor: float
    talker_anchor: float
    next: float
    talker_next: float

    @property
    def end(self) -> int:
        return self.row + len(self.piece)

    @property
    def heard_by_talker(self) -> bool:
        return self.turn.role == "user"

    def positions(self) -> Offsets:
        return self.piece.offsets + np.float32(self.anchor)

    def talker_positions(self) -> Offsets:
        offsets = self.piece.offsets if self.piece.talker_offsets is None else self.piece.talker_offsets
        return offsets + np.float32(self.talker_anchor)


_Chunk = Sequence[tuple[_Placed, int, int]]


@dataclass(frozen=True, slots=True)
class TalkerPlace:
    """Where an answer goes on in the talker: after `rows` rows, at position `next`."""

    rows: int
    next: float


class Context:
    """`talker` and `talker_cache` are None for a model that does not speak."""

    def __init__(
        self, thinker: Thinker, cache: KVCache, talker: Talker | None = None, talker_cache: KVCache | None = None
    ) -> None:
        self._thinker = thinker
        self._talker = talker
        self.cache = cache
        self.talker_cache = talker_cache
        self.turns: list[Turn] = []
        self._placed: list[_Placed] = []
        self._rows = 0
        self._stale = False
        self._last: tuple[int, Tensor] | None = None
        self.computed = 0
        """Rows that passed the thinker so far."""

    def close(self) -> None:
        self.cache.close()
        if self.talker_cache is not None:
            self.talker_cache.close()

    # -- what it shall be

    def changed(self) -> None:
        """The turns are not what they were: to be called after every change of them."""
        self._stale = True

    @property
    def rows(self) -> int:
        self._agree()
        return self._rows

    # -- what the caches hold

    @property
    def missing(self) -> int:
        """Rows that are still to be prefilled."""
        return self.rows - self.cache.length

    def chunk(self, most: int) -> Chunk | None:
        """Up to `most` of the missing rows; None if there are none."""
        self._agree()
        start = self.cache.length
        parts = list(self._upcoming(start, start + most))
        if not parts:
            return None
        ids = [token for placed, a, b in parts for token in placed.piece.ids[a:b]]
        features, at = _gather(parts, lambda piece: piece.media, lambda piece: piece.features)
        deepstack, visual = _gather(
            parts,
            lambda piece: piece.visual,
            lambda piece: None if piece.deepstack is None else piece.deepstack.transpose(0, 1),
        )

        def taken(hidden: Tensor) -> None:
            self._last = start + len(ids), hidden
            self.computed += len(ids)

        return Chunk(
            cache=self.cache,
            ids=ids,
            positions=np.concatenate([placed.positions()[:, a:b] for placed, a, b in parts], axis=1),
            taken=taken,
            features=torch.cat(features) if features else None,
            at=at,
            deepstack=torch.cat(deepstack).transpose(0, 1) if deepstack else None,
            visual=visual,
            listening=self._listening(parts, self._talker_rows(start)),
        )

    def advance(self, most: int) -> int:
        """Prefill up to `most` further rows, of both models, by themselves; returns how many."""
        chunk = self.chunk(most)
        if chunk is None:
            return 0
        chunk.taken(read_chunks(self._thinker, self._talker, [chunk])[0])
        return len(chunk)

    def known_hidden(self) -> Tensor | None:
        """[hidden] of the last row, from which the next token is read; None if a row is missing. The last row counts as
        missing when what became of it was not kept."""
        if self.missing:
            return None
        if self._last is None or self._last[0] != self.cache.length:
            self.cache.truncate(self.cache.length - 1)
            return None
        return self._last[1]

    def last_hidden(self) -> Tensor:
        """As `known_hidden`, read again if need be; everything must be prefilled."""
        assert not self.missing
        hidden = self.known_hidden()
        if hidden is None:
            self.advance(1)
            hidden = self.known_hidden()
        assert hidden is not None
        return hidden

    def talker_place(self) -> TalkerPlace:
        """Behind all user rows."""
        self._agree()
        if not self._placed:
            return TalkerPlace(0, 0.0)
        last = self._placed[-1]
        shown = len(last.piece) if last.heard_by_talker else 0
        return TalkerPlace(last.talker_row + shown, last.talker_next)

    def holds(self, turn: Turn) -> bool:
        """Whether all of `turn` is prefilled."""
        self._agree()
        last = next((placed for placed in reversed(self._placed) if placed.turn is turn), None)
        return last is not None and last.end <= self.cache.length

    def fork_before_close(self, turn: Turn) -> tuple[KVCache, float]:
        """The thinker's cache up to the last piece of a prefilled turn, shared with this one; the position there."""
        assert self.holds(turn)
        last = next(placed for placed in reversed(self._placed) if placed.turn is turn)
        forked = self.cache.fork()
        forked.truncate(last.row)
        return forked, last.anchor

    # -- inside

    def _agree(self) -> None:
        """Cut the caches where they no longer agree with the turns, and place what is new."""
        if not self._stale:
            return
        self._stale = False
        pieces = [(turn, piece) for turn in self.turns for piece in turn.pieces]
        same = 0
        for placed, (turn, piece) in zip(self._placed, pieces, strict=False):
            if placed.piece is not piece or placed.turn.role != turn.role:
                break
            if placed.turn is not turn:
                self._placed[same] = replace(placed, turn=turn)
            same += 1
        gone = self._placed[same:]
        if gone:
            row = gone[0].row
            before = [(p.turn.role, p.piece) for p in gone]
            after = [(turn.role, piece) for turn, piece in pieces[same:]]
            self._cut(row + _common(before, after))
            del self._placed[same:]
        for turn, piece in pieces[same:]:
            self._placed.append(_place(turn, piece, self._placed[-1] if self._placed else None))
        self._rows = self._placed[-1].end if self._placed else 0

    def _cut(self, row: int) -> None:
        if row >= self.cache.length:
            return
        self.cache.truncate(row)
        if self.talker_cache is not None:
            self.talker_cache.truncate(self._talker_rows(row))

    def _talker_rows(self, row: int) -> int:
        """Rows of the talker that belong to the first `row` rows of the thinker."""
        number = bisect_left(self._placed, row, key=lambda placed: placed.row) - 1
        if number < 0:
            return 0
        placed = self._placed[number]
        return placed.talker_row + (min(row, placed.end) - placed.row if placed.heard_by_talker else 0)

    def _upcoming(self, start: int, end: int) -> Iterator[tuple[_Placed, int, int]]:
        """The pieces of rows `start` to `end`, each with its part's bounds within the piece."""
        first = bisect_right(self._placed, start, key=lambda placed: placed.end)
        for placed in islice(self._placed, first, None):
            if placed.row >= end:
                return
            a, b = max(start, placed.row) - placed.row, min(end, placed.end) - placed.row
            if a < b:
                yield placed, a, b

    def _listening(self, chunk: _Chunk, known: int) -> Listening | None:
        """What the talker hears of a chunk; it has `known` rows of those before."""
        if self._talker is None or self.talker_cache is None:
            return None
        rows: list[int] = []
        media: list[int] = []
        positions: list[Offsets] = []
        first = 0
        for placed, a, b in chunk:
            if placed.heard_by_talker:
                media += [len(rows) + m - a for m in placed.piece.media if a <= m < b]
                rows += range(first, first + b - a)
                positions.append(placed.talker_positions()[:, a:b])
            first += b - a
        if not rows:
            return None
        return Listening(self.talker_cache, known, rows, media, np.concatenate(positions, axis=1))


def _place(turn: Turn, piece: Piece, before: _Placed | None) -> _Placed:
    row = before.end if before is not None else 0
    talker_row, start, talker_start = 0, 0.0, 0.0
    if before is not None:
        talker_row = before.talker_row + (len(before.piece) if before.heard_by_talker else 0)
        start, talker_start = before.next, before.talker_next
    anchor, talker_anchor = start, talker_start
    if piece.continues:
        assert before is not None
        anchor = before.anchor
        talker_anchor = before.talker_anchor if piece.talker_offsets is None else talker_start
    talker_advance = piece.advance if piece.talker_offsets is None else piece.talker_advance
    talker_next = talker_anchor + talker_advance if turn.role == "user" else talker_start
    return _Placed(turn, piece, row, talker_row, anchor, talker_anchor, anchor + piece.advance, talker_next)


def _common(before: Iterable[tuple[TurnRole, Piece]], after: Iterable[tuple[TurnRole, Piece]]) -> int:
    """How many rows two continuations share at their start, however they are cut into pieces. Media never agree."""

    def rows(pieces: Iterable[tuple[TurnRole, Piece]]) -> Iterator[tuple[bool, int]]:
        for role, piece in pieces:
            if piece.media or piece.continues:
                return
            yield from ((role == "user", token) for token in piece.ids)

    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(rows(before), rows(after), strict=False)))


def _gather(
    chunk: _Chunk, rows: Callable[[Piece], Sequence[int]], values: Callable[[Piece], Tensor | None]
) -> tuple[list[Tensor], list[int]]:
    """`values` [n, ...] of those `rows` of each piece that lie in its part of a chunk; and their places there."""
    found: list[Tensor] = []
    at: list[int] = []
    first = 0
    for placed, a, b in chunk:
        inside = [k for k, row in enumerate(rows(placed.piece)) if a <= row < b]
        given = values(placed.piece)
        if inside and given is not None:
            found.append(given[inside[0] : inside[-1] + 1])
            at += [first + rows(placed.piece)[k] - a for k in inside]
        first += b - a
    return found, at
