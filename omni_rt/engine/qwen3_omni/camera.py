"""Which of a camera's frames are shown to the model, and where among the audio.

Two ways of mixing camera and microphone. In separate segments (`Snapshots`) a picture or a pair comes whenever it is
ready, and the audio goes on behind it in another segment. In one segment interleaved by time (`PairSlots`) pairs stand
at equal distances from the segment's start, and audio tokens wait for the pairs of their time: `Interleave` has the
order, which these pairs feed.

Times are ms on one clock that the caller chooses, such as the audio of the session; they come in no particular order.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

from omni_rt.engine.api import Rgb


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame, or two of one shape; `at_ms` is the time of the first."""

    frames: tuple[Rgb, ...]
    at_ms: float


class Snapshots:
    """The newest frames, at most one shot every `every_ms`.

    With `pairs` a shot is two frames, the second at least half of `every_ms` after the first. A second frame that does
    not come within `every_ms`, or has another shape, is made up for by the first one shown twice.
    """

    def __init__(self, every_ms: float, *, pairs: bool = False) -> None:
        self._every = every_ms
        self._pairs = pairs
        self._due = float("-inf")
        self._newest: Shot | None = None
        self._first: Shot | None = None

    def show(self, rgb: Rgb, at_ms: float) -> None:
        """A frame of the camera; replaces an older one that was not taken."""
        if self._newest is None or at_ms >= self._newest.at_ms:
            self._newest = Shot((rgb,), at_ms)

    def take(self, now_ms: float, *, closing: bool = False) -> Shot | None:
        """The next shot if it is ready; when `closing` whatever was begun or not taken yet is."""
        if self._first is None:
            newest = self._newest
            if newest is None or (newest.at_ms < self._due and not closing):
                return None
            self._newest, self._due = None, newest.at_ms + self._every
            if not self._pairs:
                return newest
            self._first = newest
        return self._second(self._first, now_ms, closing)

    def ready(self, now_ms: float, *, closing: bool = False) -> bool:
        """Whether `take` would give a shot."""
        if self._newest is None and self._first is None:
            return False
        return copy(self).take(now_ms, closing=closing) is not None

    def _second(self, first: Shot, now_ms: float, closing: bool) -> Shot | None:
        later = self._newest
        if later is not None and later.at_ms >= first.at_ms + self._every / 2:
            self._first = None
            if later.frames[0].shape != first.frames[0].shape:
                return Shot(first.frames * 2, first.at_ms)
            self._newest = None
            return Shot(first.frames + later.frames, first.at_ms)
        if closing or now_ms >= first.at_ms + self._every:
            self._first = None
            return Shot(first.frames * 2, first.at_ms)
        return None


class PairSlots:
    """The pairs of one segment that begins at `start_ms`: pair i is due `pair_ms` * i later.

    A pair is the frames nearest to its time and to half a slot after it, as in a clip of two frames every `pair_ms`;
    a frame that is missing is made up for by the one before it, or else by the one after it. All frames of a segment
    have one shape. At most two frames are kept for every slot that was not taken.
    """

    def __init__(self, start_ms: float, pair_ms: float) -> None:
        self._start = start_ms
        self._pair = pair_ms
        self._near: dict[int, Shot] = {}
        self._held: Shot | None = None
        self._shape: tuple[int, ...] | None = None
        self.taken = 0
        """Pairs taken so far."""

    def show(self, rgb: Rgb, at_ms: float) -> bool:
        """A frame of the camera. False if it has another shape than the first: then it needs a segment of its own."""
        if self._shape is None:
            self._shape = rgb.shape
        if rgb.shape != self._shape:
            return False
        shot = Shot((rgb,), at_ms)
        place = max(0, round((at_ms - self._start) / (self._pair / 2)))
        if place < 2 * self.taken:
            self._hold(shot)
        elif place not in self._near or self._distance(shot, place) <= self._distance(self._near[place], place):
            self._near[place] = shot
        return True

    def copy(self) -> PairSlots:
        """One that goes on independently; frames are shared."""
        other = copy(self)
        other._near = dict(self._near)
        return other

    def take(self, now_ms: float, *, closing: bool = False) -> Shot | None:
        """The next pair: when both its frames are there and their times have come, or when its slot is over; if
        `closing`, as soon as its own time has come and a frame is there. None too while no frame was ever shown."""
        place = 2 * self.taken
        due = self._start + self._pair * self.taken
        first, second = self._near.get(place), self._near.get(place + 1)
        halves = 0 if closing and (first or second) else 1 if first and second else 2
        if now_ms < due + halves * self._pair / 2:
            return None
        first = first or self._held or self._near.get(min(self._near, default=place))
        if first is None:
            return None
        second = second or first
        self._near.pop(place, None)
        self._near.pop(place + 1, None)
        self._hold(first)
        self._hold(second)
        self.taken += 1
        return Shot(first.frames + second.frames, due)

    def _hold(self, shot: Shot) -> None:
        if self._held is None or shot.at_ms >= self._held.at_ms:
            self._held = shot

    def _distance(self, shot: Shot, place: int) -> float:
        return abs(shot.at_ms - self._start - place * self._pair / 2)
