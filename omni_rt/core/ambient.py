"""How loud it is around the microphone when nobody speaks, and what stands out from that."""

from __future__ import annotations

from collections import deque

from omni_rt.core.timeline import WINDOW_MS

_MEMORY = 2048 // WINDOW_MS
# Of the quietest window in memory.
_STANDS_OUT = 3.0


class Ambient:
    """Feed `hear` with the level of each window, root mean square out of 32768; None if it is not known."""

    def __init__(self) -> None:
        self._levels: deque[float] = deque(maxlen=_MEMORY)

    def hear(self, level: float | None) -> bool:
        """Whether this window is far louder than the quietest of the two seconds before it."""
        if level is None:
            return False
        stands_out = self.stands_out(level)
        self._levels.append(level)
        return stands_out

    def stands_out(self, level: float) -> bool:
        """The same of a sound that is not remembered."""
        return bool(self._levels) and level > _STANDS_OUT * min(self._levels)
