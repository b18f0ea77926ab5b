"""What a person's pauses change about how long is waited for the next end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import CloseUtterance, StartReply
from omni_rt.core.completeness import Completeness
from omni_rt.core.patience import Patience
from omni_rt.core.turns import Words
from tests.core.actors import Judge, Plan, Sound
from tests.core.dialogue import SPECULATIVE, TURNS, Dialogue


def test_without_pauses_the_limit_and_the_least_are_the_policys() -> None:
    patience = Patience()
    assert (patience.limit_ms(1600), patience.least_ms(160, 1600)) == (1600, 160)
    patience.paused(200)
    patience.paused(200)
    assert patience.limit_ms(1600) == 1600


def test_short_pauses_shorten_the_limit_and_long_ones_leave_it() -> None:
    patience = Patience()
    for pause in (300, 250, 400):
        patience.paused(pause)
    assert patience.limit_ms(1600) == 1200
    patience.paused(1000)
    assert patience.limit_ms(1600) == 1400
    patience.paused(1500)
    assert patience.limit_ms(1600) == 1600


def test_a_cut_in_is_remembered_for_four_turns() -> None:
    patience = Patience()
    patience.cut_in(500)
    for _ in range(4):
        assert patience.least_ms(160, 1600) == 550
        patience.turn_ended()
    assert patience.least_ms(160, 1600) == 160
    patience.cut_in(1500)
    assert patience.least_ms(160, 1600) == 800


def test_who_was_cut_in_on_twice_is_waited_for() -> None:
    """Each end seems sure; the second pause of 300 ms is inside the turn."""
    sounds = [Sound(512, 1536, "a"), Sound(1856, 2880, "b"), Sound(3180, 4224, "c")]
    d = Dialogue(*sounds, until=12_000, judge=Judge(scores=(0.9,)))
    closed = [at.speech_end_ms for _, at in d.actions if isinstance(at, CloseUtterance)]
    assert closed == [1536, 4224]
    assert [text for role, text in d.history if role == "user"] == ["a", "b c"]


def test_who_speaks_long_after_the_end_while_the_reply_is_made_was_not_cut_in_on() -> None:
    sounds = [Sound(512, 1536, "a"), Sound(4000, 5024, "b")]
    slow = Plan(first_text_ms=4000, first_audio_ms=5000)
    d = Dialogue(*sounds, until=16_000, judge=Judge(scores=(0.9,)), replies=(slow, Plan()))
    assert [at for at, action in d.actions if isinstance(action, CloseUtterance)] == [1756, 5244]


@pytest.mark.parametrize(
    ("score", "words", "wait_ms"),
    [
        (0.9, "unfinished", 1456),
        (0.9, "complete", 160),
        (0.9, "open", 160),
        (0.1, "complete", 160),
        (None, "complete", 160),
    ],
)
def test_a_phrase_that_goes_on_is_waited_for_and_a_short_answer_is_not(
    score: float | None, words: Completeness, wait_ms: int
) -> None:
    assert TURNS.wait_ms(score, Words(words), Patience()) == wait_ms
    assert replace(TURNS, fixed_silence_ms=500).wait_ms(score, Words(words), Patience()) == 500


@pytest.mark.parametrize(("words", "ends_ms"), [("complete", 1700), ("unfinished", 3008)])
def test_words_that_come_while_the_reply_is_prepared_end_the_turn_or_keep_it_open(
    words: Completeness, ends_ms: int
) -> None:
    d = Dialogue(
        Sound(512, 1536, "yes"), until=6000, policy=SPECULATIVE, judge=Judge(scores=(0.9,), delay_ms=300),
        client=((1700, Words(words)),),
    )  # fmt: skip
    assert [at for at, action in d.actions if isinstance(action, CloseUtterance)] == [ends_ms]
    assert d.actions[1][1] == StartReply(1, speculative=True)
