"""Speech faster or slower at the same pitch, by libavfilter."""

from __future__ import annotations

from fractions import Fraction

import av
import av.error
import numpy as np
from av.filter import Graph

from omni_rt.engine.api import Pcm

SLOWEST, FASTEST = 0.25, 1.5
# The filter holds back as much as it is given at once, so it is given little: samples.
_FRAME = 480
# What one atempo filter does at the slowest.
_STEP = 0.5


class Tempo:
    """Streaming, for mono int16 at `rate`: feed pieces of any length, take what has come out so far. At speed 1 audio
    passes as it is; otherwise 50 to 200 ms stay inside until `flush`."""

    def __init__(self, rate: int, speed: float) -> None:
        if not SLOWEST <= speed <= FASTEST:
            raise ValueError(f"a speed is from {SLOWEST} to {FASTEST}, not {speed}")
        self._rate = rate
        self._pts = 0
        self._graph = None if speed == 1.0 else _graph(rate, speed)

    def feed(self, pcm: Pcm) -> Pcm:
        if self._graph is None or not len(pcm):
            return pcm
        for start in range(0, len(pcm), _FRAME):
            piece = np.ascontiguousarray(pcm[start : start + _FRAME], np.int16)
            frame = av.AudioFrame.from_ndarray(piece[None, :], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._pts, Fraction(1, self._rate)
            self._pts += len(piece)
            self._graph.push(frame)
        return self._pull(self._graph)

    def flush(self) -> Pcm:
        """What stayed inside; the object is spent after this."""
        if self._graph is None or not self._pts:
            return np.zeros(0, np.int16)
        self._graph.push(None)
        return self._pull(self._graph)

    def _pull(self, graph: Graph) -> Pcm:
        pieces = [np.zeros(0, np.int16)]
        while True:
            try:
                frame = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return np.concatenate(pieces)
            assert isinstance(frame, av.AudioFrame)
            pieces.append(frame.to_ndarray()[0].astype(np.int16, copy=False))


def _graph(rate: int, speed: float) -> Graph:
    factors = [speed] if speed >= _STEP else [_STEP, speed / _STEP]
    graph = Graph()
    source = graph.add_abuffer(format="s16", sample_rate=rate, layout="mono", time_base=Fraction(1, rate))
    links = [source, *(graph.add("atempo", f"{factor:.6f}") for factor in factors), graph.add("abuffersink")]
    graph.link_nodes(*links).configure()
    return graph
