"""Pieces of a prompt: token ids with the features that stand for their media, and where they lie in position space.

Every position of a piece is a fixed distance from the place where the piece (or the segment it continues) begins, so a
piece is laid out once and can be put behind anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from omni_rt.engine.qwen3_omni.positions import PositionCounter

Offsets = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a prompt.

    `offsets` float32 [3, n] are the positions from the anchor: where this piece begins, or with `continues` where the
    piece before it was anchored. `advance` is where the next piece begins, from the anchor. `features` [m, hidden] are
    for the rows `media` in order; `deepstack` [layers, v, hidden] for the rows `visual`. `talker_offsets` and
    `talker_advance`, where the talker counts otherwise.
    """

    ids: tuple[int, ...]
    offsets: Offsets
    advance: float
    media: tuple[int, ...] = ()
    visual: tuple[int, ...] = ()
    features: Tensor | None = None
    deepstack: Tensor | None = None
    continues: bool = False
    talker_offsets: Offsets | None = None
    talker_advance: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self) -> None:
        assert self.offsets.shape == (3, len(self.ids))
        assert (0 if self.features is None else len(self.features)) == len(self.media)
        assert (0 if self.deepstack is None else self.deepstack.shape[1]) == len(self.visual)


def line(n: int, start: float = 0.0) -> Offsets:
    """Positions of `n` rows that advance on all three axes, one a row."""
    return np.tile(np.arange(n, dtype=np.float32) + np.float32(start), (3, 1))


def text(ids: Sequence[int]) -> Piece:
    return Piece(tuple(ids), line(len(ids)), float(len(ids)))


def audio(pad: int, features: Tensor) -> Piece:
    """Audio tokens; `features` [n, hidden]."""
    n = len(features)
    return Piece((pad,) * n, line(n), float(n), media=tuple(range(n)), features=features)


def picture(
    pad: int, opening: Sequence[int], closing: Sequence[int], grid: tuple[int, int], features: Tensor, deepstack: Tensor
) -> Piece:
    """One picture with its markers. `grid` is in tokens (rows, columns); `features` [rows * columns, hidden];
    `deepstack` [layers, rows * columns, hidden]."""
    counter = PositionCounter(1)
    places = [counter.text(len(opening)), counter.image(*grid), counter.text(len(closing))]
    at = tuple(range(len(opening), len(opening) + len(features)))
    return Piece(
        (*opening, *(pad,) * len(features), *closing),
        np.concatenate(places, axis=1),
        counter.next,
        media=at,
        visual=at,
        features=features,
        deepstack=deepstack,
    )
