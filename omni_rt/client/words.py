"""Comparing what was said with what was understood, word by word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_ONES = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_SAME = {"mr": "mister", "mrs": "missus", "dr": "doctor", "ok": "okay"}


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Words inserted, deleted or replaced among `words` that were said."""

    edits: int = 0
    words: int = 0

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(self.edits + other.edits, self.words + other.words)

    @property
    def rate(self) -> float:
        """Edits per word said; above 1 when much was made up, and 1 a word when nothing was said."""
        return self.edits / max(1, self.words)


def word_errors(said: str, understood: str) -> WordErrors:
    """The fewest edits between two texts after both were normalised."""
    expected = normalise(said)
    return WordErrors(edits(expected, normalise(understood)), len(expected))


def edits(said: Sequence[str], understood: Sequence[str]) -> int:
    """Words to insert, delete or replace to get from one to the other."""
    row = list(range(len(understood) + 1))
    for i, word in enumerate(said, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(understood, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def word_error_rate(said: str, understood: str) -> float:
    return word_errors(said, understood).rate


def normalise(text: str) -> list[str]:
    """Lower-case words without punctuation; numbers below a million are spelt out, hyphens part words."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"(?<=\w)['’](?=\w)", "", plain)
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain)
    found: list[str] = []
    for word in re.findall(r"\d+|[^\W\d_]+", plain):
        if word.isdecimal() and len(word) <= 6:
            found += spell(int(word))
        else:
            found.append(_SAME.get(word, word))
    return found


def spell(number: int) -> list[str]:
    """A number from 0 to 999 999 as English words."""
    for unit, name in ((1000, "thousand"), (100, "hundred")):
        if number >= unit:
            rest = spell(number % unit) if number % unit else []
            return [*spell(number // unit), name, *rest]
    if number < 20:
        return [_ONES[number]]
    return [_TENS[number // 10 - 2], *([_ONES[number % 10]] if number % 10 else [])]
