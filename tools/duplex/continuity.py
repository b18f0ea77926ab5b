"""Whether a reply that was softened, held and let go on lost or repeated any of its sound: every packet's place in the
sound of the whole reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from tools.duplex.gain import find, root_mean_square
from tools.duplex.replies import HeardReply

Wave = npt.NDArray[np.float64]

# What is heard is counted in blocks of 5 ms, as a held reply ends and goes on inside packets. One is audible above
# this, out of 32768; in full voice that is all of the voice that is as loud, ducked only what is above the other.
_BLOCK = OUTPUT_RATE // 200
_AUDIBLE, _AUDIBLE_DUCKED = 30.0, 150.0
# Packets that are looked for together, and how alike they must be to the voice after Opus, of 1: where they are
# expected, and elsewhere, as a voice is like itself a little later and says the same words in the same way.
_TOGETHER, _SAME = 4, 0.7
_TOGETHER_MOVED, _MOVED = 8, 0.9
# Packets at the edges of a silence that are partly silent.
_EDGES = 2
# How far from where it is expected, behind and before, a sound is looked for; and how far it may be off there.
_BACK_S, _ON_S, _OFF_S = 1.0, 2.5, 0.01
# What is told of sounds that begin or end within packets is not better known than this.
_UNSURE_MS = 40.0


@dataclass(frozen=True, slots=True)
class Continuity:
    """Of the voice, without its pauses: what never came, and what came twice."""

    lost_ms: float
    repeated_ms: float


def continuity(reply: HeardReply, speak: Callable[[str], Pcm]) -> Continuity | None:
    """From a reply's first sound to its last. None if it is not what `speak` makes of its text."""
    if len({len(sound.pcm) for sound in reply.sounds}) != 1:
        return None
    heard = np.array([sound.pcm for sound in reply.sounds], np.float64)
    size, known = heard.shape[1], speak(reply.text).astype(np.float64)
    sounding = root_mean_square(heard) > _AUDIBLE
    lost = repeated = 0.0
    after = number = last = 0
    while number + _TOGETHER <= len(heard):
        since = range(max(0, int(sounding[last:number].sum()) - _EDGES) * size, (number - last) * size)
        at = _place(heard[number:], sounding[number:], known, after, since)
        if at is None:
            number += 1
            continue
        came = _loud_ms(heard[last:number].ravel(), _AUDIBLE)
        missing = _between_ms(known, after, at, _AUDIBLE_DUCKED) - came
        again = came - _between_ms(known, after, at, _AUDIBLE)
        lost += missing if missing > _UNSURE_MS else 0.0
        repeated += again if again > _UNSURE_MS else 0.0
        number = last = number + _TOGETHER
        after = at + _TOGETHER * size
    return Continuity(lost, repeated) if after else None


def _loud_ms(sound: Wave, least: float) -> float:
    blocks = sound[: len(sound) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    return int((root_mean_square(blocks) > least).sum()) * _BLOCK * 1000 / OUTPUT_RATE


def _between_ms(known: Wave, begin: int, end: int, least: float) -> float:
    """How much of the voice is as loud from one place to another; negative on the way back."""
    return _loud_ms(known[begin:end], least) - _loud_ms(known[end:begin], least)


def _place(heard: Wave, sounding: npt.NDArray[np.bool_], known: Wave, after: int, came: range) -> int | None:
    """Where in what is known the next packets lie. The latest that were found ended at `after`, and they are expected
    as far behind it as samples `came` since, of which only those that sound must belong to the voice. They are looked
    for elsewhere once more came than is looked for, as sound is like itself nowhere where its loudness changes."""
    off, back, on = (round(seconds * OUTPUT_RATE) for seconds in (_OFF_S, _BACK_S, _ON_S))
    begin, end = after + came.start - off, after + came.stop + off
    exactly = len(came) <= _EDGES * heard.shape[1]
    at = _find(heard, sounding, known, begin, end, _TOGETHER, _SAME) if exactly else None
    if at is None:
        at = _find(heard, sounding, known, begin, end, _TOGETHER_MOVED, _SAME if exactly else _MOVED)
    if at is None and came.stop >= _TOGETHER_MOVED * heard.shape[1]:
        at = _find(heard, sounding, known, after - back, after + on, _TOGETHER_MOVED, _MOVED)
    return at


def _find(
    heard: Wave, sounding: npt.NDArray[np.bool_], known: Wave, begin: int, end: int, together: int, least: float
) -> int | None:
    """The place from `begin` to `end` at which the first packets lie, if all of them sound."""
    if len(heard) < together or not sounding[:together].all():
        return None
    part, begin = heard[:together].ravel(), max(0, begin)
    at = find(part, known[begin : end + len(part)], least)
    return None if at is None else begin + at
