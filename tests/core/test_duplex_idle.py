"""Dialogues in which the user falls silent: `idle_ms` after a reply was heard the assistant speaks again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from omni_rt.core.actions import Action, FinishReply, OpenUtterance, StartReply, StopReply, TimeOut
from tests.core.actors import Plan, Sound, noise
from tests.core.dialogue import PUSH_TO_TALK, SERVER_VAD, Deed, Dialogue

IDLE = replace(SERVER_VAD, idle_ms=5000)
QUESTION = Sound(512, 1536, "question")
# The question's reply is heard to its end at 4148; windows of hearing end at multiples of 32.
HEARD = 4160
SHORT = Plan(audio_ms=400)


def idle(d: Dialogue) -> list[tuple[int, Action]]:
    return [(at, action) for at, action in d.actions if isinstance(action, TimeOut)]


def test_the_silence_after_a_reply_is_the_users_turn() -> None:
    d = Dialogue(QUESTION, until=14_000, policy=IDLE, replies=(Plan(), SHORT))
    finished = next(at for at, action in d.actions if action == FinishReply(1))
    assert finished <= HEARD < finished + 32
    due = HEARD + 5024
    assert idle(d) == [(due, TimeOut(HEARD, due))]
    assert d.actions[d.actions.index((due, TimeOut(HEARD, due))) + 1] == (due, StartReply(2))
    assert [role for role, _ in d.history] == ["user", "assistant", "user", "assistant"]
    assert d.history[2] == ("user", "")


def test_it_goes_on_as_long_as_nobody_speaks() -> None:
    d = Dialogue(QUESTION, until=30_000, policy=IDLE, replies=(Plan(), SHORT))
    times = [at for at, _ in idle(d)]
    assert len(times) == 4
    assert all(5000 + 400 < later - at < 6200 for at, later in pairwise(times))


def test_nothing_happens_before_the_first_reply() -> None:
    assert idle(Dialogue(until=20_000, policy=IDLE)) == []


def test_who_speaks_in_time_is_answered_as_always() -> None:
    d = Dialogue(QUESTION, Sound(8000, 9000, "more"), until=13_000, policy=IDLE)
    assert idle(d) == []
    assert [text for role, text in d.history if role == "user"] == ["question", "more"]


def test_who_begins_to_speak_as_time_is_up_has_the_turn() -> None:
    start = HEARD + 5024 - 32
    d = Dialogue(QUESTION, Sound(start, start + 600, "more"), until=13_000, policy=IDLE)
    assert idle(d) == []
    assert [text for role, text in d.history if role == "user"] == ["question", "more"]


def test_who_speaks_while_a_reply_goes_on_to_its_end_is_not_silent() -> None:
    policy = replace(IDLE, interrupt_reply=False)
    d = Dialogue(QUESTION, Sound(3500, 12_000, "more"), until=14_000, policy=policy)
    assert idle(d) == []
    assert [text for role, text in d.history if role == "user"] == ["question", "more"]


def test_a_click_does_not_begin_the_silence_anew() -> None:
    d = Dialogue(QUESTION, *noise(7000, 8000, 500), until=11_000, policy=IDLE, replies=(Plan(), SHORT))
    assert [at for at, _ in idle(d)] == [HEARD + 5024]


def test_speech_from_before_the_timeout_does_not_belong_to_the_next_turn() -> None:
    d = Dialogue(QUESTION, Sound(11_000, 12_000, "more"), until=13_000, policy=IDLE, replies=(Plan(), SHORT))
    (due, _), opened = idle(d)[0], [action for _, action in d.actions if isinstance(action, OpenUtterance)][-1]
    assert isinstance(opened, OpenUtterance)
    assert opened.from_ms >= due


def test_a_reply_that_the_client_stops_has_been_heard() -> None:
    d = Dialogue(QUESTION, until=9000, policy=IDLE, replies=(Plan(speed=0.5), SHORT), client=[(3000, "cancel")])
    assert any(isinstance(action, StopReply) for _, action in d.actions)
    (at, action), *_ = idle(d)
    assert isinstance(action, TimeOut)
    assert (action.from_ms, at) == (3008, 3008 + 5024)


@pytest.mark.parametrize(
    "client",
    [
        [(5000, replace(IDLE, idle_ms=None))],
        [(5000, PUSH_TO_TALK), (9500, "commit")],
        [(5000, PUSH_TO_TALK), (6000, IDLE)],
        [(9000, "create")],
    ],
)
def test_no_timeout(client: list[tuple[int, Deed]]) -> None:
    """Not asked for any more; the client finds turns, or did and no reply was heard since; it asked for a reply."""
    assert idle(Dialogue(QUESTION, until=12_000, policy=IDLE, client=client)) == []


def test_a_timeout_that_is_asked_for_later_counts_from_the_reply() -> None:
    d = Dialogue(QUESTION, until=13_000, policy=SERVER_VAD, client=[(11_000, IDLE)], replies=(Plan(), SHORT))
    assert [at for at, _ in idle(d)] == [11_008]
