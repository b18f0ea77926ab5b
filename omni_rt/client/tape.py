"""A recording of arriving sound as a listener would hear it."""

from __future__ import annotations

import numpy as np

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from omni_rt.transport.caller import Arrival

_LATE_S = 0.06


class Tape:
    """What comes late stays late, what never comes is silence; a network's jitter, under 60 ms, is neither."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, Pcm]] = []
        self._started: float | None = None
        self._end = 0

    def start(self, at: float) -> None:
        """Begin at this `perf_counter` time; nothing is recorded before."""
        self._started, self._end = at, 0
        self._pieces.clear()

    def add(self, arrival: Arrival) -> None:
        """Record 24 kHz sound at the time it arrived, or where the sound before it ends."""
        if self._started is None or arrival.at < self._started:
            return
        place = round((arrival.at - self._started) * OUTPUT_RATE)
        start = place if not self._pieces or place - self._end > _LATE_S * OUTPUT_RATE else self._end
        self._pieces.append((start, arrival.pcm))
        self._end = start + len(arrival.pcm)

    def pcm(self) -> Pcm:
        """24 kHz mono from the beginning to the last arrival."""
        out = np.zeros(self._end, np.int16)
        for start, pcm in self._pieces:
            out[start : start + len(pcm)] = pcm
        return out
