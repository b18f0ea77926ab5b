"""Whether what somebody said is made of known phrases and nothing else."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

LONGEST = 5
"""Most words of a phrase."""

_NOT_WORDS = re.compile(r"[^\w']+")


def phrases(*lines: str) -> frozenset[str]:
    """A table from lines of phrases with `|` between them."""
    return frozenset("|".join(lines).split("|"))


def words(text: str) -> list[str]:
    """The words of `text` in lower case, as the tables write them; a hyphen parts two words."""
    return [word for piece in _NOT_WORDS.split(text.lower().replace("’", "'")) if (word := piece.strip("'_"))]


def base_language(language: str) -> str:
    """`en` of a tag such as `en-US`; "" means English."""
    return language.lower().partition("-")[0] or "en"


def made_of(said: Sequence[str], needed: Container[str], *beside: Container[str]) -> bool:
    """Whether the words split into phrases of `needed`, at least one, and phrases of the tables `beside`."""
    reached = {0: False}
    for start in range(len(said)):
        if start not in reached:
            continue
        for end in range(start + 1, min(start + LONGEST, len(said)) + 1):
            phrase = " ".join(said[start:end])
            if phrase in needed:
                reached[end] = True
            elif any(phrase in table for table in beside):
                reached[end] = reached.get(end, False) or reached[start]
    return reached.get(len(said), False)
