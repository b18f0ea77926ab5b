"""What stands out from the noise around, and the duck it is worth before it is sure to be speech."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import Duck, Unduck
from omni_rt.core.ambient import Ambient
from omni_rt.core.duplex import Duplex
from omni_rt.core.timeline import Activity, EarlyActivity
from tests.core.dialogue import BY_WORDS


def heard(*windows: tuple[float, float | None]) -> Ambient:
    """Windows of so much speech, so loud."""
    ambient = Ambient()
    for number, (speech, level) in enumerate(windows, 1):
        ambient.hear(Activity(32 * number, speech, level))
    return ambient


def test_a_sound_is_held_against_the_quietest_around() -> None:
    assert Ambient().louder(900.0) == 0, "nothing is known yet"
    assert heard((0.1, None)).louder(900.0) == 0
    ambient = heard((0.1, 20.0), (0.1, 10.0), (0.1, 12.0), (0.1, None))
    assert ambient.louder(31.0) == pytest.approx(3.1)
    assert ambient.louder(None) == 0
    assert heard((0.1, 0.0)).louder(31.0) == 31, "digital silence is quieter than any room"


def test_how_like_speech_it_is_around_is_the_median() -> None:
    assert Ambient().speech == 1, "nothing is known yet"
    assert heard((0.01, 10.0), (0.9, None), (0.02, 10.0)).speech == 0.02


def test_two_seconds_are_remembered() -> None:
    assert heard((0.9, 10.0), *[(0.9, 500.0)] * 63).louder(500.0) == 50
    assert heard((0.9, 10.0), *[(0.9, 500.0)] * 64).louder(500.0) == 1
    assert heard(*[(0.9, 10.0)] * 32, *[(0.1, 10.0)] * 33).speech == 0.1
    assert heard(*[(0.9, 10.0)] * 33, *[(0.1, 10.0)] * 31).speech == 0.9


@pytest.mark.parametrize(
    ("speech", "level", "ducks"),
    [(0.05, 200.0, True), (0.03, 200.0, False), (0.05, 20.0, False), (0.05, None, False), (0.2, 10.0, True)],
)
def test_a_sound_that_stands_out_ducks_at_a_lower_probability(speech: float, level: float | None, ducks: bool) -> None:
    duplex = Duplex(BY_WORDS)
    duplex.create_reply()
    duplex.reply_sent(1)
    for number in range(1, 10):
        assert duplex.activity(Activity(32 * number, 0.01, 10.0)) == []
    assert duplex.activity(Activity(320, speech, level)) == ([Duck()] if ducks else [])
    assert duplex.activity(Activity(352, 0.01, 10.0)) == ([Unduck()] if ducks else [])


@pytest.mark.parametrize(
    ("around", "speech", "level", "ducks"),
    [
        (0.01, 0.018, 21.0, True),
        (0.01, 0.017, 200.0, False),
        (0.01, 0.1, 19.0, False),
        (0.01, 0.2, 10.0, True),
        (0.001, 0.0051, 21.0, True),
        (0.001, 0.0049, 21.0, False),
        (0.0, 0.0021, 21.0, True),
        (0.0, 0.0019, 200.0, False),
    ],
)
def test_what_is_told_early_ducks_the_sooner_the_less_like_speech_it_was_before(
    around: float, speech: float, level: float, ducks: bool
) -> None:
    duplex = Duplex(BY_WORDS)
    duplex.create_reply()
    assert duplex.activity(Activity(32, around, 10.0)) == []
    duplex.reply_sent(1)
    assert duplex.early_activity(EarlyActivity(48, speech, level)) == ([Duck()] if ducks else [])
    assert duplex.early_activity(EarlyActivity(48, speech, level)) == []
    assert duplex.activity(Activity(64, around, 10.0)) == ([Unduck()] if ducks else [])


def test_a_sound_that_was_worth_a_duck_early_is_worth_it_as_a_window() -> None:
    duplex = Duplex(BY_WORDS)
    duplex.create_reply()
    duplex.activity(Activity(32, 0.01, 10.0))
    duplex.reply_sent(1)
    assert duplex.activity(Activity(64, 0.02, 25.0)) == [], "by itself it is not"
    assert duplex.early_activity(EarlyActivity(80, 0.02, 25.0)) == [Duck()]
    assert duplex.activity(Activity(96, 0.02, 25.0)) == []
    assert duplex.activity(Activity(128, 0.02, 15.0)) == [Unduck()]


def test_what_is_told_early_ducks_nothing_but_a_reply_that_may_be_interrupted() -> None:
    silent, stubborn = Duplex(BY_WORDS), Duplex(replace(BY_WORDS, interrupt_reply=False))
    stubborn.create_reply()
    for duplex in (silent, stubborn):
        assert duplex.activity(Activity(32, 0.01, 10.0)) == []
        assert duplex.early_activity(EarlyActivity(48, 0.9, 900.0)) == []
