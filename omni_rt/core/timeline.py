"""The session's clock: milliseconds of microphone audio, counted in samples, and what hearing reports on it."""

from __future__ import annotations

from dataclasses import dataclass

RATE = 16_000
SAMPLES_PER_MS = RATE // 1000
# One judgement of voice activity covers this much audio.
WINDOW_MS = 32


@dataclass(frozen=True, slots=True)
class Activity:
    """One 32 ms window of microphone audio ending at `at_ms` is speech with probability `speech`. `level` is its root
    mean square out of 32768, without the assistant's echo; None if that is not known."""

    at_ms: int
    speech: float
    level: float | None = None


@dataclass(frozen=True, slots=True)
class EarlyActivity:
    """The same of the 32 ms up to `at_ms`, anywhere in a window: known sooner, and not always told."""

    at_ms: int
    speech: float
    level: float


@dataclass(frozen=True, slots=True)
class EndScore:
    """Judged on the audio up to `at_ms`, the user has finished the turn with this probability."""

    at_ms: int
    probability: float


Heard = Activity | EarlyActivity | EndScore
"""What hearing reports."""


class Timeline:
    """Counts 16 kHz samples; `now_ms` is where the session is."""

    def __init__(self) -> None:
        self._samples = 0

    def advance(self, samples: int) -> None:
        if samples < 0:
            raise ValueError(f"time does not run back: {samples} samples")
        self._samples += samples

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def now_ms(self) -> int:
        return self._samples // SAMPLES_PER_MS
