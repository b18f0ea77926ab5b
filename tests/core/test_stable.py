"""Words of a growing transcript are told once two transcripts agree on them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omni_rt.core.stable import StableWords

LISTS = st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=8)


def told(*transcripts: str) -> list[str]:
    words = StableWords()
    return [words.update(text) for text in transcripts]


def test_a_word_is_told_when_it_stood_twice() -> None:
    assert told("what", "what is", "what is the", "what is the time") == ["", "what", " is", " the"]


def test_a_word_that_changes_is_not_told() -> None:
    assert told("what his", "what is", "what is the") == ["", "what", " is"]


def test_what_was_told_is_never_taken_back() -> None:
    assert told("red", "red", "read it", "read it", "red it now", "red it now") == ["", "red", "", "", "", " it now"]


def test_nothing_said() -> None:
    assert told("", "", " ") == ["", "", ""]


@given(LISTS)
def test_told_words_stood_in_two_transcripts_running(transcripts: list[list[str]]) -> None:
    words = StableWords()
    so_far = ""
    last: list[str] = []
    for transcript in transcripts:
        delta = words.update(" ".join(transcript))
        if delta:
            so_far += delta
            count = len(so_far.split())
            assert so_far == " ".join(transcript[:count]) == " ".join(last[:count])
        last = transcript
