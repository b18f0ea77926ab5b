"""Dialogues in which the user speaks over a reply: interruption, backchannel, cough, answer.

The question is over at 1536, decided at 1756; the first reply's sound leaves from 2160 to 3760, is made by 2456 and
heard by 3840, which is seen at 3856. Speech over it ducks after 96 ms and stops it after 224 ms.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.core.actions import (
    Action,
    CloseUtterance,
    Duck,
    FinishReply,
    OpenUtterance,
    StartReply,
    StopReply,
    Unduck,
)
from omni_rt.core.duplex import DuplexPolicy
from tests.core.actors import Plan, Sound, noise, words_of
from tests.core.dialogue import DUCKED, SEMANTIC, SERVER_VAD, TURNS, Dialogue

ALL = words_of(1600)
QUESTION = Sound(512, 1536, "question")
PATIENT = replace(SEMANTIC, interrupt_reply=False)


def after_the_question(
    *sounds: Sound, until: int = 12_000, policy: DuplexPolicy = SEMANTIC, **script: object
) -> Dialogue:
    d = Dialogue(QUESTION, *sounds, until=until, policy=policy, **script)  # type: ignore[arg-type]
    assert d.actions[:2] == [(608, OpenUtterance(212, 512)), (1756, CloseUtterance(1536))]
    return d


def rest(d: Dialogue) -> list[tuple[int, Action]]:
    """What was decided after the first reply was begun."""
    assert d.actions[2] == (1756, StartReply(1))
    return d.actions[3:]


# -- interruption


def test_going_on_right_after_the_decided_end_takes_the_reply_back() -> None:
    d = after_the_question(Sound(1856, 2880, "more"))
    assert rest(d)[:6] == [
        (1952, Duck()),
        (2080, StopReply(1, "turn_detected", 1856)),
        (2080, Unduck()),
        (2080, OpenUtterance(1556, 1856)),
        (3232, CloseUtterance(2880)),  # as long as the pause that was cut in on, and some
        (3232, StartReply(2)),
    ]
    assert d.left(1) == []
    assert d.claimed[1] == 0
    assert d.history == [("user", "question"), ("user", "more"), ("assistant", ALL)]


def test_interruption_while_the_reply_is_made_but_unheard() -> None:
    """Its first sound has left and is still on the way."""
    d = after_the_question(Sound(1984, 3008, "wait"))
    assert rest(d)[1] == (2208, StopReply(1, "turn_detected", 1984))
    assert d.left(1) == [(2160, 2220, DUCKED)]
    assert d.claimed[1] == 0
    assert d.history == [("user", "question"), ("user", "wait"), ("assistant", ALL)]


def test_interruption_in_the_middle() -> None:
    d = after_the_question(Sound(2816, 3840, "wait"))
    assert rest(d) == [
        (2912, Duck()),
        (3040, StopReply(1, "turn_detected", 2816)),
        (3040, Unduck()),
        (3040, OpenUtterance(2516, 2816)),
        (4060, CloseUtterance(3840)),
        (4060, StartReply(2)),
        (6140, FinishReply(2)),
    ]
    assert d.left(1) == [(2160, 2920, 1.0), (2920, 3040, DUCKED)]
    assert d.claimed[1] == d.truly_heard[1] == 800
    assert d.history == [
        ("user", "question"),
        ("assistant", "one two three four"),
        ("user", "wait"),
        ("assistant", ALL),
    ]


def test_interruption_at_the_last_word_when_everything_is_made() -> None:
    d = after_the_question(Sound(3488, 4512, "wait"))
    assert rest(d)[:2] == [(3584, Duck()), (3712, StopReply(1, "turn_detected", 3488))]
    assert d.claimed[1] == d.truly_heard[1] == 1472
    assert d.history[1] == ("assistant", words_of(1400))
    assert d.history[2:] == [("user", "wait"), ("assistant", ALL)]


def test_interruption_when_everything_was_heard_and_the_end_not_yet_seen() -> None:
    d = after_the_question(Sound(3616, 4640, "wait"))
    assert rest(d)[:2] == [(3712, Duck()), (3840, StopReply(1, "turn_detected", 3616))]
    assert d.claimed[1] == 1600
    assert d.history[:3] == [("user", "question"), ("assistant", ALL), ("user", "wait")]


def test_speech_that_would_interrupt_just_after_the_end_is_a_turn() -> None:
    d = after_the_question(Sound(3648, 4672, "and"))
    assert rest(d)[:4] == [
        (3744, Duck()),
        (3856, FinishReply(1)),
        (3856, Unduck()),
        (3856, OpenUtterance(3348, 3648)),
    ]
    assert d.history == [("user", "question"), ("assistant", ALL), ("user", "and"), ("assistant", ALL)]


def test_interruption_twice_in_a_row() -> None:
    d = after_the_question(Sound(2816, 3840, "wait"), Sound(5120, 6144, "no"))
    stops = [(at, a) for at, a in d.actions if isinstance(a, StopReply)]
    assert stops == [
        (3040, StopReply(1, "turn_detected", 2816)),
        (5344, StopReply(2, "turn_detected", 5120)),
    ]
    assert d.claimed == {1: 800, 2: 5344 - 80 - 4460, 3: 1600}
    assert d.history == [
        ("user", "question"),
        ("assistant", words_of(800)),
        ("user", "wait"),
        ("assistant", words_of(800)),
        ("user", "no"),
        ("assistant", ALL),
    ]


def test_interruption_again_before_the_second_reply_is_heard() -> None:
    d = after_the_question(Sound(2816, 3840, "wait"), Sound(4160, 5184, "no"))
    assert [a for _, a in d.actions if isinstance(a, StopReply)] == [
        StopReply(1, "turn_detected", 2816),
        StopReply(2, "turn_detected", 4160),
    ]
    assert d.left(2) == []
    assert d.history[2:] == [("user", "wait"), ("user", "no"), ("assistant", ALL)]


def test_a_stammered_interruption_is_one() -> None:
    d = after_the_question(Sound(2816, 2944, "w-"), Sound(3040, 4064, "wait"))
    assert rest(d)[:2] == [(2912, Duck()), (3136, StopReply(1, "turn_detected", 2816))]
    assert d.history[2] == ("user", "w- wait")


# -- backchannel


def test_backchannel_ducks_and_nothing_is_lost() -> None:
    d = after_the_question(Sound(2816, 2976, "mhm"))
    assert rest(d) == [(2912, Duck()), (3200, Unduck()), (3856, FinishReply(1))]
    assert d.left(1) == [(2160, 2920, 1.0), (2920, 3200, DUCKED), (3200, 3760, 1.0)]
    assert d.heard(1) == ALL
    assert d.history == [("user", "question"), ("assistant", ALL)]
    assert d.idle


def test_backchannel_twice() -> None:
    d = after_the_question(Sound(2432, 2592, "mhm"), Sound(3008, 3168, "yeah"))
    assert rest(d) == [
        (2528, Duck()),
        (2816, Unduck()),
        (3104, Duck()),
        (3392, Unduck()),
        (3856, FinishReply(1)),
    ]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_a_little_more_than_a_backchannel_is_an_interruption() -> None:
    d = after_the_question(Sound(2816, 3040, "stop"))
    assert rest(d)[1] == (3040, StopReply(1, "turn_detected", 2816))
    assert d.history[1:3] == [("assistant", "one two three four"), ("user", "stop")]


def test_people_who_talk_behind_the_speaker_duck_and_have_the_turn_when_it_is_over() -> None:
    """What they say is never speech beyond doubt."""
    d = after_the_question(Sound(2816, 4096, "people", 0.8))
    assert rest(d)[:4] == [(2912, Duck()), (3856, FinishReply(1)), (3856, Unduck()), (3856, OpenUtterance(2516, 2816))]
    assert d.heard(1) == ALL


def test_clicks_over_a_reply_do_not_even_duck() -> None:
    d = after_the_question(*noise(2200, 3800, every_ms=160, bump_ms=64))
    assert rest(d) == [(3856, FinishReply(1))]


@pytest.mark.parametrize("cough_ms", [96, 128, 192])
def test_cough_while_the_reply_is_made_keeps_the_reply(cough_ms: int) -> None:
    d = after_the_question(Sound(1856, 1856 + cough_ms))
    assert rest(d) == [(1952, Duck()), (1856 + cough_ms + 224, Unduck()), (3856, FinishReply(1))]
    assert d.heard(1) == ALL
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_the_first_sound_during_a_cough_is_soft_until_the_cough_is_judged() -> None:
    d = after_the_question(Sound(2016, 2144))
    assert rest(d)[:2] == [(2112, Duck()), (2368, Unduck())]
    assert d.left(1) == [(2160, 2380, DUCKED), (2380, 3760, 1.0)]


def test_a_short_fixed_silence_judges_a_backchannel_sooner() -> None:
    policy = replace(SERVER_VAD, turns=replace(TURNS, fixed_silence_ms=128))
    d = Dialogue(QUESTION, Sound(2816, 2976, "mhm"), policy=policy, until=6000)
    assert d.actions[1:] == [
        (1664, CloseUtterance(1536)),
        (1664, StartReply(1)),
        (2912, Duck()),
        (3104, Unduck()),
        (3764, FinishReply(1)),
    ]


# -- answers at the end of a reply


def test_a_word_that_lasts_beyond_the_reply_is_an_answer() -> None:
    d = after_the_question(Sound(3744, 3904, "yes"))
    assert rest(d)[:6] == [
        (3840, Duck()),
        (3856, FinishReply(1)),
        (3856, Unduck()),
        (3856, OpenUtterance(3444, 3744)),
        (4124, CloseUtterance(3904)),
        (4124, StartReply(2)),
    ]
    assert d.history[2:] == [("user", "yes"), ("assistant", ALL)]


def test_a_word_that_is_still_judged_when_the_reply_ends_is_an_answer() -> None:
    d = after_the_question(Sound(3680, 3808, "yes"))
    assert rest(d)[:6] == [
        (3776, Duck()),
        (3856, FinishReply(1)),
        (3856, Unduck()),
        (3856, OpenUtterance(3380, 3680)),
        (4028, CloseUtterance(3808)),
        (4028, StartReply(2)),
    ]


def test_a_word_over_the_last_moments_of_a_reply_is_an_answer() -> None:
    d = after_the_question(Sound(3488, 3616, "yes"))
    assert rest(d)[:6] == [
        (3584, Duck()),
        (3840, Unduck()),
        (3856, FinishReply(1)),
        (3856, OpenUtterance(3188, 3488)),
        (3856, CloseUtterance(3616)),
        (3856, StartReply(2)),
    ]
    assert d.history == [("user", "question"), ("assistant", ALL), ("user", "yes"), ("assistant", ALL)]


def test_the_same_word_a_little_earlier_is_a_backchannel() -> None:
    d = after_the_question(Sound(3200, 3328, "yes"))
    assert rest(d) == [(3296, Duck()), (3552, Unduck()), (3856, FinishReply(1))]
    assert d.history == [("user", "question"), ("assistant", ALL)]


def test_a_word_before_the_one_that_lasts_beyond_the_reply_makes_no_turn_of_its_own() -> None:
    d = after_the_question(Sound(3264, 3392, "mhm"), Sound(3744, 4512, "and"))
    assert rest(d)[:6] == [
        (3360, Duck()),
        (3616, Unduck()),
        (3840, Duck()),
        (3856, FinishReply(1)),
        (3856, Unduck()),
        (3856, OpenUtterance(3444, 3744)),
    ]
    assert d.history[2:] == [("user", "and"), ("assistant", ALL)]


def test_an_answer_is_kept_for_a_client_that_replies_itself() -> None:
    policy = replace(SEMANTIC, create_reply=False)
    d = Dialogue(QUESTION, Sound(3616, 3744, "yes"), policy=policy, client=[(2000, "create")], until=8000)
    assert d.actions[2:] == [
        (2000, StartReply(1)),
        (3712, Duck()),
        (3968, Unduck()),
        (4080, FinishReply(1)),
        (4080, OpenUtterance(3316, 3616)),
        (4080, CloseUtterance(3744)),
    ]
    assert d.history[2:] == [("user", "yes")]


def test_an_utterance_that_outlasts_the_reply_is_heard_out() -> None:
    d = after_the_question(Sound(3712, 6016, "and another thing"))
    assert rest(d)[:6] == [
        (3808, Duck()),
        (3856, FinishReply(1)),
        (3856, Unduck()),
        (3856, OpenUtterance(3412, 3712)),
        (6236, CloseUtterance(6016)),
        (6236, StartReply(2)),
    ]


# -- replies that are not the user's to interrupt


def test_speech_over_a_reply_is_answered_after_it() -> None:
    d = after_the_question(Sound(2432, 2944, "also"), policy=PATIENT)
    assert rest(d)[:4] == [
        (2528, OpenUtterance(2132, 2432)),
        (3164, CloseUtterance(2944)),
        (3856, FinishReply(1)),
        (3856, StartReply(2)),
    ]
    assert d.left(1) == [(2160, 3760, 1.0)]
    assert d.history == [("user", "question"), ("assistant", ALL), ("user", "also"), ("assistant", ALL)]


def test_speech_over_a_reply_that_ends_after_it_is_answered_at_its_own_end() -> None:
    d = after_the_question(Sound(3072, 4608, "also"), policy=PATIENT)
    assert rest(d)[:4] == [
        (3168, OpenUtterance(2772, 3072)),
        (3856, FinishReply(1)),
        (4828, CloseUtterance(4608)),
        (4828, StartReply(2)),
    ]


def test_no_owed_reply_begins_while_the_user_speaks_again() -> None:
    """One reply answers both."""
    d = after_the_question(Sound(2432, 2944, "also"), Sound(3392, 5120, "and"), policy=PATIENT)
    assert rest(d)[:6] == [
        (2528, OpenUtterance(2132, 2432)),
        (3164, CloseUtterance(2944)),
        (3488, OpenUtterance(3092, 3392)),
        (3856, FinishReply(1)),
        (5340, CloseUtterance(5120)),
        (5340, StartReply(2)),
    ]
    assert d.history[2:] == [("user", "also"), ("user", "and"), ("assistant", ALL)]


def test_an_owed_reply_is_given_when_the_present_one_is_cancelled() -> None:
    d = after_the_question(
        Sound(2432, 2944, "also"), policy=PATIENT, replies=(Plan(20_000), Plan()), client=[(4000, "cancel")]
    )
    assert rest(d)[2:4] == [(4000, StopReply(1, "client_cancelled")), (4000, StartReply(2))]
    assert d.history[2:] == [("user", "also"), ("assistant", ALL)]


# -- replies that the client makes itself


def test_speech_over_a_reply_stops_it_even_if_none_follows() -> None:
    policy = replace(SEMANTIC, create_reply=False)
    d = Dialogue(QUESTION, Sound(2816, 3840, "wait"), policy=policy, client=[(1900, "create")], until=9000)
    assert d.actions[2:] == [
        (1900, StartReply(1)),
        (2912, Duck()),
        (3040, StopReply(1, "turn_detected", 2816)),
        (3040, Unduck()),
        (3040, OpenUtterance(2516, 2816)),
        (4060, CloseUtterance(3840)),
    ]
    assert d.history[2:] == [("user", "wait")]
    assert d.idle
