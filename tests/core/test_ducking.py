"""What stands out from the noise around, and the duck it is worth before it is sure to be speech."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import Duck, Unduck
from omni_rt.core.ambient import Ambient
from omni_rt.core.duplex import Duplex
from omni_rt.core.timeline import Activity, EarlyActivity
from tests.core.dialogue import BY_WORDS


def test_what_is_far_louder_than_the_quietest_around_stands_out() -> None:
    ambient = Ambient()
    assert not ambient.hear(900.0), "nothing is known yet"
    assert not any(ambient.hear(level) for level in (10.0, 12.0, 29.0))
    assert ambient.hear(31.0)
    assert not ambient.hear(None)


def test_noise_that_goes_on_stands_out_for_two_seconds() -> None:
    ambient = Ambient()
    ambient.hear(10.0)
    assert [ambient.hear(500.0) for _ in range(80)] == [True] * 64 + [False] * 16


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


@pytest.mark.parametrize(("speech", "level", "ducks"), [(0.05, 200.0, True), (0.05, 20.0, False), (0.2, 10.0, True)])
def test_what_is_told_early_ducks_and_the_next_window_tells(speech: float, level: float, ducks: bool) -> None:
    duplex = Duplex(BY_WORDS)
    duplex.create_reply()
    assert duplex.activity(Activity(32, 0.01, 10.0)) == []
    duplex.reply_sent(1)
    assert duplex.early_activity(EarlyActivity(48, speech, level)) == ([Duck()] if ducks else [])
    assert duplex.early_activity(EarlyActivity(48, speech, level)) == []
    assert duplex.activity(Activity(64, 0.01, 10.0)) == ([Unduck()] if ducks else [])


def test_what_is_told_early_ducks_nothing_but_a_reply_that_may_be_interrupted() -> None:
    silent, stubborn = Duplex(BY_WORDS), Duplex(replace(BY_WORDS, interrupt_reply=False))
    stubborn.create_reply()
    for duplex in (silent, stubborn):
        assert duplex.activity(Activity(32, 0.01, 10.0)) == []
        assert duplex.early_activity(EarlyActivity(48, 0.9, 900.0)) == []
