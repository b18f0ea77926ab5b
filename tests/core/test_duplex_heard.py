"""Dialogues about what was heard of a reply: loudspeakers that are slow, report or do not, and engines that are slow.

The first reply is begun at 1756; its sound leaves from 2160 on.
"""

from __future__ import annotations

from omni_rt.core.actions import FinishReply, StopReply
from tests.core.actors import Loudspeaker, Plan, Sound, words_of
from tests.core.dialogue import Dialogue

QUESTION = Sound(512, 1536, "question")


def test_a_slow_loudspeaker_that_reports_is_believed() -> None:
    speaker = Loudspeaker(delay_ms=300, reports=range(2200, 9000, 100))
    d = Dialogue(QUESTION, Sound(3008, 4032, "wait"), loudspeaker=speaker, until=12_000)
    assert d.actions[4] == (3232, StopReply(1, "turn_detected", 3008))
    assert d.claimed[1] == d.truly_heard[1] == 3232 - 300 - 2160
    assert d.history[1] == ("assistant", "one two three")


def test_a_loudspeaker_that_has_stopped_reporting_is_still_known() -> None:
    speaker = Loudspeaker(delay_ms=300, reports=(2200, 2300))
    d = Dialogue(QUESTION, Sound(3392, 4416, "wait"), loudspeaker=speaker, until=12_000)
    assert d.claimed[1] == d.truly_heard[1] == 3616 - 300 - 2160


def test_a_slow_loudspeaker_that_never_reports_is_thought_to_be_quicker() -> None:
    d = Dialogue(QUESTION, Sound(3008, 4032, "wait"), loudspeaker=Loudspeaker(delay_ms=300), until=12_000)
    assert (d.claimed[1], d.truly_heard[1]) == (992, 772)


def test_a_slow_loudspeaker_ends_the_reply_later() -> None:
    d = Dialogue(QUESTION, loudspeaker=Loudspeaker(delay_ms=500, reports=range(2200, 9000, 100)), until=12_000)
    assert d.actions[3:] == [(4276, FinishReply(1))]
    assert d.claimed[1] == 1600


def test_a_client_that_plays_itself_drops_what_it_has_not_played() -> None:
    d = Dialogue(QUESTION, Sound(2816, 3840, "wait"), loudspeaker=Loudspeaker(client_plays=True), until=12_000)
    assert d.actions[4] == (3040, StopReply(1, "turn_detected", 2816))
    assert d.claimed[1] == d.truly_heard[1] == 3040 - 80 - 2156
    assert d.history[1] == ("assistant", "one two three four")


def test_an_engine_slower_than_speech_is_heard_with_gaps() -> None:
    d = Dialogue(QUESTION, Sound(4096, 5120, "wait"), replies=(Plan(speed=0.5), Plan()), until=12_000)
    assert d.actions[4] == (4320, StopReply(1, "turn_detected", 4096))
    assert d.left(1) == [(2160, 2560, 1.0), (2960, 3360, 1.0), (3760, 4160, 1.0)]
    assert d.claimed[1] == d.truly_heard[1] == 1200
    assert d.history[1] == ("assistant", words_of(1200))


def test_a_long_reply_goes_on_while_nobody_speaks() -> None:
    d = Dialogue(QUESTION, replies=(Plan(60_000),), until=70_000)
    assert d.actions[3:] == [(62_256, FinishReply(1))]
    assert d.claimed[1] == d.truly_heard[1] == 60_000
