"""What people say to be heard over a reply, and what a listener murmurs, looked for in a clip whose words may be wrong.

Of each such phrase the recogniser's decoder tells how likely it would have written it. One that asks for quiet was said
if that is nearly as likely as what was written, and likelier than every murmur: noise is like all of them alike. A
murmur was, if it is hardly less likely than what was written. Words that are like no murmur at all are no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from omni_rt.core.stop_phrases import stop_phrases

LogProbabilities = npt.NDArray[np.float32]
Tokens = tuple[int, ...]

# A longer phrase is recognised better than it is spotted.
_WORDS = 2
_MURMURS = (
    *("Mm-hmm.", "Uh-huh.", "Hmm.", "Mm.", "Oh.", "Huh.", "Aha.", "Okay.", "Yeah.", "Yes.", "Right.", "Alright."),
    *("I see.", "Sure.", "Good.", "Great.", "Wow.", "Really?", "Exactly."),
)
# So many of them are looked at, those whose first token is likeliest. Of the phrases, six begin with "stop".
_PHRASES_LOOKED_AT, _MURMURS_LOOKED_AT = 8, 5
# Logarithms of how much likelier what was written may be than a phrase, and must be that than every murmur.
_BELOW, _ABOVE = 4.0, 1.5
# The same of a murmur, against what was written and every phrase.
_BELOW_MURMUR, _ABOVE_MURMUR = 2.0, 2.5
# What was written stands apart if it is so much likelier than every murmur.
_APART = 4.0


@dataclass(frozen=True, slots=True)
class Spotted:
    """The phrase or the murmur that was said, empty if neither, and whether what was written stands apart."""

    phrase: str = ""
    murmur: str = ""
    apart: bool = False


class Spotter:
    """Of English, for a vocabulary of sentencepiece's byte pairs in the order in which they merge."""

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        index = {piece: number for number, piece in enumerate(vocabulary)}
        wanted = sorted(phrase for phrase in stop_phrases("en") if len(phrase.split()) <= _WORDS)
        self._wanted = {tokens_of(f"{phrase.capitalize()}.", index): phrase for phrase in wanted}
        self._murmurs = {tokens_of(murmur, index): murmur for murmur in _MURMURS}

    def spot(
        self, first: LogProbabilities, written: float, score: Callable[[Sequence[Tokens]], Sequence[float]]
    ) -> Spotted:
        """What was said of these. `first` are the log-probabilities of a first token, `written` is that of all that was
        written, and `score` tells it of others."""

        def likeliest(phrases: Iterable[Tokens], least: float, most: int) -> list[Tokens]:
            likely = [tokens for tokens in phrases if first[tokens[0]] > least]
            return sorted(likely, key=lambda tokens: -float(first[tokens[0]]))[:most]

        wanted = likeliest(self._wanted, written - max(_BELOW, _BELOW_MURMUR + _ABOVE_MURMUR), _PHRASES_LOOKED_AT)
        murmurs = likeliest(self._murmurs, written - max(_APART, _BELOW + _ABOVE), _MURMURS_LOOKED_AT)
        scores = dict(zip((*wanted, *murmurs), score([*wanted, *murmurs]), strict=True)) if wanted or murmurs else {}
        phrase, phrased = _best(wanted, scores)
        murmur, murmured = _best(murmurs, scores)
        if phrased > max(written - _BELOW, murmured + _ABOVE):
            return Spotted(phrase=self._wanted[phrase])
        if murmured > max(written - _BELOW_MURMUR, phrased + _ABOVE_MURMUR):
            return Spotted(murmur=self._murmurs[murmur])
        return Spotted(apart=murmured < written - _APART)


def _best(phrases: Sequence[Tokens], scores: Mapping[Tokens, float]) -> tuple[Tokens, float]:
    return max(((tokens, scores[tokens]) for tokens in phrases), key=lambda each: each[1], default=((), -np.inf))


def tokens_of(text: str, index: dict[bytes, int]) -> Tokens:
    """The tokens of a text: from single letters on, the two neighbours are joined that make the piece of the lowest
    number, until none do. Raises KeyError for a letter that is no piece."""
    parts = [letter.encode() for letter in "▁" + text.replace(" ", "▁")]
    while True:
        joined = [index.get(one + other, len(index)) for one, other in pairwise(parts)]
        if not joined or min(joined) == len(index):
            return tuple(index[part] for part in parts)
        at = joined.index(min(joined))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
