"""Words that tell the assistant to be quiet, understood without the chat model."""

from __future__ import annotations

import re
from collections.abc import Mapping


def _table(*lines: str) -> frozenset[str]:
    return frozenset("|".join(lines).split("|"))


_PHRASES: Mapping[str, frozenset[str]] = {
    "en": _table(
        "stop|stop it|stop that|stop talking|stop speaking|stop now|please stop|you can stop",
        "wait|wait a minute|wait a moment|wait a second|wait a sec|hold on|hold on a second|hold on a minute",
        "hold on a moment|hang on|hang on a second|hang on a minute",
        "one moment|one second|just a second|just a minute|just a moment|pause",
        "quiet|be quiet|keep quiet|silence|hush|shush|shh|shut up|be silent",
        "never mind|nevermind|forget it|forget about it|cancel|cancel that",
        "enough|that's enough|that is enough|that'll do|no more",
    ),
    "de": _table(
        "stopp|stop|halt|halt mal|hör auf|aufhören|warte|warte mal|moment|einen moment|moment mal|ruhe|sei still",
        "sei ruhig|still|leise|vergiss es|egal|schon gut|genug|es reicht|das reicht|abbrechen",
    ),
    "fr": _table(
        "stop|arrête|arrêtez|arrête toi|attends|attendez|un instant|un moment|une seconde|silence|chut|tais toi",
        "taisez vous|laisse tomber|peu importe|oublie|assez|ça suffit|annule",
    ),
    "es": _table(
        "para|parar|alto|basta|detente|espera|espere|un momento|un segundo|silencio|cállate|calla|déjalo",
        "no importa|olvídalo|ya basta|suficiente|cancela",
    ),
    "it": _table(
        "stop|fermati|ferma|basta|aspetta|aspetti|un momento|un attimo|silenzio|zitto|zitta|taci|lascia stare",
        "lascia perdere|non importa|annulla",
    ),
}

_AROUND: Mapping[str, frozenset[str]] = {
    "en": _table("please", "okay", "ok", "hey", "now", "no", "oh", "alright", "just", "thanks", "thank", "you"),
    "de": _table("bitte", "okay", "ok", "hey", "jetzt", "nein", "ach", "danke"),
    "fr": _table("s'il", "te", "vous", "plaît", "okay", "ok", "hé", "non", "merci"),
    "es": _table("por", "favor", "vale", "okay", "ok", "oye", "no", "ya", "gracias"),
    "it": _table("per", "favore", "okay", "ok", "ehi", "no", "grazie"),
}

_NOT_WORDS = re.compile(r"[^\w']+")


def is_stop_phrase(text: str, language: str = "en") -> bool:
    """Whether `text` says nothing but that the assistant be quiet or wait ("Stop, please.", "Never mind!").

    `language` is a tag such as "en" or "en-US"; "" means English, a language without a table has no stop phrases.
    """
    tag = language.lower().partition("-")[0] or "en"
    phrases = _PHRASES.get(tag)
    if phrases is None:
        return False
    said = _NOT_WORDS.sub(" ", text.lower().replace("’", "'")).split()
    return _is_stop(said, phrases, _AROUND[tag])


def _is_stop(said: list[str], phrases: frozenset[str], around: frozenset[str]) -> bool:
    """Whether the words split into stop phrases and polite words, at least one of them a phrase."""
    reached = {0: False}
    for start in range(len(said)):
        if start not in reached:
            continue
        found = reached[start]
        if said[start] in around:
            reached[start + 1] = reached.get(start + 1, False) or found
        for end in range(start + 1, min(start + 5, len(said)) + 1):
            if " ".join(said[start:end]) in phrases:
                reached[end] = True
    return reached.get(len(said), False)
