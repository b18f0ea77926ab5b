"""Which words can be all of a turn."""

from __future__ import annotations

import pytest

from omni_rt.core.completeness import completeness


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("I would like to go to Paris and", "", "unfinished"),
        ("I would like to go to Paris and.", "en", "unfinished"),
        ("Could you tell me the", "en-US", "unfinished"),
        ("Well, I think that -", "en", "unfinished"),
        ("My number is five...", "en", "unfinished"),
        ("Um.", "en", "unfinished"),
        ("What is this for?", "en", "open"),
        ("What is the capital?", "en", "open"),
        ("What is the capital of France?", "en", "ample"),
        ("I would like to see,", "en", "open"),
        ("I would like to go to Paris,", "en", "ample"),
        ("I would like to go to Paris or", "en", "unfinished"),
        ("Go forward.", "en", "brief"),
        ("Turn it off", "en", "brief"),
        ("Turn it off now.", "en", "open"),
        ("Louder.", "en", "single"),
        ("Seven", "en-GB", "single"),
        ("Tell.", "en", "open"),
        ("Sieben.", "de", "single"),
        ("Seven?", "en", "open"),
        ("Seven", "tlh", "open"),
        ("How many?", "en", "open"),
        ("Yes.", "en", "complete"),
        ("No, thank you!", "en", "complete"),
        ("yes and", "en", "unfinished"),
        ("", "en", "unfinished"),
        ("...", "en", "unfinished"),
        ("Ich möchte nach Paris und", "de", "unfinished"),
        ("Genau.", "de-AT", "complete"),
        ("Je voudrais aller à", "fr", "unfinished"),
        ("Oui.", "fr", "complete"),
        ("Quiero un", "es", "unfinished"),
        ("Sì, grazie.", "it", "complete"),
        ("I and", "tlh", "open"),
        ("I and -", "tlh", "unfinished"),
        ("我想知道，明天北京的天气。", "zh", "open"),
    ],
)
def test_completeness(text: str, language: str, expected: str) -> None:
    assert completeness(text, language) == expected
