"""How long nobody has spoken since the assistant was heard."""

from __future__ import annotations

from omni_rt.core.actions import TimeOut


class Idleness:
    """`from_ms` is where the latest reply had been heard, while nobody has spoken since."""

    def __init__(self) -> None:
        self._rested = False
        self.from_ms: int | None = None

    def begin(self) -> None:
        """A reply is over; the silence counts from the next window that is heard."""
        self._rested, self.from_ms = True, None

    def end(self) -> None:
        """Somebody speaks, or nobody is listened to."""
        self._rested, self.from_ms = False, None

    def judge(self, now_ms: int, limit_ms: int | None) -> TimeOut | None:
        """A window without speech, which ends at `now_ms`, was heard."""
        if not self._rested:
            return None
        if self.from_ms is None:
            self.from_ms = now_ms
        if limit_ms is None or now_ms - self.from_ms < limit_ms:
            return None
        return TimeOut(self.from_ms, now_ms)
