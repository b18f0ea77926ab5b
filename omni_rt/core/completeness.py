"""Whether a turn's words can be all of it: a phrase that cannot end so, one that can, one that is long enough to, one
so short that it is often only the beginning, a word by itself, a short answer that needs no more. Tables of words tell
at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from omni_rt.core.phrases import base_language, phrases, words

Completeness = Literal["unfinished", "brief", "single", "open", "ample", "complete"]

# So many words are seldom only the beginning of what is said if it sounds like the end.
_AMPLE = 6
# Two or three are a sentence by themselves, as "go forward" is, and the beginning of many.
_BRIEF = (2, 3)

_GOES_ON: Mapping[str, frozenset[str]] = {
    "en": phrases(
        "and|or|but|because|so|if|when|while|although|unless|until|since|whether|than|as|like",
        "the|a|an|my|your|his|her|our|their|this|these|those|some|any|every",
        "of|to|from|with|for|at|by|about|into|between|without|in|on",
        "is|are|was|were|am|be|can|could|would|should|will|shall|may|might|must|do|does|did|have|has|had",
        "i|you|he|she|we|they|it's|i'm|i'd|i'll|let's|um|uh|er|erm|hmm|well|very|really",
        "not|been|being|rather|quite|how|which|whose|its|only|also|such|each|per|their|cannot|don't|didn't|won't|then",
    ),
    "de": phrases(
        "und|oder|aber|weil|dass|ob|wenn|als|wie|denn|der|die|das|ein|eine|einen|einem|mein|meine|dein|deine",
        "von|zu|mit|für|bei|über|zwischen|ohne|in|auf|an|ist|sind|war|kann|könnte|würde|soll|will|muss|hat|haben",
        "ich|du|er|sie|wir|ihr|äh|ähm|also|sehr",
    ),
    "fr": phrases(
        "et|ou|mais|parce|que|si|quand|comme|le|la|les|un|une|des|du|mon|ma|mes|ton|ta|de|à|avec|pour|par|sans|dans",
        "sur|est|sont|était|peut|veut|je|tu|il|elle|nous|vous|ils|euh|alors|très",
    ),
    "es": phrases(
        "y|o|pero|porque|que|si|cuando|como|el|la|los|las|un|una|mi|mis|tu|de|a|con|para|por|sin|en|sobre",
        "es|son|era|puede|quiero|yo|eh|este|pues|muy",
    ),
    "it": phrases(
        "e|o|ma|perché|che|se|quando|come|il|lo|la|i|gli|le|un|una|mio|mia|di|a|con|per|senza|in|su",
        "è|sono|era|può|voglio|io|ehm|allora|molto",
    ),
}

# A word by itself is mostly an answer ("seven", "Monday"), but who says one of these has a request to make.
_BEGINS: Mapping[str, frozenset[str]] = {
    "en": phrases(
        "tell|give|set|remind|show|find|put|play|turn|add|translate|write|explain|describe|call|send|read|open|close",
        "book|order|let|make|take|get|buy|look|search|compare|imagine|suppose|please|people|actually|sometimes|computer",
    ),
    "de": phrases("sag|sage|gib|erinnere|zeig|zeige|finde|such|spiel|spiele|mach|mache|erklär|erkläre|lies|bitte"),
    "fr": phrases("dis|donne|rappelle|montre|trouve|cherche|mets|joue|lis|explique|traduis|écris|appelle"),
    "es": phrases("dime|dame|recuérdame|muéstrame|busca|pon|lee|explica|traduce|escribe|llama|por"),
    "it": phrases("dimmi|dammi|ricordami|mostrami|trova|cerca|metti|leggi|spiega|traduci|scrivi|chiama|per"),
}

_ENOUGH: Mapping[str, frozenset[str]] = {
    "en": phrases(
        "yes|yeah|yep|yup|no|nope|nah|sure|okay|ok|right|correct|exactly|maybe|perhaps|of course|not really|not yet",
        "yes please|no thanks|no thank you|thanks|thank you|hello|hi|hey|goodbye|bye|good morning|good night|stop|wait",
        "i don't know|i think so|me too|never mind|go on|go ahead|continue|again|really",
    ),
    "de": phrases(
        "ja|nein|klar|okay|ok|genau|richtig|vielleicht|danke|ja bitte|nein danke|hallo|tschüss|weiter|nochmal"
    ),
    "fr": phrases(
        "oui|non|d'accord|okay|ok|exactement|peut être|merci|oui merci|non merci|bonjour|salut|continue|encore"
    ),
    "es": phrases(
        "sí|si|no|claro|vale|okay|ok|exacto|quizás|gracias|sí por favor|no gracias|hola",
        "adiós|sigue|otra vez",
    ),
    "it": phrases("sì|si|no|certo|okay|ok|esatto|forse|grazie|sì grazie|no grazie|ciao|continua|ancora"),
}


def completeness(text: str, language: str = "en") -> Completeness:
    """Of the words of a turn so far, as transcribed with punctuation; without any it has hardly begun. `language` is a
    tag such as "en" or "en-US"; "" means English; of a language without tables only the punctuation tells."""
    tag, written = base_language(language), text.strip()
    said = words(written)
    if not said:
        return "unfinished"
    if " ".join(said) in _ENOUGH.get(tag, ()):
        return "complete"
    # a comma is what recognisers put where the sound breaks off
    goes_on = written.endswith((";", ":", "-", "–", "—", "...", "…"))
    asks = written.endswith("?")
    if not asks and (goes_on or said[-1] in _GOES_ON.get(tag, ())):
        return "unfinished"
    if not asks and tag in _GOES_ON:
        if len(said) in _BRIEF:
            return "brief"
        if len(said) == 1 and said[0] not in _BEGINS[tag]:
            return "single"
    return "ample" if len(said) >= _AMPLE else "open"
