"""What sessions ask of the machine that computes: rows to read, tokens to choose, frames to speak.

A request says all there is to do and changes nothing, so that requests of several sessions can be one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omni_rt.engine.api import Pcm
from omni_rt.engine.qwen3_omni.kv_cache import KVCache

Places = NDArray[np.float32]
"""Positions [3, n]."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Rows of a chunk that the talker hears: which ones (`rows`), which of these stand for media (`media`), where they
    lie; they go behind the first `known` rows of `cache`."""

    cache: KVCache
    known: int
    rows: Sequence[int]
    media: Sequence[int]
    positions: Places


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next rows of one sequence: `ids` at `positions`, behind all that `cache` holds.

    The rows `at` are given by `features` [m, hidden] instead of their ids; `deepstack` [layers, v, hidden] is added to
    the rows `visual`. `taken` hears the last row's hidden state [hidden] when the caches hold the rows.
    """

    cache: KVCache
    ids: Sequence[int]
    positions: Places
    taken: Callable[[Tensor], None]
    features: Tensor | None = None
    at: Sequence[int] = ()
    deepstack: Tensor | None = None
    visual: Sequence[int] = ()
    listening: Listening | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Choice:
    """How to choose the next token: `temperature` 0 is greedy; `allowed` names a set of tokens of the machine;
    `uniform` in [0, 1) is the number to draw with."""

    temperature: float
    allowed: str
    uniform: float


@dataclass(eq=False, slots=True)
class Line:
    """One spoken reply behind the first `rows` rows of a session's talker cache, beginning at `position`.

    `frames` counts those that became sound. `state` is the machine's own; None before it has begun and when it is over.
    """

    cache: KVCache
    rows: int
    position: float
    voice: str
    frames: int = 0
    state: object | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Read a chunk, then choose a token by `choice`, from the chunk's last row or, without a chunk, from `hidden`.

    `line` is a spoken reply that begins behind the chunk: the rows of it that no token changes are prefilled.
    """

    chunk: Chunk | None = None
    hidden: Tensor | None = None
    choice: Choice | None = None
    line: Line | None = None

    @property
    def rows(self) -> int:
        return len(self.chunk) if self.chunk is not None else 0

    @property
    def decoding(self) -> bool:
        """Whether it reads no more than the token before: a far cheaper pass than any other."""
        chunk = self.chunk
        return chunk is None or (len(chunk) == 1 and chunk.features is None and chunk.listening is None)


@dataclass(frozen=True, slots=True)
class Frame:
    """The next 80 ms of a line, with the text row of `token`; `over` instead: "eos" once after the last token, then
    "pad". `uniform` float32 [16] in [0, 1)."""

    line: Line
    token: int | None
    over: str
    uniform: Tensor


@dataclass(frozen=True, slots=True)
class Made:
    """A frame's sound, 24 kHz; `ended`: the talker has ended the line instead, and there is none."""

    pcm: Pcm | None
    ended: bool


Request = Read | Frame
Result = int | Made | None | Exception
"""Of a read the token that was chosen, or None; of a frame what was made; the error of a request that failed alone."""
