"""How long a person is waited for: learnt from the pauses that this person makes."""

from __future__ import annotations

from collections import deque

# What so many pauses have shown is believed.
_ENOUGH = 3
_KEPT = 8
# A pause may be so much longer than the longest lately.
_MARGIN = 1.4
# However short a person's pauses are, this share of the limit is waited for a doubtful end.
_LEAST = 0.75
# For so many turns a cut-in is remembered.
_REMEMBERED = 4


class Patience:
    """Of one session. All times in ms."""

    def __init__(self) -> None:
        self._pauses: deque[int] = deque(maxlen=_KEPT)
        self._cut_ms = 0
        self._cut_turns = 0

    def paused(self, pause_ms: int) -> None:
        """A silence inside a turn: the person went on."""
        self._pauses.append(pause_ms)

    def cut_in(self, pause_ms: int) -> None:
        """A turn was ended, and after this silence the person went on before anything was answered."""
        self.paused(pause_ms)
        self._cut_ms, self._cut_turns = max(pause_ms, self._cut_ms), _REMEMBERED

    def turn_ended(self) -> None:
        if self._cut_turns:
            self._cut_turns -= 1
            if not self._cut_turns:
                self._cut_ms = 0

    def limit_ms(self, most_ms: int) -> int:
        """Silence that ends a turn whatever else is known, at most `most_ms`."""
        if len(self._pauses) < _ENOUGH:
            return most_ms
        return round(min(most_ms, max(_LEAST * most_ms, _MARGIN * max(self._pauses))))

    def least_ms(self, usual_ms: int, most_ms: int) -> int:
        """Silence that is waited even when the turn seems to be over: `usual_ms`, longer after a cut-in."""
        return max(usual_ms, min(round(1.1 * self._cut_ms), most_ms // 2))
