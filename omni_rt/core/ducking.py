"""The reply is softer while something over it may be speech, before that is known."""

from __future__ import annotations

from omni_rt.core.actions import Action, Duck, Unduck
from omni_rt.core.ambient import Ambient
from omni_rt.core.timeline import Activity, EarlyActivity

# What is so many times as loud as it is around is worth a duck at this share of the probability that is worth one
# otherwise.
_LOUD, _SHARE = 3.0, 0.25
# The same of what is told early, and so is no echo, or goes on; down to the last share if it is so many times as like
# speech as what was heard before.
_EARLY_LOUD, _EARLY_SHARE, _LEAST_SHARE = 2.0, 0.12, 0.013
_LIKER = 5.0


class Ducking:
    """Whether the reply is ducked, and whether a sound is worth that where one of probability `least` is; None: never.

    Feed `hear` with each window, `hear_early` with what is told in between.
    """

    def __init__(self) -> None:
        self._ambient = Ambient()
        self._on = False

    def hear(self, window: Activity, least: float | None) -> bool:
        worth = self._worth(window, least, early=self._on)
        self._ambient.hear(window)
        return worth

    def hear_early(self, sound: EarlyActivity, least: float | None) -> bool:
        return self._worth(sound, least, early=True)

    def begin(self) -> list[Action]:
        began, self._on = not self._on, True
        return [Duck()] if began else []

    def end(self) -> list[Action]:
        ended, self._on = self._on, False
        return [Unduck()] if ended else []

    def _worth(self, sound: Activity | EarlyActivity, least: float | None, *, early: bool) -> bool:
        if least is None:
            return False
        louder = self._ambient.louder(sound.level)
        if early and louder > _EARLY_LOUD:
            least = min(_EARLY_SHARE * least, max(_LEAST_SHARE * least, _LIKER * self._ambient.speech))
        elif louder > _LOUD:
            least *= _SHARE
        return sound.speech >= least
