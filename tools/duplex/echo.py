"""The assistant's own voice on its way from the loudspeaker back into the microphone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.reply_queue import FRAME_MS

# Jitter buffer, loudspeaker, the air and the microphone's own buffer.
DELAY_S = 0.12
# Straight and from the walls: seconds later, and how loud.
_ROOM = ((0.0, 1.0), (0.011, 0.45), (0.023, 0.35), (0.041, 0.22))
_FRAME_OUT = OUTPUT_RATE * FRAME_MS // 1000
_FRAME_IN = INPUT_RATE * FRAME_MS // 1000
_MEMORY = 8 * OUTPUT_RATE
# Sound that is no more off than this follows the sound before it, as in a loudspeaker's buffer.
_JITTER = OUTPUT_RATE * 6 // 100


class Echo:
    """Takes the 24 kHz sound that arrives and gives it back at 16 kHz, `level_db` softer and `DELAY_S` later.

    All times are seconds of one clock.
    """

    def __init__(self, level_db: float) -> None:
        gain = 10 ** (level_db / 20) / float(np.sqrt(sum(loud**2 for _, loud in _ROOM)))
        self._taps = [(round(late * OUTPUT_RATE), gain * loud) for late, loud in _ROOM]
        self._ring = np.zeros(_MEMORY)
        self._end: int | None = None
        self._cursor: int | None = None

    def hear(self, at: float, pcm: Pcm) -> None:
        """The loudspeaker plays this from `at` on, or after what it plays."""
        place = round(at * OUTPUT_RATE)
        if self._end is None or abs(place - self._end) > _JITTER:
            self._wipe(place if self._end is None else min(place, self._end), place)
            self._end = place
        places = (self._end + np.arange(len(pcm))) % _MEMORY
        self._ring[places] = pcm
        self._end += len(pcm)

    def take(self, now: float) -> npt.NDArray[np.float64]:
        """What of it the microphone has caught in the 20 ms before `now`."""
        due = round((now - DELAY_S) * OUTPUT_RATE) - _FRAME_OUT
        if self._cursor is None or abs(due - self._cursor) > _JITTER:
            self._cursor = due
        places = self._cursor + np.arange(_FRAME_OUT)
        self._cursor += _FRAME_OUT
        if self._end is None:
            return np.zeros(_FRAME_IN)
        caught = np.zeros(_FRAME_OUT)
        for late, gain in self._taps:
            at = places - late
            caught += gain * np.where((at < self._end) & (at >= self._end - _MEMORY), self._ring[at % _MEMORY], 0.0)
        return np.interp(np.arange(_FRAME_IN) * OUTPUT_RATE / INPUT_RATE, np.arange(_FRAME_OUT), caught)

    def _wipe(self, begin: int, end: int) -> None:
        self._ring[np.arange(max(begin, end - _MEMORY), end) % _MEMORY] = 0.0
