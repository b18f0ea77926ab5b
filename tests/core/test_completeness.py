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
        ("Well, I think that,", "en", "unfinished"),
        ("My number is five...", "en", "unfinished"),
        ("Um.", "en", "unfinished"),
        ("What is this for?", "en", "open"),
        ("What is the capital of France?", "en", "open"),
        ("I would like to go to Paris.", "en", "open"),
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
        ("I, and,", "tlh", "unfinished"),
    ],
)
def test_completeness(text: str, language: str, expected: str) -> None:
    assert completeness(text, language) == expected


@pytest.mark.parametrize(
    ("text", "ending", "expected"),
    [
        ("I would like to go to Paris.", 0.4, "whole"),
        ("I would like to go to Paris.", 0.1, "open"),
        ("I would like to go to.", 0.1, "unfinished"),
        ("I think we talked about.", 0.3, "whole"),
        ("I would like to see Paris,", 0.3, "whole"),
        ("I would like to see Paris,", 0.1, "open"),
        ("They have been carried", 0.001, "unfinished"),
        ("They carried", 0.001, "open"),
        ("They carried", 0.0001, "unfinished"),
        ("Yes.", 0.0, "complete"),
        ("", 0.9, "unfinished"),
    ],
)
def test_a_language_model_knows_better_where_sentences_end(text: str, ending: float, expected: str) -> None:
    """Than the last word or mark, but not than the list of short answers."""
    assert completeness(text, "en", ending) == expected
