"""Dialogues in which the client has its say: create, cancel, commit, clear, push-to-talk, a change of policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import (
    CloseUtterance,
    DropUtterance,
    Duck,
    FinishReply,
    OpenUtterance,
    StartReply,
    StopReply,
    Unduck,
)
from tests.core.actors import Judge, Plan, Sound, words_of
from tests.core.dialogue import PUSH_TO_TALK, SEMANTIC, SERVER_VAD, Deed, Dialogue

ALL = words_of(1600)
QUESTION = Sound(512, 1536, "question")
OPEN = (608, OpenUtterance(212, 512))
MANUAL = replace(SEMANTIC, create_reply=False)


def with_client(*sounds_and_deeds: Sound | tuple[int, Deed], until: int = 9000, **script: object) -> Dialogue:
    sounds = [s for s in sounds_and_deeds if isinstance(s, Sound)]
    deeds = [d for d in sounds_and_deeds if isinstance(d, tuple)]
    return Dialogue(*sounds, client=deeds, until=until, **script)  # type: ignore[arg-type]


# -- cancel


def test_cancel_while_the_reply_is_made() -> None:
    d = with_client(QUESTION, (2000, "cancel"))
    assert d.actions[3:] == [(2000, StopReply(1, "client_cancelled"))]
    assert d.history == [("user", "question")]
    assert d.idle


def test_cancel_while_the_reply_is_heard_and_made() -> None:
    d = with_client(QUESTION, (2440, "cancel"))
    assert d.actions[3:] == [(2440, StopReply(1, "client_cancelled"))]
    assert d.claimed[1] == d.truly_heard[1] == 200
    assert d.history[1] == ("assistant", "one")


def test_output_is_cleared_while_the_made_reply_plays() -> None:
    d = with_client(QUESTION, (3000, "cancel"), (3000, "hush"))
    assert d.actions[3:] == [(3000, StopReply(1, "client_cancelled"))]
    assert d.claimed[1] == d.truly_heard[1] == 760
    assert d.history[1] == ("assistant", words_of(600))


def test_clearing_the_output_of_a_reply_nobody_hears_yet_keeps_it() -> None:
    d = with_client(QUESTION, (2000, "hush"))
    assert d.actions[3:] == [(3856, FinishReply(1))]


@pytest.mark.parametrize("deed", ["cancel", "hush", "commit", "clear"])
@pytest.mark.parametrize("at_ms", [100, 6000])
def test_nothing_to_act_on(deed: Deed, at_ms: int) -> None:
    d = with_client(QUESTION, (at_ms, deed))
    assert d.actions == Dialogue(QUESTION, until=9000).actions


def test_cancel_while_an_overlap_is_judged_gives_the_user_the_turn() -> None:
    d = with_client(QUESTION, Sound(2240, 3264, "wait"), (2400, "cancel"))
    assert d.actions[3:] == [
        (2336, Duck()),
        (2400, StopReply(1, "client_cancelled")),
        (2400, Unduck()),
        (2400, OpenUtterance(1940, 2240)),
        (3484, CloseUtterance(3264)),
        (3484, StartReply(2)),
        (5584, FinishReply(2)),
    ]
    assert d.history[-2:] == [("user", "wait"), ("assistant", ALL)]


# -- create


def test_create_while_nobody_speaks() -> None:
    d = with_client((1000, "create"))
    assert d.actions == [(1000, StartReply(1)), (3080, FinishReply(1))]
    assert d.history == [("assistant", ALL)]


def test_create_while_the_user_speaks_waits_for_the_end_of_the_turn() -> None:
    d = with_client(QUESTION, (1000, "create"))
    assert d.actions == Dialogue(QUESTION, until=9000).actions


def test_create_while_the_user_speaks_is_not_forgotten_when_the_client_replies_itself() -> None:
    d = with_client(QUESTION, (1000, "create"), policy=MANUAL)
    assert d.actions[1:3] == [(1756, CloseUtterance(1536)), (1756, StartReply(1))]


def test_create_while_the_user_speaks_nothing_after_all() -> None:
    d = with_client(QUESTION, (1000, "create"), (1600, "clear"))
    assert d.actions[1:3] == [(1600, DropUtterance()), (1600, StartReply(1))]


def test_create_and_commit_while_the_user_speaks() -> None:
    d = with_client(QUESTION, (1000, "create"), (1600, "commit"))
    assert d.actions[1:3] == [(1600, CloseUtterance(1600)), (1600, StartReply(1))]


def test_create_after_the_client_heard_of_the_turn() -> None:
    d = with_client(QUESTION, (1800, "create"), policy=MANUAL)
    assert d.actions == [OPEN, (1756, CloseUtterance(1536)), (1800, StartReply(1)), (3880, FinishReply(1))]


def test_create_while_a_made_reply_plays_waits_for_its_end() -> None:
    """As after a tool's result: "let me look" is said to its end."""
    d = with_client(QUESTION, (2600, "create"))
    assert d.actions[3:] == [(3856, FinishReply(1)), (3856, StartReply(2)), (5956, FinishReply(2))]
    assert d.left(1) == [(2160, 3760, 1.0)]
    assert d.history[1:] == [("assistant", ALL), ("assistant", ALL)]


def test_a_waiting_create_is_answered_with_the_interruption() -> None:
    d = with_client(QUESTION, Sound(3008, 4032, "wait"), (1800, "create"), (2600, "create"), policy=MANUAL)
    assert d.actions[2:] == [
        (1800, StartReply(1)),
        (3104, Duck()),
        (3232, StopReply(1, "turn_detected", 3008)),
        (3232, Unduck()),
        (3232, OpenUtterance(2708, 3008)),
        (4252, CloseUtterance(4032)),
        (4252, StartReply(2)),
        (6352, FinishReply(2)),
    ]


# -- commit and clear while turns are found


def test_commit_in_the_middle_of_speech_cuts_it_there() -> None:
    d = with_client(Sound(512, 1500, "one"), Sound(1500, 2560, "two"), (1500, "commit"))
    assert d.actions[:4] == [
        OPEN,
        (1500, CloseUtterance(1500)),
        (1568, OpenUtterance(1500, 1500)),
        (2780, CloseUtterance(2560)),
    ]
    assert d.history == [("user", "one"), ("user", "two"), ("assistant", ALL)]


def test_clear_in_the_middle_of_speech_forgets_what_was_before() -> None:
    d = with_client(Sound(512, 1500, "one"), Sound(1500, 2560, "two"), (1504, "clear"))
    assert d.actions[:3] == [
        OPEN,
        (1504, DropUtterance()),
        (1568, OpenUtterance(1472, 1472)),
    ]
    assert d.history == [("user", "two"), ("assistant", ALL)]


def test_clear_while_an_overlap_is_judged_judges_it_again() -> None:
    d = with_client(QUESTION, Sound(2816, 3840, "wait"), (2944, "clear"))
    assert d.actions[3:7] == [
        (2912, Duck()),
        (2944, Unduck()),
        (3008, Duck()),
        (3136, StopReply(1, "turn_detected", 2912)),
    ]
    assert d.history[2] == ("user", "wait")


def test_a_word_over_the_end_of_a_reply_can_be_cleared() -> None:
    d = with_client(QUESTION, Sound(3488, 3616, "yes"), (3850, "clear"))
    assert d.actions[3:] == [(3584, Duck()), (3840, Unduck()), (3856, FinishReply(1))]


def test_a_word_over_a_stopped_reply_is_no_answer_to_the_next() -> None:
    plans = (Plan(), Plan(0, first_text_ms=10))
    d = with_client(QUESTION, Sound(2816, 2976, "mhm"), (3210, "hush"), (3220, "create"), replies=plans)
    assert d.actions[5:] == [
        (3210, StopReply(1, "client_cancelled")),
        (3220, StartReply(2)),
        (3230, FinishReply(2)),
    ]


# -- push-to-talk


def test_push_to_talk_waits_for_the_client() -> None:
    d = with_client(QUESTION, (2500, "commit"), (2500, "create"), policy=PUSH_TO_TALK, until=9000)
    assert d.actions == [
        (20, OpenUtterance(0, 0)),
        (2500, CloseUtterance(2500)),
        (2500, StartReply(1)),
        (2520, OpenUtterance(2500, 2500)),
        (4580, FinishReply(1)),
    ]
    assert d.judged == []
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_push_to_talk_commit_without_create_is_not_answered() -> None:
    d = with_client(QUESTION, (2500, "commit"), policy=PUSH_TO_TALK)
    assert d.history == [("user", "question")]
    assert not [a for _, a in d.actions if isinstance(a, StartReply)]


def test_push_to_talk_clear_forgets() -> None:
    d = with_client(QUESTION, (2000, "clear"), (2500, "commit"), policy=PUSH_TO_TALK)
    assert [a for _, a in d.actions if isinstance(a, DropUtterance)] == [DropUtterance()]
    assert d.history == [("user", "")]


def test_push_to_talk_create_does_not_wait_for_a_commit() -> None:
    d = with_client(QUESTION, (1000, "create"), policy=PUSH_TO_TALK)
    assert d.actions[1:] == [(1000, StartReply(1)), (3080, FinishReply(1))]


def test_speech_over_a_reply_means_nothing_in_push_to_talk() -> None:
    d = with_client(Sound(1500, 2500, "also"), (1000, "create"), (3200, "commit"), policy=PUSH_TO_TALK)
    assert (3080, FinishReply(1)) in d.actions
    assert not [a for _, a in d.actions if isinstance(a, Duck)]
    assert d.history == [("assistant", ALL), ("user", "also")]


# -- change of policy


def test_push_to_talk_in_the_middle_of_an_utterance_leaves_it_to_the_client() -> None:
    d = with_client(QUESTION, (1000, PUSH_TO_TALK), (3000, "commit"), (3000, "create"))
    assert d.actions[:3] == [OPEN, (3000, CloseUtterance(3000)), (3000, StartReply(1))]
    assert d.judged == []
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_push_to_talk_while_an_overlap_is_judged_lets_the_reply_go_on() -> None:
    d = with_client(QUESTION, Sound(2816, 3840, "wait"), (2944, PUSH_TO_TALK))
    assert d.actions[3:6] == [
        (2912, Duck()),
        (2944, Unduck()),
        (2960, OpenUtterance(2940, 2940)),
    ]
    assert (3856, FinishReply(1)) in d.actions


def test_turns_found_again_after_push_to_talk() -> None:
    d = with_client(QUESTION, (100, SEMANTIC), policy=PUSH_TO_TALK)
    assert d.actions[:4] == [
        (20, OpenUtterance(0, 0)),
        (100, DropUtterance()),
        OPEN,
        (1756, CloseUtterance(1536)),
    ]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_turns_found_again_in_the_middle_of_speech() -> None:
    d = with_client(QUESTION, (900, SEMANTIC), policy=PUSH_TO_TALK)
    assert d.actions[1:3] == [(900, DropUtterance()), (992, OpenUtterance(596, 896))]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_the_pre_roll_does_not_reach_into_what_was_committed() -> None:
    d = with_client(QUESTION, (400, "commit"), (400, "clear"), (400, SEMANTIC), policy=PUSH_TO_TALK)
    assert d.actions[1:3] == [(400, CloseUtterance(400)), (608, OpenUtterance(400, 512))]


def test_a_word_from_before_push_to_talk_is_no_answer() -> None:
    d = with_client(QUESTION, Sound(3488, 3616, "yes"), (3842, PUSH_TO_TALK), (3845, SEMANTIC))
    assert d.actions[3:] == [(3584, Duck()), (3840, Unduck()), (3856, FinishReply(1))]


def test_a_fixed_silence_set_in_a_pause_holds_at_once() -> None:
    d = with_client(QUESTION, (1700, SERVER_VAD), judge=Judge(delay_ms=None))
    assert d.actions[1] == (2048, CloseUtterance(1536))


def test_replies_made_uninterruptible_in_the_middle_of_one() -> None:
    d = with_client(QUESTION, Sound(2816, 3328, "also"), (2700, replace(SEMANTIC, interrupt_reply=False)))
    assert d.actions[3:] == [
        (2912, OpenUtterance(2516, 2816)),
        (3548, CloseUtterance(3328)),
        (3856, FinishReply(1)),
        (3856, StartReply(2)),
        (5956, FinishReply(2)),
    ]


def test_push_to_talk_pays_what_is_owed() -> None:
    d = with_client(QUESTION, (1000, "create"), (1200, PUSH_TO_TALK), policy=MANUAL)
    assert d.actions[1] == (1200, StartReply(1))


def test_a_reply_without_sound_does_not_stand_in_the_way() -> None:
    call = Plan(0, call=True)
    d = with_client(QUESTION, (1906, "create"), (2100, "create"), replies=(call, Plan()))
    assert d.actions[3:] == [(1906, FinishReply(1)), (2100, StartReply(2)), (4180, FinishReply(2))]
    assert d.history == [("user", "question"), ("function_call", ""), ("assistant", ALL)]
