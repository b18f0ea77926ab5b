"""Dialogues near people who talk behind the speaker, while no reply is heard: they take turns that nothing answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import AbandonReply, CloseUtterance, ReleaseReply, StartReply
from omni_rt.core.duplex import DuplexPolicy
from omni_rt.core.turns import Words
from tests.core.actors import Judge, Sound, words_of
from tests.core.dialogue import SEMANTIC, SERVER_VAD, SPECULATIVE, Deed, Dialogue

ROOM = 80.0
"""the crowd's level while none of it sounds like speech"""
CROWD = Sound(512, 1536, "chatter", 0.8, 200.0)
PERSON = Sound(4000, 5024, "question")


def in_a_crowd(*sounds: Sound, policy: DuplexPolicy = SEMANTIC, client: tuple[tuple[int, Deed], ...] = ()) -> Dialogue:
    return Dialogue(*sounds, until=9000, policy=policy, client=client, judge=Judge((0.6,)), room=ROOM)


def begun(d: Dialogue) -> list[StartReply | ReleaseReply]:
    return [a for _, a in d.actions if isinstance(a, StartReply | ReleaseReply)]


def test_a_crowd_is_not_answered_and_what_it_said_is_kept() -> None:
    d = in_a_crowd(CROWD)
    assert [a for _, a in d.actions][1:] == [CloseUtterance(1536)]
    assert d.history == [("user", "chatter")]
    assert d.idle


def test_whoever_speaks_to_the_microphone_is_answered_right_after_it() -> None:
    d = in_a_crowd(CROWD, PERSON)
    assert begun(d) == [StartReply(1)]
    assert d.history == [("user", "chatter"), ("user", "question"), ("assistant", words_of(1600))]


def test_a_whisper_in_a_quiet_room_is_answered() -> None:
    d = Dialogue(replace(CROWD, text="whisper"), until=9000, judge=Judge((0.6,)), room=12.0)
    assert begun(d) == [StartReply(1)]


def test_a_reply_that_was_prepared_for_a_crowd_is_never_heard() -> None:
    d = in_a_crowd(CROWD, PERSON, policy=SPECULATIVE)
    kinds = [a for _, a in d.actions]
    assert kinds[1:4] == [StartReply(1, speculative=True), AbandonReply(1), CloseUtterance(1536)]
    assert begun(d)[1:] == [StartReply(2, speculative=True), ReleaseReply(2)]
    assert d.left(1) == []
    assert d.history == [("user", "chatter"), ("user", "question"), ("assistant", words_of(1600))]


def test_words_do_not_make_it_near() -> None:
    """Their tables say that the turn is complete."""
    awaits = replace(SPECULATIVE, turns=replace(SPECULATIVE.turns, words_ms=512)) if SPECULATIVE.turns else SPECULATIVE
    d = in_a_crowd(CROWD, policy=awaits, client=((1700, Words("complete")),))
    assert not [a for _, a in d.actions if isinstance(a, ReleaseReply)]
    assert d.history == [("user", "chatter")]


def test_a_client_may_have_it_answered() -> None:
    d = in_a_crowd(CROWD, client=((3000, "create"),))
    assert begun(d) == [StartReply(1)]


@pytest.mark.parametrize("asked_ms", [1000, 1600])
def test_a_reply_that_the_client_asked_for_meanwhile_is_made(asked_ms: int) -> None:
    d = in_a_crowd(CROWD, client=((asked_ms, "create"),))
    assert begun(d) == [StartReply(1)]
    assert d.history[0] == ("user", "chatter")


@pytest.mark.parametrize(("speech", "answered"), [(0.8, False), (0.95, True)])
def test_over_the_last_moments_of_a_reply_a_crowd_is_no_answer_to_it(speech: float, answered: bool) -> None:
    """The reply's sound leaves from 2200 to 3800; a word by somebody near the microphone is an answer."""
    d = in_a_crowd(replace(PERSON, start_ms=512, end_ms=1536), Sound(3488, 3616, "yes", speech, 200.0))
    assert (("user", "yes") in d.history) == answered
    assert len(begun(d)) == 1 + answered


def test_whoever_asks_for_turns_by_silence_alone_gets_them() -> None:
    assert begun(in_a_crowd(CROWD, policy=SERVER_VAD)) == [StartReply(1)]
