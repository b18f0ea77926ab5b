"""How long after it was sent the assistant's voice is heard."""

from __future__ import annotations

import numpy as np

from omni_rt.media.playback import Real

# Likeness is averaged over about 5 and 30 spectra of full weight; with less than so much weight nothing is likely.
_SHORT, _LONG = np.float32(0.8), np.float32(0.97)
_SHORT_LEAST, _LONG_LEAST = 2.5, 6.0

# A lag is certain when its likeness over the long span is more than _CERTAIN plus one part in so many spectra; where no
# echo is expected more is asked for. Speech of other people over a reply without echo, at its best of 64 lags, is
# below 0.45 after 8 spectra, below 0.41 after 12, below 0.28 after 28, 95 times in 100 each; an echo is above 0.53
# after 8 half the time, above 0.33 after 28 95 times in 100.
_CERTAIN, _CERTAIN_NEW, _CERTAIN_UNLIKELY = 0.3, 1.0, 2.0
# Over the short span, where the lag is not known, or known.
_SUSPECT, _AGREES, _LIKELY = 0.22, 0.3, 0.55
# Delays change by little more often than by much.
_NEAR, _LIKELY_NEAR = 10, 0.32
# By so much another delay must be better; and one that was only likely must become certain within so many spectra.
_BETTER = 0.08
_PROBATION = 30
# The tail of a room is like what was played a little earlier.
_TAIL = range(-1, 4)
# Silence after which what is heard is something new.
_PAUSE = 10


class Delay:
    """Listens for one voice at every lag at once. Lags are hops of 16 ms."""

    def __init__(self, lags: int) -> None:
        self.lag: int | None = None
        """Where the echo is, as far as it is known."""
        self.suspects = False
        """No lag is known, but at one the microphone may hear the echo just now."""
        self.elsewhere: int | None = None
        """Where it seems to be just now, if not at `lag`."""
        self.heard = 0.0
        """How much was heard since it was last silent, in spectra of full weight."""
        self.unlikely = False
        """There seems to be no echo: only what is certain is taken for one. Set from outside."""
        self._short = np.zeros(lags, np.float32)
        self._short_weight = 0.0
        self._long = np.zeros(lags, np.float32)
        self._long_weight = 0.0
        self._silent = 0
        self._probation = 0

    @property
    def agrees(self) -> bool:
        """Just now the microphone hears mainly the echo, at `lag`."""
        if self.lag is None:
            return False
        around = self._short[max(0, self.lag - 1) : self.lag + 2]
        return float(around.max()) > _AGREES * max(self._short_weight, _SHORT_LEAST)

    @property
    def hearing(self) -> bool:
        """The newest spectrum was sound."""
        return self._silent == 0

    def hear(self, likeness: Real, weight: float) -> None:
        """One spectrum of sound, its likeness to what was played at each lag; `weight` from 0 to 1."""
        self._short = _SHORT * self._short + np.float32(weight) * likeness
        self._short_weight = float(_SHORT) * self._short_weight + weight
        self._long = _LONG * self._long + np.float32(weight) * likeness
        self._long_weight = float(_LONG) * self._long_weight + weight
        self.heard += weight
        self._silent = 0
        self._decide()

    def hear_nothing(self) -> None:
        """One spectrum of silence."""
        self._silent += 1
        self.elsewhere = None
        if self._silent >= _PAUSE:
            self.heard = 0.0
            self._short *= _SHORT
            self._short_weight *= float(_SHORT)

    def _decide(self) -> None:
        best = int(self._long.argmax())
        certainty = self._certainty(best)
        newest = int(self._short.argmax())
        likely = float(self._short[newest]) / max(self._short_weight, _SHORT_LEAST)
        certain = _CERTAIN + (_CERTAIN_UNLIKELY if self.unlikely else _CERTAIN_NEW) / max(1.0, self._long_weight)
        if certainty > certain and (self.lag is None or certainty > self._certainty(self.lag) + _BETTER):
            self.lag, self._probation = best, 0
        elif self.lag is None and likely > _LIKELY and not self.unlikely:
            self.lag, self._probation = newest, _PROBATION
        elif self._probation and self.lag is not None:
            self._probation -= 1
            if self._certainty(self.lag) > certain:
                self._probation = 0
            elif not self._probation:
                self.lag = None
        self.suspects = self.lag is None and likely > _SUSPECT
        self.elsewhere = None
        if self.lag is not None and newest - self.lag not in _TAIL:
            near = abs(newest - self.lag) <= _NEAR
            self.elsewhere = newest if likely > (_LIKELY_NEAR if near else _LIKELY) else None

    def _certainty(self, lag: int) -> float:
        return float(self._long[lag]) / max(self._long_weight, _LONG_LEAST)
