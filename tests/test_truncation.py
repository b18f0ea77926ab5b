"""`truncation`: what leaves the engine's context, what stays in the conversation, and when a reply is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from omni_rt.engine.api import Usage
from tests.support.stage import Stage

RATIO = {"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 100}}


async def _exchange(stage: Stage, text: str) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    before = len(stage.transport.events)
    await stage.tell(type="conversation.item.create", item=item)
    await stage.tell(type="response.create", response={"output_modalities": ["text"]}, event_id=f"on {text}")
    for _ in range(10):
        await stage.settle()
    done = [event for event in stage.transport.events[before:] if event["type"] == "response.done"]
    assert len(done) == 1


def _restored(stage: Stage) -> list[tuple[str, ...]]:
    return [call[1] for call in stage.model.calls if call[0] == "restore"]


async def test_the_oldest_exchanges_leave_the_context_only(stage: Stage) -> None:
    await stage.tell(type="session.update", session={"truncation": RATIO})
    stage.model.usage = Usage(input_tokens=30, output_tokens=10)
    await _exchange(stage, "first")
    assert not _restored(stage)
    stage.model.usage = Usage(input_tokens=120, output_tokens=10)
    await _exchange(stage, "second")
    assert _restored(stage) == [("second", "one two three ")]
    assert [text for _, text in stage.texts()] == ["first", "one two three ", "second", "one two three "]
    first = next(iter(stage.session.conversation)).id
    await stage.tell(type="conversation.item.retrieve", item_id=first)
    assert stage.last("conversation.item.retrieved")["item"]["content"][0]["text"] == "first"


@pytest.mark.parametrize("truncation", ["auto", {"type": "retention_ratio", "retention_ratio": 0.5}])
async def test_all_stays_while_there_is_room(stage: Stage, truncation: Any) -> None:
    await stage.tell(type="session.update", session={"truncation": truncation})
    stage.model.usage = Usage(input_tokens=2000, output_tokens=10)
    for text in ("first", "second", "third"):
        await _exchange(stage, text)
    assert not _restored(stage)
    assert "error" not in stage.transport.kinds()


async def test_disabled_refuses_a_reply_until_there_is_room(stage: Stage) -> None:
    await stage.tell(type="session.update", session={"truncation": "disabled"})
    stage.model.usage = Usage(input_tokens=3500, output_tokens=10)
    await _exchange(stage, "first")
    assert "error" not in stage.transport.kinds()
    asked = stage.model.names().count("respond")
    await _exchange(stage, "second")
    error = stage.last("error")["error"]
    assert (error["code"], error["param"], error["event_id"]) == ("context_full", "session.truncation", "on second")
    assert stage.last("response.done")["response"]["status"] == "failed"
    assert stage.model.names().count("respond") == asked
    await stage.tell(type="session.update", session={"truncation": "auto"})
    await _exchange(stage, "third")
    assert stage.last("response.done")["response"]["status"] == "completed"


async def test_a_reply_that_left_the_engines_hands_is_cut_by_estimate(stage: Stage) -> None:
    """After its context was made anew the engine cannot cut the reply; the session does, and gives it what stays."""
    await stage.turn()
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    reply = stage.last("response.done")["response"]["output"][0]["id"]
    item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}
    await stage.tell(type="conversation.item.create", item=item, previous_item_id="root")
    asked = stage.model.names().count("keep_heard")
    await stage.tell(type="conversation.item.truncate", item_id=reply, content_index=0, audio_end_ms=400)
    assert stage.last("conversation.item.truncated")["transcript"] == "one two"
    assert stage.model.names().count("keep_heard") == asked
    assert _restored(stage)[-1] == ("Be brief.", "hello there", "one two")


async def test_a_reply_that_is_only_still_heard_goes_on_when_the_context_is_made_anew(stage: Stage) -> None:
    await stage.turn()
    await stage.until("response.done")
    item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}
    await stage.tell(type="conversation.item.create", item=item, previous_item_id="root")
    assert _restored(stage)
    assert not {"output_audio_buffer.cleared", "conversation.item.truncated"} & set(stage.transport.kinds())
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    assert stage.last("response.done")["response"]["status"] == "completed"


async def test_a_reply_that_waited_begins_though_the_oldest_have_to_leave(stage: Stage) -> None:
    """It begins where the one before it ends, and is made on what is in the context then; after it they leave."""
    await stage.tell(type="session.update", session={"truncation": RATIO})
    for text in ("first", "second"):
        await _exchange(stage, text)
    stage.model.usage = Usage(input_tokens=400, output_tokens=10)
    await stage.tell(type="response.create")
    await stage.tell(type="response.create")
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    await stage.settle()
    stage.transport.play()
    for _ in range(40):
        await asyncio.sleep(0.01)
    assert stage.transport.kinds().count("output_audio_buffer.stopped") == 2
    assert not stage.session.replying
    assert _restored(stage)
