"""Dialogues about whose turn it is: when an utterance opens, when it is over, when the reply starts.

Windows of hearing are 32 ms; a score comes 60 ms after it was asked for, at 160 ms of silence; a reply of 1600 ms has
its first chunk after 400 ms and is heard 80 ms after it left.
"""

from __future__ import annotations

from dataclasses import replace

from omni_rt.core.actions import CloseUtterance, Duck, FinishReply, OpenUtterance, StartReply, StopReply
from tests.core.actors import Judge, Sound, noise, words_of
from tests.core.dialogue import SEMANTIC, SERVER_VAD, TURNS, Dialogue

ALL = words_of(1600)
QUESTION = Sound(512, 1536, "question")
OPEN = (608, OpenUtterance(212, 512))


def test_a_sure_score_ends_the_turn_at_once() -> None:
    d = Dialogue(QUESTION, until=5000)
    assert d.judged == [1696]
    assert d.actions == [
        OPEN,
        (1756, CloseUtterance(1536)),
        (1756, StartReply(1)),
        (3856, FinishReply(1)),
    ]
    assert d.left(1) == [(2160, 3760, 1.0)]
    assert d.history == [("user", "question"), ("assistant", ALL)]
    assert d.idle


def test_an_unsure_score_waits_in_proportion() -> None:
    d = Dialogue(QUESTION, judge=Judge((0.25,)), until=6000)
    assert d.judged == [1696]
    assert d.actions[1:3] == [(2432, CloseUtterance(1536)), (2432, StartReply(1))]


def test_without_any_score_the_limit_ends_the_turn() -> None:
    d = Dialogue(QUESTION, judge=Judge(delay_ms=None), until=6000)
    assert d.judged == [1696]
    assert d.actions[1:3] == [(3136, CloseUtterance(1536)), (3136, StartReply(1))]


def test_a_score_that_comes_after_the_user_went_on_is_void() -> None:
    d = Dialogue(QUESTION, Sound(1728, 2560, "more"), judge=Judge(delay_ms=200), until=7000)
    assert d.judged == [1696, 2720]
    assert d.actions[:3] == [OPEN, (2920, CloseUtterance(2560)), (2920, StartReply(1))]
    assert d.history == [("user", "question more"), ("assistant", ALL)]


def test_the_same_score_counts_when_the_user_did_not_go_on() -> None:
    d = Dialogue(QUESTION, judge=Judge(delay_ms=200), until=7000)
    assert d.actions[1:3] == [(1896, CloseUtterance(1536)), (1896, StartReply(1))]


def test_a_slow_judge_still_ends_the_turn() -> None:
    d = Dialogue(QUESTION, judge=Judge(delay_ms=400), until=7000)
    assert d.judged == [1696]
    assert d.actions[1:3] == [(2096, CloseUtterance(1536)), (2096, StartReply(1))]


def test_a_pause_inside_a_turn() -> None:
    d = Dialogue(QUESTION, Sound(2176, 3200, "more"), judge=Judge(lambda at: 0.9 if at > 3200 else 0.1), until=8000)
    assert d.judged == [1696, 3360]
    assert d.actions[:3] == [OPEN, (3420, CloseUtterance(3200)), (3420, StartReply(1))]
    assert d.history == [("user", "question more"), ("assistant", ALL)]


def test_the_same_pause_ends_the_turn_when_the_score_is_sure() -> None:
    d = Dialogue(QUESTION, Sound(2176, 3200, "more"), until=8000)
    assert d.actions[:5] == [
        OPEN,
        (1756, CloseUtterance(1536)),
        (1756, StartReply(1)),
        (2272, Duck()),
        (2400, StopReply(1, "turn_detected", 2176)),
    ]
    assert d.claimed[1] == d.truly_heard[1] == 160
    assert d.history == [("user", "question"), ("user", "more"), ("assistant", ALL)]


def test_a_pause_over_the_limit_makes_two_turns() -> None:
    d = Dialogue(QUESTION, Sound(3584, 4608, "more"), judge=Judge((0.0,)), until=12_000)
    closes = [(at, a) for at, a in d.actions if isinstance(a, CloseUtterance)]
    assert closes == [(3136, CloseUtterance(1536)), (6208, CloseUtterance(4608))]
    assert d.history == [("user", "question"), ("user", "more"), ("assistant", ALL)]


def test_a_pause_just_below_the_limit_makes_one() -> None:
    d = Dialogue(QUESTION, Sound(3104, 4608, "more"), judge=Judge((0.0,)), until=12_000)
    assert d.history == [("user", "question more"), ("assistant", ALL)]


def test_fixed_silence_asks_nobody() -> None:
    d = Dialogue(QUESTION, policy=SERVER_VAD, until=6000)
    assert d.judged == []
    assert d.actions[:3] == [OPEN, (2048, CloseUtterance(1536)), (2048, StartReply(1))]


def test_fixed_silence_is_not_reached_by_a_shorter_pause() -> None:
    d = Dialogue(QUESTION, Sound(2016, 3040, "more"), policy=SERVER_VAD, until=8000)
    assert d.actions[1:3] == [(3552, CloseUtterance(3040)), (3552, StartReply(1))]


def test_a_very_short_word_is_a_turn() -> None:
    d = Dialogue(Sound(512, 608, "yes"), until=4000)
    assert d.actions == [OPEN, (828, CloseUtterance(608)), (828, StartReply(1)), (2928, FinishReply(1))]
    assert d.history == [("user", "yes"), ("assistant", ALL)]


def test_a_click_is_none() -> None:
    d = Dialogue(Sound(512, 576, "click"), until=4000)
    assert d.log == []


def test_speech_that_is_going_on_at_connection() -> None:
    d = Dialogue(Sound(0, 800, "question"), until=4000)
    assert d.actions[:2] == [(96, OpenUtterance(0, 0)), (1020, CloseUtterance(800))]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_silence() -> None:
    d = Dialogue(until=60_000)
    assert (d.log, d.history, d.idle) == ([], [], True)


def test_noise() -> None:
    d = Dialogue(*noise(100, 60_000, every_ms=160, bump_ms=64), until=60_000)
    assert (d.log, d.history) == ([], [])


def test_noise_after_the_turn_does_not_hold_it() -> None:
    quiet = Dialogue(QUESTION, policy=SERVER_VAD, until=6000)
    noisy = Dialogue(QUESTION, *noise(1600, 6000, every_ms=192, bump_ms=64), policy=SERVER_VAD, until=6000)
    assert quiet.actions[1] == (2048, CloseUtterance(1536))
    assert noisy.actions[1] == (2112, CloseUtterance(1536))
    assert noisy.history == quiet.history


def test_turns_follow_each_other() -> None:
    d = Dialogue(QUESTION, Sound(4512, 5536, "and"), Sound(8512, 9536, "then"), until=13_000)
    assert [a.generation for _, a in d.actions if isinstance(a, FinishReply)] == [1, 2, 3]
    assert d.history == [
        ("user", "question"),
        ("assistant", ALL),
        ("user", "and"),
        ("assistant", ALL),
        ("user", "then"),
        ("assistant", ALL),
    ]
    assert d.idle


def test_the_pre_roll_ends_at_the_turn_before() -> None:
    policy = replace(SEMANTIC, create_reply=False)
    d = Dialogue(QUESTION, Sound(1792, 2560, "more"), policy=policy, until=6000)
    assert d.actions == [
        OPEN,
        (1756, CloseUtterance(1536)),
        (1888, OpenUtterance(1536, 1792)),
        (2780, CloseUtterance(2560)),
    ]
    assert d.history == [("user", "question"), ("user", "more")]


def test_a_turn_is_never_ended_inside_speech() -> None:
    """Eagerness at its highest, a judge that is always sure, and dips of one window all the way."""
    policy = replace(SEMANTIC, turns=replace(TURNS, silence_limit_ms=200, complete_score=0.0))
    words = [Sound(at, at + 160, f"w{at}") for at in range(512, 4000, 192)]
    d = Dialogue(*words, policy=policy, until=9000)
    assert [at for at, a in d.actions if isinstance(a, CloseUtterance)] == [words[-1].end_ms + 160 + 60]
    assert len(d.history) == 2
