"""Dialogues in which something breaks: a reply without sound, a failing engine, a dying worker, a lost transport."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import (
    Action,
    CloseUtterance,
    DropUtterance,
    Duck,
    FinishReply,
    OpenUtterance,
    StartReply,
    StopReply,
    Unduck,
)
from omni_rt.core.duplex import DuplexPolicy
from tests.core.actors import Plan, Sound, words_of
from tests.core.dialogue import PUSH_TO_TALK, SEMANTIC, Deed, Dialogue

ALL = words_of(1600)
QUESTION = Sound(512, 1536, "question")
PATIENT = replace(SEMANTIC, interrupt_reply=False)
ALSO = Sound(2432, 2944, "also")


def after_the_question(
    *sounds: Sound,
    client: list[tuple[int, Deed]] | None = None,
    replies: tuple[Plan, ...] = (Plan(),),
    policy: DuplexPolicy = SEMANTIC,
) -> tuple[Dialogue, list[tuple[int, Action]]]:
    """The dialogue, and what was decided after the first reply was begun at 1756."""
    d = Dialogue(QUESTION, *sounds, client=client or [], replies=replies, policy=policy, until=12_000)
    assert d.actions[2] == (1756, StartReply(1))
    return d, d.actions[3:]


# -- replies that are short of something


def test_a_reply_that_only_calls_a_tool_is_over_when_it_is_made() -> None:
    d, rest = after_the_question(replies=(Plan(0, call=True),))
    assert rest == [(1906, FinishReply(1))]
    assert d.history == [("user", "question"), ("function_call", "")]
    assert d.idle


def test_a_reply_that_says_a_word_and_calls_a_tool_is_over_when_the_word_is_heard() -> None:
    d, rest = after_the_question(replies=(Plan(400, call=True),))
    assert rest == [(2656, FinishReply(1))]
    assert d.history == [("user", "question"), ("assistant", "one two"), ("function_call", "")]


def test_a_failed_reply_gives_the_turn_back() -> None:
    d, rest = after_the_question(replies=(Plan(0, end="failed"), Plan()), client=[(4000, "create")])
    assert rest == [(1906, FinishReply(1)), (4000, StartReply(2)), (6080, FinishReply(2))]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_a_reply_that_fails_half_way_is_heard_as_far_as_it_went() -> None:
    d, rest = after_the_question(replies=(Plan(800, end="failed"),))
    assert rest == [(3056, FinishReply(1))]
    assert d.history == [("user", "question"), ("assistant", words_of(800))]


def test_an_interruption_of_a_reply_without_sound() -> None:
    d, rest = after_the_question(Sound(1888, 2912, "wait"), replies=(Plan(0, 4000), Plan()))
    assert rest[1] == (2112, StopReply(1, "turn_detected", 1888))
    assert d.history == [("user", "question"), ("user", "wait"), ("assistant", ALL)]


# -- the engine's worker dies


def test_lost_before_the_first_sound() -> None:
    d, rest = after_the_question(client=[(2000, "engine lost"), (3000, "engine back")])
    assert rest == [(2000, StopReply(1, "engine_lost"))]
    assert d.history == [("user", "question")]
    assert d.idle


def test_lost_while_speaking_keeps_what_was_heard() -> None:
    d, rest = after_the_question(replies=(Plan(speed=1.0),), client=[(3000, "engine lost"), (4000, "engine back")])
    assert rest == [(3000, StopReply(1, "engine_lost"))]
    assert d.claimed[1] == d.truly_heard[1] == 760
    assert d.history == [("user", "question"), ("assistant", words_of(600))]


def test_lost_while_the_made_rest_plays_takes_nothing_away() -> None:
    d, rest = after_the_question(client=[(3000, "engine lost"), (4000, "engine back")])
    assert rest == [(3856, FinishReply(1))]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_lost_in_the_middle_of_an_utterance() -> None:
    d = Dialogue(QUESTION, client=[(1000, "engine lost"), (3000, "engine back")], until=9000)
    assert d.actions[1:] == [(1756, CloseUtterance(1536)), (1756, StartReply(1)), (5080, FinishReply(1))]
    assert d.left(1) == [(3400, 5000, 1.0)]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_lost_while_nobody_speaks() -> None:
    d = Dialogue(QUESTION, client=[(100, "engine lost"), (300, "engine back")], until=9000)
    assert d.actions == Dialogue(QUESTION, until=9000).actions


def test_lost_with_a_reply_owed_makes_that_one_when_it_is_back() -> None:
    plans = (Plan(20_000, speed=1.0), Plan())
    d, rest = after_the_question(
        ALSO, policy=PATIENT, replies=plans, client=[(4000, "engine lost"), (5000, "engine back")]
    )
    assert rest[2:4] == [(4000, StopReply(1, "engine_lost")), (4000, StartReply(2))]
    assert d.left(2) == [(5400, 7000, 1.0)]
    assert d.history == [
        ("user", "question"),
        ("assistant", words_of(4000 - 80 - 2160)),
        ("user", "also"),
        ("assistant", ALL),
    ]


def test_lost_while_the_user_speaks_over_the_reply_gives_them_the_turn() -> None:
    d, rest = after_the_question(Sound(1888, 2912, "wait"), client=[(2016, "engine lost"), (2200, "engine back")])
    assert rest[:6] == [
        (1984, Duck()),
        (2016, StopReply(1, "engine_lost")),
        (2016, Unduck()),
        (2016, OpenUtterance(1588, 1888)),
        (3132, CloseUtterance(2912)),
        (3132, StartReply(2)),
    ]
    assert d.history == [("user", "question"), ("user", "wait"), ("assistant", ALL)]


def test_lost_twice() -> None:
    script: list[tuple[int, Deed]] = [
        (1900, "engine lost"),
        (2500, "create"),
        (2600, "engine lost"),
        (3000, "engine back"),
    ]
    d, rest = after_the_question(client=[*script, (4000, "create")])
    assert rest == [
        (1900, StopReply(1, "engine_lost")),
        (2500, StartReply(2)),
        (2600, StopReply(2, "engine_lost")),
        (4000, StartReply(3)),
        (6080, FinishReply(3)),
    ]
    assert d.history == [("user", "question"), ("assistant", ALL)]


# -- the transport is lost


def test_cut_off_in_the_middle_of_a_reply() -> None:
    d, rest = after_the_question(client=[(3000, "transport lost")])
    assert rest == [(3000, StopReply(1, "transport_lost"))]
    assert d.history == [("user", "question"), ("assistant", words_of(600))]
    assert d.idle


def test_cut_off_before_the_first_sound() -> None:
    d, rest = after_the_question(client=[(2000, "transport lost")])
    assert rest == [(2000, StopReply(1, "transport_lost"))]
    assert d.history == [("user", "question")]


def test_cut_off_in_the_middle_of_an_utterance() -> None:
    d = Dialogue(QUESTION, client=[(1300, "transport lost")], until=9000)
    assert d.actions == [(608, OpenUtterance(212, 512)), (1300, CloseUtterance(1280))]
    assert d.history == [("user", "question")]
    assert d.idle


def test_cut_off_in_a_pause() -> None:
    d = Dialogue(QUESTION, client=[(1740, "transport lost")], until=9000)
    assert d.actions[1:] == [(1740, CloseUtterance(1536))]


@pytest.mark.parametrize("at_ms", [100, 5000])
def test_cut_off_while_nobody_speaks(at_ms: int) -> None:
    d = Dialogue(QUESTION, client=[(at_ms, "transport lost")], until=9000)
    assert d.actions == [entry for entry in Dialogue(QUESTION, until=9000).actions if entry[0] < at_ms]
    assert d.idle


def test_cut_off_while_an_overlap_is_judged() -> None:
    d, rest = after_the_question(Sound(2816, 3840, "wait"), client=[(2944, "transport lost")])
    assert rest == [(2912, Duck()), (2944, Unduck()), (2944, StopReply(1, "transport_lost"))]
    assert d.history == [("user", "question"), ("assistant", words_of(600))]


def test_cut_off_with_a_reply_owed() -> None:
    d, rest = after_the_question(ALSO, policy=PATIENT, client=[(3500, "transport lost")])
    assert rest[2:] == [(3500, StopReply(1, "transport_lost"))]
    assert d.history[2:] == [("user", "also")]
    assert d.idle


def test_cut_off_in_the_middle_of_an_utterance_over_a_reply() -> None:
    _, rest = after_the_question(ALSO, policy=PATIENT, client=[(2900, "transport lost")])
    assert rest[1:] == [(2900, StopReply(1, "transport_lost")), (2900, CloseUtterance(2880))]


def test_cut_off_in_push_to_talk_commits_nothing() -> None:
    d = Dialogue(QUESTION, policy=PUSH_TO_TALK, client=[(1300, "transport lost")], until=9000)
    assert d.actions == [(20, OpenUtterance(0, 0)), (1300, DropUtterance())]
    assert d.history == []


# -- what is stale


def test_progress_of_an_older_reply_changes_nothing() -> None:
    d, _ = after_the_question()
    duplex = d.duplex
    duplex.create_reply()
    assert duplex.generation == 2
    for generation in (0, 1, 3):
        duplex.reply_sent(generation)
        duplex.reply_made(generation)
        assert duplex.reply_played(generation) == []
        assert duplex.making
    duplex.reply_sent(2)
    assert duplex.reply_played(2) == []
    duplex.reply_made(2)
    assert duplex.reply_played(1) == duplex.reply_played(3) == []
    assert duplex.reply_played(2) == [FinishReply(2)]
    assert duplex.reply_played(2) == []
