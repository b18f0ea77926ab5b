"""The grammar of a turn knows a turn, and finds every event that is missing, doubled or out of its place."""

from __future__ import annotations

from typing import Any

import pytest

from omni_rt.engine.api import CallDelta
from tests.support.stage import Stage
from tests.support.turn_grammar import TRANSCRIBED, TurnGrammar

# Whether these come is another matter than where: a turn without them is one still.
MAY_LACK = {f"{TRANSCRIBED}.completed", "output_audio_buffer.stopped"}
# What the engine understood comes when it comes, and so do the sound's beginning and end.
MAY_WANDER = {f"{TRANSCRIBED}.completed", "output_audio_buffer.started"}


def _wrong(events: list[dict[str, Any]]) -> list[str]:
    grammar = TurnGrammar()
    return [f"{event['type']}: {fault}" for event in events for fault in grammar.step(event)]


async def _spoken(stage: Stage) -> list[dict[str, Any]]:
    await stage.turn()
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    return stage.transport.events


async def _written_with_a_call(stage: Stage) -> list[dict[str, Any]]:
    stage.model.tool = CallDelta(0, "call_1", "lamp", '{"on":true}')
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    await stage.tell(type="conversation.item.create", item=item)
    await stage.tell(type="response.create", response={"output_modalities": ["text"]})
    await stage.until("response.done")
    return stage.transport.events


TURNS = pytest.mark.parametrize("turn", [_spoken, _written_with_a_call])


@TURNS
async def test_a_turn_is_one(stage: Stage, turn: Any) -> None:
    assert not _wrong(await turn(stage))


@TURNS
async def test_every_event_is_missed(stage: Stage, turn: Any) -> None:
    events = await turn(stage)
    for place, event in enumerate(events[:-1]):
        if event["type"] not in MAY_LACK:
            assert _wrong(events[:place] + events[place + 1 :]), (place, event["type"])


@TURNS
async def test_no_event_may_come_twice(stage: Stage, turn: Any) -> None:
    events = await turn(stage)
    for place, event in enumerate(events):
        assert _wrong([*events[: place + 1], *events[place:]]), (place, event["type"])


@TURNS
async def test_no_two_events_may_change_places(stage: Stage, turn: Any) -> None:
    events = await turn(stage)
    for place in range(len(events) - 1):
        first, second = events[place : place + 2]
        if MAY_WANDER & {first["type"], second["type"]}:
            continue
        swapped = [*events[:place], second, first, *events[place + 2 :]]
        assert _wrong(swapped), (place, first["type"], second["type"])


async def test_two_responses_of_one_conversation_are_found(stage: Stage) -> None:
    events = await _spoken(stage)
    created = next(event for event in events if event["type"] == "response.created")
    second = created | {"response": created["response"] | {"id": "resp_second"}}
    place = events.index(created) + 1
    assert any("is not done" in fault for fault in _wrong([*events[:place], second, *events[place:]]))
