"""What people say to be heard over a reply, and what a listener murmurs, looked for in a clip whose words may be wrong.

Of each such phrase the recogniser's decoder tells how likely it would have written it. One that asks for quiet was said
if that is nearly as likely as what was written, and far likelier than every murmur: noise is like all of them alike.
A murmur was, if it is not much less likely than what was written, as that is seldom said over a reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
# So many of both are looked at, those whose first token is likeliest.
_LOOKED_AT = 5
# Logarithms of how much likelier what was written may be than the phrase, and must be the phrase than every murmur.
_BELOW, _ABOVE = 3.0, 2.5
# Of how much likelier it may be than a murmur.
_BELOW_MURMUR = 4.5


class Spotter:
    """Of English, for a vocabulary of sentencepiece's byte pairs in the order in which they merge."""

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        index = {piece: number for number, piece in enumerate(vocabulary)}
        wanted = sorted(phrase for phrase in stop_phrases("en") if len(phrase.split()) <= _WORDS)
        self._wanted = {tokens_of(f"{phrase.capitalize()}.", index): phrase for phrase in wanted}
        self._murmurs = {tokens_of(murmur, index): murmur for murmur in _MURMURS}

    def spot(
        self, first: LogProbabilities, written: float, score: Callable[[Sequence[Tokens]], Sequence[float]]
    ) -> str:
        """The phrase or murmur that was said; empty if it was none. `first` are the log-probabilities of a first token,
        `written` is that of all that was written, and `score` tells it of others."""

        def likeliest(phrases: Iterable[Tokens], least: float) -> list[Tokens]:
            likely = [tokens for tokens in phrases if first[tokens[0]] > least]
            return sorted(likely, key=lambda tokens: -float(first[tokens[0]]))[:_LOOKED_AT]

        wanted = likeliest(self._wanted, written - _BELOW)
        murmurs = likeliest(self._murmurs, -np.inf if wanted else written - _BELOW_MURMUR)
        if not murmurs:
            return ""
        scores = dict(zip((*wanted, *murmurs), score([*wanted, *murmurs]), strict=True))
        murmur = max(murmurs, key=scores.__getitem__)
        phrase = max(wanted, key=scores.__getitem__, default=None)
        if phrase and scores[phrase] > written - _BELOW and scores[phrase] > scores[murmur] + _ABOVE:
            return self._wanted[phrase]
        return self._murmurs[murmur] if scores[murmur] > written - _BELOW_MURMUR else ""


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
