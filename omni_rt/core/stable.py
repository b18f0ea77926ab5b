"""Which words of a growing transcript can be told already."""

from __future__ import annotations


class StableWords:
    """Words that stood in two transcripts running are told once, in order; what is told is never taken back."""

    def __init__(self) -> None:
        self._last: list[str] = []
        self._told: list[str] = []

    def update(self, text: str) -> str:
        """The text to append to what was told; empty if nothing new is stable."""
        words = text.split()
        stable = 0
        for old, new in zip(self._last, words, strict=False):
            if old != new:
                break
            stable += 1
        self._last = words
        if words[: len(self._told)] != self._told or stable <= len(self._told):
            return ""
        fresh = words[len(self._told) : stable]
        delta = (" " if self._told else "") + " ".join(fresh)
        self._told += fresh
        return delta
