"""One line of the exactness table: what was compared, the bound, the error seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """`error` is the largest error over `n` comparisons; a `bound` of None demands equality (an error of 0)."""

    what: str
    bound: float | None
    error: float
    n: int
    note: str = ""

    @property
    def holds(self) -> bool:
        """False too when nothing was compared or the error is not a number."""
        limit = 0.0 if self.bound is None else self.bound
        return self.n > 0 and not math.isnan(self.error) and self.error <= limit

    def __str__(self) -> str:
        limit = "equal" if self.bound is None else f"<= {self.bound:g}"
        text = f"{'ok  ' if self.holds else 'FAIL'}  {self.what}: {self.error:.2g} ({limit}, {self.n} compared)"
        return f"{text}; {self.note}" if self.note else text


def failures(lines: Iterable[Line]) -> list[str]:
    """The lines that do not hold, in words."""
    return [str(line) for line in lines if not line.holds]
