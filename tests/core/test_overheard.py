"""What a short sound over the assistant's speech means, by its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.core.overheard import Meaning, classify, repeats


def texts(*lines: str) -> list[str]:
    return "|".join(lines).split("|")


BACKCHANNELS = {
    "en": texts(
        "mm-hm|Mm-hmm.|Mhm|mmm|Hmmmm...|uh-huh|Uh huh, right.|yeah yeah|Yeahhh!|Okay.|OK|right|All right, all right.",
        "Oh, I see.|I see, yes.|that’s right|Sure, go on.|Oh wow!|I. C..|M. H. M..",
    ),
    "de": texts("Ja, ja.|Genau!|Ach so.|mhm|Alles klar, okay."),
    "fr": texts("Oui, oui.|D'accord.|D’accord, je vois.|Ah bon ?|hm-hm"),
    "es": texts("Sí, sí.|¡Claro!|Ya, ya, entiendo.|ajá"),
    "it": texts("Sì, sì.|Va bene.|Ho capito, certo.|mh, già"),
}
STOPS = {
    "en": texts(
        "stop|Stop!|Wait.|wait, wait|Hold on.|Be quiet!|Shut up.|That’s enough.|Pause.|One moment, please.|Stooop!",
        "okay stop please|Yeah, yeah, stop it.|Uh, wait a second.|No, no, no. Stop!|Hey, stop talking now.",
        "Right. Never mind.",
    ),
    "de": texts("Stopp!|Hör auf, bitte.|Ja, ja, warte mal.|Moment!|Sei still."),
    "fr": texts("Arrête !|Attends, s'il te plaît.|Oui, oui, stop.|Tais-toi !"),
    "es": texts("¡Para!|Espera, por favor.|Sí, sí, ya basta.|¡Cállate!"),
    "it": texts("Basta!|Aspetta un attimo.|Sì, sì, fermati.|Un momento, per favore."),
}
NOTHING = {
    "en": texts("| |...|?!|(coughs)|[typing]|[BLANK_AUDIO]|*sighs*|♪ music ♪|♪|You|you you|Thank you for watching!"),
    "de": texts("|(hustet)"),
}
WORDS = {
    "en": texts(
        "No.|no no|What about Rome?|Right, and Rome?|Wait, what is that?|Stop at noon?|Yeah but why|the bus stop",
        "Please.|I|two|okay so what about Rome|(coughs) tell me more|not you|Why?",
    ),
    "de": texts("Nein.|Und was ist mit Rom?|Ja, aber warum?"),
    "fr": texts("Non.|Et Rome ?|Oui, mais pourquoi ?"),
    "es": texts("No.|¿Y Roma?|Sí, pero ¿por qué?"),
    "it": texts("No.|E Roma?|Sì, ma perché?"),
    "xx": texts("stop|yeah|da"),
}


def table(meaning: Meaning, several: dict[str, list[str]]) -> list[tuple[str, str, Meaning]]:
    return [(language, text, meaning) for language, texts in several.items() for text in texts]


@pytest.mark.parametrize(
    ("language", "text", "meaning"),
    [
        *table("backchannel", BACKCHANNELS),
        *table("stop", STOPS),
        *table("nothing", NOTHING),
        *table("words", WORDS),
        *table("backchannel", {"": ["Yeah."], "en-US": ["I see."], "xx": ["Mm-hm.", "okay"]}),
        *table("stop", {"": ["Stop."], "de-AT": ["Warte!"]}),
    ],
)
def test_what_is_meant(language: str, text: str, meaning: Meaning) -> None:
    assert classify(text, language) == meaning


@given(st.lists(st.sampled_from(BACKCHANNELS["en"]), min_size=1, max_size=6))
def test_backchannels_stay_that_however_often(several: list[str]) -> None:
    assert classify(" ".join(several), "en") == "backchannel"


@given(st.lists(st.sampled_from(BACKCHANNELS["en"]), max_size=4), st.sampled_from(STOPS["en"]))
def test_a_stop_is_one_among_backchannels(several: list[str], stop: str) -> None:
    assert classify(" ".join([*several, stop]), "en") == "stop"


@given(st.text(), st.sampled_from(["", "en", "de", "fr-CA", "xx", "-"]))
def test_any_text_has_a_meaning(text: str, language: str) -> None:
    assert classify(text, language) in ("nothing", "backchannel", "stop", "words")


@pytest.mark.parametrize(
    ("text", "spoken", "same"),
    [
        ("A storm.", "A storm raged outside", True),
        ("storm", "A storm raged outside", True),
        ("raged aside", "A storm raged outside", False),
        ("storm raged aside", "A storm raged outside", True),
        ("outside a storm", "A storm raged outside", False),
        ("What storm?", "A storm raged outside", False),
        ("A story", "A storm raged outside", True),
        ("A stove", "A storm raged outside", False),
        ("Let's start", "A storm raged outside", False),
        ("No", "Not a storm", False),
        ("A storm raged outside", "A storm", False),
        ("", "A storm", False),
        ("A storm", "", False),
    ],
)
def test_repeats(text: str, spoken: str, same: bool) -> None:
    assert repeats(text, spoken) is same
