"""G.711: 8 kHz speech in 8 bits a sample, by µ-law or A-law, as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import Pcm

G711_RATE = 8000

_Codes = npt.NDArray[np.uint8]


def _ulaw_levels(code: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    flipped = ~code & 0xFF
    size = (((flipped & 0x0F) << 3) + 0x84 << ((flipped & 0x70) >> 4)) - 0x84
    return np.where(flipped & 0x80, -size, size)


def _alaw_levels(code: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    flipped = code ^ 0x55
    segment = (flipped & 0x70) >> 4
    step = ((flipped & 0x0F) << 4) + 8
    size = np.where(segment == 0, step, step + 0x100 << np.maximum(segment - 1, 0))
    return np.where(flipped & 0x80, size, -size)


class G711:
    """One of the two laws. `ULAW` and `ALAW` are all there are."""

    def __init__(self, levels: Callable[[npt.NDArray[np.int64]], Any], zero: int) -> None:
        """`levels` gives the sample value of each code, `zero` is the code of silence."""
        by_code = levels(np.arange(256))
        self._decoded: Pcm = by_code.astype(np.int16)
        codes = np.argsort(by_code, kind="stable")
        ordered = by_code[codes]
        # The standard's decision values lie halfway between its levels; a value on one belongs to the larger size.
        samples = np.arange(-32768, 32768)
        halves = (ordered[1:] + ordered[:-1]) / 2
        negative, positive = (np.searchsorted(halves, samples, side) for side in ("left", "right"))
        self._encoded: _Codes = codes[np.where(samples < 0, negative, positive)].astype(np.uint8)
        self._encoded[32768] = zero

    def decode(self, data: bytes) -> Pcm:
        """One int16 sample per byte."""
        return self._decoded[np.frombuffer(data, np.uint8)]

    def encode(self, pcm: Pcm) -> bytes:
        """One byte per sample: the code of the nearest level."""
        return self._encoded[pcm.astype(np.int32) + 32768].tobytes()


ULAW = G711(_ulaw_levels, 0xFF)
ALAW = G711(_alaw_levels, 0xD5)
