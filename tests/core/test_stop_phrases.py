"""What tells the assistant to be quiet, and nothing else."""

from __future__ import annotations

import pytest

from omni_rt.core.stop_phrases import is_stop_phrase


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Stop.", "en"),
        ("Okay, stop talking, please!", "en-US"),
        ("Never mind.", ""),
        ("Stop, stop, stop!", "en"),
        ("That’s enough, thank you.", "en"),
        ("Hold on a second", "en"),
        ("Sei still!", "de"),
        ("Tais-toi.", "fr"),
    ],
)
def test_stop_phrases(text: str, language: str) -> None:
    assert is_stop_phrase(text, language)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("Please.", "en"),
        ("Okay.", "en"),
        ("Stop the music at noon.", "en"),
        ("When does the bus stop?", "en"),
        ("I can't wait.", "en"),
        ("stop", "xx"),
    ],
)
def test_what_is_no_stop_phrase(text: str, language: str) -> None:
    assert not is_stop_phrase(text, language)
