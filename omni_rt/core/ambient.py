"""What was heard of late, which a new sound is held against."""

from __future__ import annotations

from collections import deque
from statistics import median

from omni_rt.core.timeline import WINDOW_MS, Activity

_MEMORY = 2048 // WINDOW_MS


class Ambient:
    """Of the latest two seconds. Feed `hear` with each window."""

    def __init__(self) -> None:
        self._levels: deque[float] = deque(maxlen=_MEMORY)
        self._speech: deque[float] = deque(maxlen=_MEMORY)

    def hear(self, window: Activity) -> None:
        self._speech.append(window.speech)
        if window.level is not None:
            self._levels.append(window.level)

    def louder(self, level: float | None) -> float:
        """How many times as loud a sound is as the quietest window; 0 if that is not known."""
        return level / max(min(self._levels), 1.0) if level is not None and self._levels else 0.0

    @property
    def speech(self) -> float:
        """The probability of speech that a window has, the median; 1 if nothing was heard yet."""
        return median(self._speech) if self._speech else 1.0
