"""Words that tell the assistant to be quiet, understood without the chat model."""

from __future__ import annotations

from collections.abc import Container, Mapping

from omni_rt.core.phrases import base_language, made_of, phrases, words

_PHRASES: Mapping[str, frozenset[str]] = {
    "en": phrases(
        "stop|stop it|stop that|stop talking|stop speaking|stop now|please stop|you can stop",
        "wait|wait a minute|wait a moment|wait a second|wait a sec|hold on|hold on a second|hold on a minute",
        "hold on a moment|hang on|hang on a second|hang on a minute",
        "one moment|one second|just a second|just a minute|just a moment|pause",
        "quiet|be quiet|keep quiet|silence|hush|shush|shh|shut up|be silent",
        "never mind|nevermind|forget it|forget about it|cancel|cancel that",
        "enough|that's enough|that is enough|that'll do|no more",
    ),
    "de": phrases(
        "stopp|stop|halt|halt mal|hör auf|aufhören|warte|warte mal|moment|einen moment|moment mal|ruhe|sei still",
        "sei ruhig|still|leise|vergiss es|egal|schon gut|genug|es reicht|das reicht|abbrechen",
    ),
    "fr": phrases(
        "stop|arrête|arrêtez|arrête toi|attends|attendez|un instant|un moment|une seconde|silence|chut|tais toi",
        "taisez vous|laisse tomber|peu importe|oublie|assez|ça suffit|annule",
    ),
    "es": phrases(
        "para|parar|alto|basta|detente|espera|espere|un momento|un segundo|silencio|cállate|calla|déjalo",
        "no importa|olvídalo|ya basta|suficiente|cancela",
    ),
    "it": phrases(
        "stop|fermati|ferma|basta|aspetta|aspetti|un momento|un attimo|silenzio|zitto|zitta|taci|lascia stare",
        "lascia perdere|non importa|annulla",
    ),
}

_AROUND: Mapping[str, frozenset[str]] = {
    "en": phrases("please", "okay", "ok", "hey", "now", "no", "oh", "alright", "just", "thanks", "thank", "you"),
    "de": phrases("bitte", "okay", "ok", "hey", "jetzt", "nein", "ach", "danke"),
    "fr": phrases("s'il", "te", "vous", "plaît", "okay", "ok", "hé", "non", "merci"),
    "es": phrases("por", "favor", "vale", "okay", "ok", "oye", "no", "ya", "gracias"),
    "it": phrases("per", "favore", "okay", "ok", "ehi", "no", "grazie"),
}


def stop_phrases(language: str = "en") -> frozenset[str]:
    """The phrases of a language, in lower case."""
    return _PHRASES.get(base_language(language), frozenset())


def is_stop_phrase(text: str, language: str = "en", beside: Container[str] = ()) -> bool:
    """Whether `text` says nothing but that the assistant be quiet or wait ("Stop, please.", "Never mind!").

    `language` is a tag such as "en" or "en-US"; "" means English, a language without a table has no stop phrases.
    Phrases of `beside` may stand around like polite words.
    """
    tag, known = base_language(language), stop_phrases(language)
    return bool(known) and made_of(words(text), known, _AROUND[tag], beside)
