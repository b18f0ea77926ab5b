"""The reply is softer while something over it may be speech, before that is known."""

from __future__ import annotations

from omni_rt.core.actions import Action, Duck, Unduck
from omni_rt.core.ambient import Ambient
from omni_rt.core.timeline import Activity, EarlyActivity

# What stands out from the noise around is worth a duck at this share of the probability that is worth one otherwise.
_LIKELIER = 0.25


class Ducking:
    """Whether the reply is ducked, and how likely it is that a sound deserves that, 0 to 1 and more."""

    def __init__(self) -> None:
        self._ambient = Ambient()
        self._on = False

    def weigh(self, window: Activity) -> float:
        """Of the next window; each is told once."""
        return _weighed(window.speech, self._ambient.hear(window.level))

    def weigh_early(self, sound: EarlyActivity) -> float:
        return _weighed(sound.speech, self._ambient.stands_out(sound.level))

    def begin(self) -> list[Action]:
        began, self._on = not self._on, True
        return [Duck()] if began else []

    def end(self) -> list[Action]:
        ended, self._on = self._on, False
        return [Unduck()] if ended else []


def _weighed(speech: float, stands_out: bool) -> float:
    return speech / _LIKELIER if stands_out else speech
