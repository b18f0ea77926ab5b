"""Dialogues with a reply that is prepared at a short silence, here 96 ms, and held until the turn is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import (
    AbandonReply,
    CloseUtterance,
    DropUtterance,
    FinishReply,
    ReleaseReply,
    StartReply,
    StopReply,
)
from tests.core.actors import Judge, Plan, Sound, noise, words_of
from tests.core.dialogue import PUSH_TO_TALK, SPECULATIVE, TURNS, Deed, Dialogue

ALL = words_of(1600)
QUESTION = Sound(512, 1536, "question")
UNSURE = Judge((0.1,))


def test_a_sure_score_releases_the_held_reply() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, until=5000)
    assert d.actions[1:] == [
        (1632, StartReply(1, speculative=True)),
        (1756, CloseUtterance(1536)),
        (1756, ReleaseReply(1)),
        (3732, FinishReply(1)),
    ]
    assert d.left(1) == [(2040, 3640, 1.0)]
    assert d.history == [("user", "question"), ("assistant", ALL)]
    assert d.idle


def test_a_reply_that_was_made_while_held_leaves_at_the_decision() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, judge=UNSURE, until=6000)
    assert d.actions[1:4] == [
        (1632, StartReply(1, speculative=True)),
        (2848, CloseUtterance(1536)),
        (2848, ReleaseReply(1)),
    ]
    assert d.left(1) == [(2860, 4460, 1.0)]
    assert d.actions[4] == (4548, FinishReply(1))


def test_going_on_abandons_the_held_reply() -> None:
    d = Dialogue(QUESTION, Sound(1760, 2560, "more"), policy=SPECULATIVE, judge=UNSURE, until=8000)
    assert d.actions[1:] == [
        (1632, StartReply(1, speculative=True)),
        (1856, AbandonReply(1)),
        (2656, StartReply(2, speculative=True)),
        (3872, CloseUtterance(2560)),
        (3872, ReleaseReply(2)),
        (5572, FinishReply(2)),
    ]
    assert d.left(1) == []
    assert d.history == [("user", "question more"), ("assistant", ALL)]


@pytest.mark.parametrize(("speech_ms", "most"), [(128, 3), (320, 5), (640, 7)])
def test_an_utterance_is_speculated_about_three_times_and_once_more_for_each_second(speech_ms: int, most: int) -> None:
    sounds = [Sound(start, start + speech_ms, f"w{start}") for start in range(512, 512 + 8 * 896, 896)]
    d = Dialogue(*sounds, policy=SPECULATIVE, judge=UNSURE, until=14_000)
    starts = [a for _, a in d.actions if isinstance(a, StartReply)]
    assert starts[:-1] == [StartReply(k + 1, speculative=True) for k in range(len(starts) - 1)]
    assert [a for _, a in d.actions if isinstance(a, AbandonReply)] == [AbandonReply(k + 1) for k in range(most)]
    assert d.history[-1] == ("assistant", ALL)
    assert len(d.history) == 2


def test_the_next_utterance_has_its_own_three() -> None:
    sounds = [Sound(start, start + 128, f"w{start}") for start in range(512, 512 + 6 * 896, 896)]
    d = Dialogue(*sounds, Sound(12_000, 13_024, "and"), policy=SPECULATIVE, judge=UNSURE, until=18_000)
    assert [a for _, a in d.actions if isinstance(a, StartReply)][-1] == StartReply(5, speculative=True)


def test_noise_never_speculates_twice() -> None:
    d = Dialogue(QUESTION, *noise(1664, 6000, every_ms=192, bump_ms=64), policy=SPECULATIVE, judge=UNSURE, until=6000)
    starts = [(at, a) for at, a in d.actions if isinstance(a, StartReply)]
    assert starts == [(1632, StartReply(1, speculative=True))]
    assert not [a for _, a in d.actions if isinstance(a, AbandonReply)]


def test_the_worker_dies_while_a_reply_is_held() -> None:
    d = Dialogue(
        QUESTION,
        policy=SPECULATIVE,
        judge=UNSURE,
        client=[(1800, "engine lost"), (3500, "engine back")],
        until=8000,
    )
    assert d.actions[1:] == [
        (1632, StartReply(1, speculative=True)),
        (1800, AbandonReply(1)),
        (2848, CloseUtterance(1536)),
        (2848, StartReply(2)),
        (5580, FinishReply(2)),
    ]
    assert d.left(2) == [(3900, 5500, 1.0)]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_a_client_that_asks_for_a_reply_gets_one_when_the_user_has_finished() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, judge=UNSURE, client=[(1800, "create")], until=8000)
    assert d.actions[1:5] == [
        (1632, StartReply(1, speculative=True)),
        (1800, AbandonReply(1)),
        (2848, CloseUtterance(1536)),
        (2848, StartReply(2)),
    ]


def test_a_reply_that_is_asked_for_is_not_speculated_about() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, client=[(1000, "create")], until=8000)
    assert d.actions[1:3] == [(1756, CloseUtterance(1536)), (1756, StartReply(1))]


def test_a_commit_ends_the_speculation() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, judge=UNSURE, client=[(1800, "commit")], until=8000)
    assert d.actions[1:] == [
        (1632, StartReply(1, speculative=True)),
        (1800, AbandonReply(1)),
        (1800, CloseUtterance(1800)),
    ]
    assert d.history == [("user", "question")]


def test_a_clear_ends_the_speculation() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, judge=UNSURE, client=[(1800, "clear")], until=8000)
    assert d.actions[2:] == [(1800, AbandonReply(1)), (1800, DropUtterance())]
    assert d.history == []


def test_push_to_talk_ends_the_speculation() -> None:
    script: list[tuple[int, Deed]] = [(1800, PUSH_TO_TALK), (2500, "commit"), (2500, "create")]
    d = Dialogue(QUESTION, policy=SPECULATIVE, judge=UNSURE, client=script, until=8000)
    assert d.actions[2:5] == [(1800, AbandonReply(1)), (2500, CloseUtterance(2500)), (2500, StartReply(2))]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_the_transport_is_lost_while_a_reply_is_held() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, judge=UNSURE, client=[(1800, "transport lost")], until=8000)
    assert d.actions[2:] == [(1800, AbandonReply(1)), (1800, CloseUtterance(1536))]
    assert d.history == [("user", "question")]
    assert d.idle


def test_a_client_that_replies_itself_is_not_speculated_for() -> None:
    policy = replace(SPECULATIVE, create_reply=False)
    d = Dialogue(QUESTION, policy=policy, until=8000)
    assert d.actions[1:] == [(1756, CloseUtterance(1536))]


def test_nothing_is_speculated_while_a_reply_plays() -> None:
    policy = replace(SPECULATIVE, interrupt_reply=False)
    d = Dialogue(QUESTION, Sound(2432, 3456, "also"), policy=policy, until=9000)
    assert [a for _, a in d.actions if isinstance(a, StartReply)] == [
        StartReply(1, speculative=True),
        StartReply(2),
    ]


def test_a_released_reply_can_be_interrupted() -> None:
    d = Dialogue(QUESTION, Sound(2816, 3840, "wait"), policy=SPECULATIVE, until=9000)
    assert (3040, StopReply(1, "turn_detected", 2816)) in d.actions
    assert d.claimed[1] == d.truly_heard[1] == 3040 - 80 - 2040
    assert d.history[1] == ("assistant", "one two three four")


def test_an_early_fixed_silence_leaves_nothing_to_speculate_about() -> None:
    policy = replace(SPECULATIVE, turns=replace(TURNS, fixed_silence_ms=96, speculate_ms=96))
    d = Dialogue(QUESTION, policy=policy, until=6000)
    assert d.actions[1:3] == [(1632, CloseUtterance(1536)), (1632, StartReply(1))]


def test_a_held_reply_that_failed_ends_when_it_is_released() -> None:
    d = Dialogue(QUESTION, policy=SPECULATIVE, judge=UNSURE, replies=(Plan(0, end="failed"),), until=6000)
    assert d.actions[2:] == [
        (2848, CloseUtterance(1536)),
        (2848, ReleaseReply(1)),
        (2848, FinishReply(1)),
    ]
    assert d.idle
