"""Who goes first when many talk to one engine, in virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.engine.qwen3_omni.requests import Frame, Read, Request
from omni_rt.engine.qwen3_omni.scheduler import AHEAD_S, FEW_ROWS, MOST_ROWS, WAITED_ROWS
from tests.qwen3_omni.virtual_time import House, Person, house

SPEECH_S, REPLY_S = 4.0, 6.0


def loop(person: Person, begin: float, until: float) -> None:
    """Speaks, asks, listens, and again."""
    while begin < until:
        person.say(begin, SPEECH_S)
        person.ask(begin + SPEECH_S)
        begin += SPEECH_S + REPLY_S + 0.3


def of(request: Request, person: Person) -> bool:
    context = person.conversation.context
    if isinstance(request, Frame):
        return request.line.cache is context.talker_cache
    return request.chunk is not None and request.chunk.cache is context.cache


def heard(place: House) -> list[float]:
    return [answer.first for person in place.people for answer in person.answers]


@pytest.mark.parametrize(("count", "p95"), [(8, 0.08), (32, 0.15), (64, 0.211)])
def test_many_who_talk_at_random(count: int, p95: float) -> None:
    """All are answered within the time that is wanted of an H200, and nobody runs out of sound."""
    rng = np.random.default_rng(count)
    with house(count) as place:
        for person in place.people:
            loop(person, float(rng.uniform(0, SPEECH_S + REPLY_S)), 12.0)
        place.run(20.0)
        answers = [answer for person in place.people for answer in person.answers if answer.asked_at < 19.0]
        assert len(answers) >= count
        assert np.percentile(heard(place), 95) <= p95
        assert sum(answer.pauses for answer in answers) == 0
        assert max(answer.lead for answer in answers) <= AHEAD_S + 0.2
        assert not any(person.errors for person in place.people)


def test_a_burst_of_turn_ends_is_answered_in_order() -> None:
    with house(64) as place:
        for person in place.people:
            person.say(0.0, SPEECH_S)
            person.ask(SPEECH_S + 0.0001 * person.number)
        place.run(14.0)
        first = [person.answers[0].sound[0][0] for person in place.people]
        assert first == sorted(first)
        # what 64 reads and windows take one after the other would be 64 * (11.5 + 2.5 + 2) ms
        assert first[-1] - SPEECH_S < 0.9
        assert sum(person.answers[0].pauses for person in place.people) <= 1
        rows = [
            sum(request.rows for request in each.requests if isinstance(request, Read)) for each in place.machine.passes
        ]
        assert max(rows) <= MOST_ROWS
        assert WAITED_ROWS < MOST_ROWS
        assert FEW_ROWS < WAITED_ROWS


def test_who_only_speaks_is_listened_to_while_others_talk() -> None:
    """However busy the machine, what was said is prefilled while the person goes on speaking."""
    rng = np.random.default_rng(1)
    with house(64) as place:
        speaker, *others = place.people
        for person in others:
            loop(person, float(rng.uniform(-6.0, 4.0)) + 2.0 if person.number % 2 else 0.5, 12.0)
        speaker.say(0.0, 14.0)
        waited: list[float] = []

        def watch() -> None:
            since = speaker.conversation._since
            waited.append(0.0 if since is None else place.machine.now - since)

        place.run(14.0, watch)
        assert max(waited) < 1.0
        assert speaker.conversation.context.cache.length > 13 * 11


def test_a_cancelled_reply_costs_nothing_more() -> None:
    with house(12) as place:
        for person in place.people:
            person.say(0.0, SPEECH_S)
            person.ask(SPEECH_S)
        cancelled = place.people[::2]
        for person in cancelled:
            place.at(SPEECH_S + 0.15, person.cancel)
        place.run(SPEECH_S + 0.15)
        at = len(place.machine.passes)
        assert any(of(each, person) for one in place.machine.passes for each in one.requests for person in cancelled)
        for person in cancelled:
            for transcription in list(person.conversation._transcripts._asked):
                person.conversation._transcripts.drop([transcription], lost=True)
        place.run(SPEECH_S + 8.0)
        later = [request for one in place.machine.passes[at + 1 :] for request in one.requests]
        assert later
        # what they wrote is read into the context; no token is chosen and no frame made for them
        for person in cancelled:
            own = [each for each in later if of(each, person)]
            assert not [each for each in own if isinstance(each, Frame) or each.choice is not None]
            assert len(own) <= 2
        for person in place.people[1::2]:
            assert sum(samples for _, samples in person.answers[0].sound) == 75 * 1920
