"""How loud a reply was made at each moment: its sound beside what the local engine's voice says of the same text.

The voice makes the same sound of the same words each time, and a reply's packets leave one after the other without a
gap, so frame by frame the two can be compared. For a voice that is not ours nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from omni_rt.engine.local.clauses import ClauseCutter
from omni_rt.engine.local.tts import Voice
from tools.duplex.replies import HeardReply

_FRAME = OUTPUT_RATE // 50
# Below this, out of 32768, a frame of the voice says nothing of its gain.
_QUIET = 150.0
_SAME = 0.8
_LATEST = OUTPUT_RATE // 10
# A frame is ducked below this gain, and was not above the other.
DUCKED, FULL = 0.6, 0.75


@dataclass(frozen=True, slots=True)
class Gains:
    """Of each packet of a reply, its arrival and its gain; NaN where the voice is silent."""

    times: npt.NDArray[np.float64]
    gains: npt.NDArray[np.float64]

    def ducked_after(self, at: float, until: float) -> float | None:
        """When the first soft packet came after a moment at which the reply was in full voice. None if none came, or if
        too little was said around it to tell when."""
        known = ~np.isnan(self.gains)
        times, gains = self.times[known], self.gains[known]
        before = gains[(times > at - 0.5) & (times <= at)]
        if not len(before) or before[-1] < FULL:
            return None
        after = (times > at) & (times <= until)
        soft = np.flatnonzero(after & (gains < DUCKED))
        if not len(soft):
            return None
        first = int(soft[0])
        if first and times[first] - times[first - 1] > 0.07:
            return None
        return float(times[first])


def local_speech() -> Callable[[str], Pcm]:
    """The local engine's default voice, clause by clause as a reply is spoken."""
    voice = Voice("heart")

    def speak(text: str) -> Pcm:
        cutter = ClauseCutter()
        clauses = [*cutter.feed(text), *cutter.flush()]
        return np.concatenate([np.zeros(0, np.int16), *(voice.speak(clause).pcm for clause in clauses)])

    return speak


def gains(reply: HeardReply, speak: Callable[[str], Pcm]) -> Gains | None:
    """None if the reply's sound is not what `speak` makes of its text."""
    heard, known = reply.pcm.astype(np.float64), speak(reply.text).astype(np.float64)
    lag = _lag(heard, known)
    if lag is None:
        return None
    count = min((len(heard) - lag) // _FRAME, len(known) // _FRAME)
    if count < 5:
        return None
    ours = known[: count * _FRAME].reshape(count, _FRAME)
    theirs = heard[lag : lag + count * _FRAME].reshape(count, _FRAME)
    level = np.sqrt(np.mean(ours**2, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(level > _QUIET, np.sqrt(np.mean(theirs**2, axis=1)) / level, np.nan)
    packets = np.cumsum([0, *(len(sound.pcm) for sound in reply.sounds)])
    number = np.searchsorted(packets, np.arange(count) * _FRAME + lag, side="right") - 1
    times = np.array([sound.at for sound in reply.sounds])[np.minimum(number, len(reply.sounds) - 1)]
    return Gains(times, gain)


def _lag(heard: npt.NDArray[np.float64], known: npt.NDArray[np.float64]) -> int | None:
    """Samples by which what was heard lies behind what is known, by the first half second of it."""
    loud = np.flatnonzero(np.abs(known) > _QUIET)
    if not len(loud):
        return None
    begin = max(0, int(loud[0]) - _FRAME)
    part = known[begin : begin + OUTPUT_RATE // 2]
    if len(part) < OUTPUT_RATE // 5 or len(heard) < begin + len(part):
        return None
    window = heard[begin : begin + len(part) + _LATEST]
    products = np.correlate(window, part, mode="valid")
    lag = int(np.argmax(products))
    matched = window[lag : lag + len(part)]
    norm = float(np.linalg.norm(matched) * np.linalg.norm(part))
    return lag if norm and products[lag] / norm > _SAME else None
