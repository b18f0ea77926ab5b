"""What a short sound over the assistant's speech means, by the words that were recognised in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Literal

from omni_rt.core.phrases import base_language, made_of, phrases, words
from omni_rt.core.stop_phrases import is_stop_phrase

Meaning = Literal["nothing", "backchannel", "stop", "words"]

# Sounds of somebody who listens, the same in all languages. Runs of a letter are one letter here.
_SOUNDS = phrases("m|h|hm|mh|mhm|uh|huh|uhuh|uhhuh|um|hum|ah|aha|oh|eh|er|ok|okay|ha|haha")

_BACKCHANNELS: Mapping[str, frozenset[str]] = {
    "en": phrases(
        "yeah|yea|yes|yep|yup|ya|right|all right|alright|that's right|sure|of course|exactly|indeed|absolutely",
        "definitely|totally|true|that's true|correct|i see|i c|i know|i understand|got it|i get it|gotcha|good|great",
        "nice|cool|fine|wow|really|oh really|interesting|makes sense|that makes sense|fair enough|go on|ooh|whoa",
        "very good|sounds good|perfect|wonderful|amazing|okay then",
    ),
    "de": phrases(
        "ja|jo|jep|jawohl|genau|richtig|stimmt|das stimmt|klar|na klar|gut|sehr gut|schön|alles klar|verstehe",
        "ich verstehe|ach so|achso|ach ja|natürlich|eben|super|toll|prima|interessant|wirklich|echt|na gut|sicher",
    ),
    "fr": phrases(
        "oui|ouais|mouais|d'accord|bien|très bien|c'est ça|exactement|exact|voilà|bien sûr|je vois|je comprends",
        "c'est vrai|ah bon|ah oui|super|génial|intéressant|vraiment|tout à fait|parfait|bon",
    ),
    "es": phrases(
        "sí|si|ya|ajá|claro|claro que sí|vale|bien|muy bien|bueno|exacto|exactamente|correcto|entiendo|ya veo",
        "de acuerdo|es verdad|verdad|cierto|por supuesto|perfecto|genial|interesante|de veras|ah sí",
    ),
    "it": phrases(
        "sì|si|già|certo|va bene|bene|molto bene|esatto|esattamente|giusto|capisco|ho capito|d'accordo|è vero",
        "vero|davvero|perfetto|ottimo|interessante|bello|ah sì|certamente",
    ),
}

# What recognisers write for noise: nobody says just this over somebody else's speech.
_FROM_NOISE: Mapping[str, frozenset[str]] = {"en": phrases("you|thank you for watching")}

# Words that begin with fewer letters alike are not like each other.
_ALIKE = 3

_REMARK = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|<[^<>]*>|\*[^*]*\*|♪[^♪]*♪?")
_RUN = re.compile(r"([^\W\d_])\1+")
_LONG_RUN = re.compile(r"([^\W\d_])\1\1+")


def classify(text: str, language: str) -> Meaning:
    """What somebody wants who says `text`, the words of a short clip, while the assistant speaks.

    `nothing`: no words, or what a recogniser makes of noise ("(coughs)"). `backchannel`: go on, I listen ("mm-hm",
    "yeah, right"). `stop`: be quiet or wait ("okay stop please"). `words`: anything else. `language` is a tag such as
    "en" or "en-US"; "" means English; in one without a table only sounds ("mm-hm", "okay") are a backchannel.
    """
    tag = base_language(language)
    said = [_plain(word) for word in words(_REMARK.sub(" ", text))]
    if not said or made_of(said, _FROM_NOISE.get(tag, ())):
        return "nothing"
    heard = _Listening(_BACKCHANNELS.get(tag, frozenset()))
    if made_of(said, heard):
        return "backchannel"
    if is_stop_phrase(" ".join(said), language, heard):
        return "stop"
    return "words"


def repeats(text: str, spoken: str) -> bool:
    """Whether `text` is what a recogniser makes of a piece of `spoken`: two words of three stand there in a row, or
    words that begin like them ("story" for "storm"), as a clip may end within a word."""
    said, of = words(text), words(spoken)
    rows = (of[start : start + len(said)] for start in range(len(of) - len(said) + 1))
    return bool(said) and any(3 * sum(map(_alike, said, row)) >= 2 * len(said) for row in rows)


def _alike(one: str, other: str) -> bool:
    same = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(one, other, strict=False)))
    return one == other or (same >= _ALIKE and 3 * same >= 2 * max(len(one), len(other)))


def _plain(word: str) -> str:
    """Without drawl: "yeahhh" as "yeah"."""
    return _LONG_RUN.sub(r"\1", word)


class _Listening:
    """The backchannels of a language: its table, and sounds however long drawn."""

    def __init__(self, table: frozenset[str]) -> None:
        self._table = table

    def __contains__(self, phrase: object) -> bool:
        return phrase in self._table or (isinstance(phrase, str) and _RUN.sub(r"\1", phrase) in _SOUNDS)
