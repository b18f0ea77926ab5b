"""The newest stretch of a session's microphone audio, addressed by the timeline."""

from __future__ import annotations

from collections import deque

import numpy as np

from omni_rt.core.timeline import SAMPLES_PER_MS
from omni_rt.engine.api import Pcm

EMPTY: Pcm = np.zeros(0, np.int16)


class AudioLog:
    """Keeps `keep_ms` of audio, or more while an utterance is open."""

    def __init__(self, keep_ms: int) -> None:
        self._keep = keep_ms * SAMPLES_PER_MS
        self._chunks: deque[tuple[int, Pcm]] = deque()
        self._end = 0

    def append(self, pcm: Pcm, keep_from_ms: int | None = None) -> None:
        """Add audio; what is older than the kept length and than `keep_from_ms` is forgotten."""
        self._chunks.append((self._end, pcm))
        self._end += len(pcm)
        oldest = self._end - self._keep
        if keep_from_ms is not None:
            oldest = min(oldest, keep_from_ms * SAMPLES_PER_MS)
        while self._chunks and self._chunks[0][0] + len(self._chunks[0][1]) <= oldest:
            self._chunks.popleft()

    def slice(self, from_ms: int, to_ms: int | None = None) -> Pcm:
        """Audio between two places of the timeline, as far as it is kept."""
        start = from_ms * SAMPLES_PER_MS
        end = self._end if to_ms is None else min(self._end, to_ms * SAMPLES_PER_MS)
        pieces = [
            pcm[max(0, start - at) : max(0, end - at)] for at, pcm in self._chunks if at < end and at + len(pcm) > start
        ]
        return np.concatenate(pieces) if pieces else EMPTY
