"""`truncation`: what leaves the engine's context, what stays in the conversation, and when a reply is refused. Replies
that are truncated to what was heard: by the server over WebRTC, by the client over WebSocket."""

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


async def test_a_reply_that_left_the_engines_hands_and_is_interrupted_leaves_what_was_heard(stage: Stage) -> None:
    await stage.turn()
    await stage.until("response.done")
    item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}
    await stage.tell(type="conversation.item.create", item=item, previous_item_id="root")
    stage.transport.play(2)
    stage.hear(500, True)
    truncated = await stage.until("conversation.item.truncated")
    assert truncated["transcript"] in ("one", "one two")
    assert _restored(stage)[-1] == ("Be brief.", "hello there", truncated["transcript"])
    assert "keep_heard" not in stage.model.names()


async def _interrupted(stage: Stage, chunks: int = 2) -> str:
    """A reply of three words, interrupted when so many had been played by the server's estimate; gives its item."""
    await stage.turn()
    stage.transport.play(chunks)
    stage.hear(500, True)
    await stage.settle()
    item: str = stage.last("response.done")["response"]["output"][0]["id"]
    assert stage.session.replies.speaking_item is None
    return item


async def _truncate(stage: Stage, item: str, audio_end_ms: int) -> None:
    await stage.tell(type="conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=audio_end_ms)


def _cuts(stage: Stage) -> list[tuple[str, Any, Any]]:
    kinds = ("conversation.item.truncated", "conversation.item.deleted")
    told = [event for event in stage.transport.events if event["type"] in kinds]
    return [(event["type"].rpartition(".")[2], event.get("audio_end_ms"), event.get("transcript")) for event in told]


def _replies(stage: Stage) -> list[str]:
    """What the model would be told of the assistant, if its context were made anew."""
    return [item.text for item in stage.session.conversation.context() if item.role == "assistant"]


async def test_over_websocket_an_estimate_is_the_models_alone(socket_stage: Stage) -> None:
    stage = socket_stage
    item = await _interrupted(stage)
    estimate = next(call for call in stage.model.calls if call[0] == "keep_heard")[2]
    assert 200 <= estimate <= 400
    assert _replies(stage) == [" ".join(["one", "two"][: estimate // 200])]
    assert _cuts(stage) == []
    await stage.tell(type="conversation.item.retrieve", item_id=item)
    assert stage.last("conversation.item.retrieved")["item"]["content"][0]["transcript"] == "one two three "
    await _truncate(stage, item, 250)
    await stage.tell(type="conversation.item.retrieve", item_id=item)
    assert stage.last("conversation.item.retrieved")["item"]["content"][0]["transcript"] == "one"
    assert _cuts(stage) == [("truncated", 250, "one")]
    assert _replies(stage) == ["one"]
    asked = [call[2] for call in stage.model.calls if call[0] == "keep_heard"]
    assert asked == [estimate, 250]


async def test_over_websocket_a_client_that_says_nothing_is_told_nothing(socket_stage: Stage) -> None:
    stage = socket_stage
    await _interrupted(stage)
    stage.hear(400, False)
    await stage.settle()
    assert stage.transport.kinds().count("response.done") == 2
    assert _cuts(stage) == []


@pytest.mark.parametrize(
    ("told_ms", "cut", "kept"),
    [
        (0, ("deleted", None, None), []),
        (100, ("truncated", 100, ""), []),
        (400, ("truncated", 400, "one two"), ["one two"]),
        (600_000, ("truncated", 600, "one two three"), ["one two three"]),
    ],
)
@pytest.mark.parametrize("estimated", [0, 3])
async def test_over_websocket_the_client_says_how_much_was_heard(
    socket_stage: Stage, estimated: int, told_ms: int, cut: tuple[str, Any, Any], kept: list[str]
) -> None:
    """Whatever the server's estimate was: no word, or all of them. An item of which no word was heard is the client's
    alone."""
    stage = socket_stage
    item = await _interrupted(stage, estimated)
    assert bool(_replies(stage)) == bool(estimated)
    await _truncate(stage, item, told_ms)
    assert _cuts(stage) == [cut]
    assert _replies(stage) == kept
    assert (item in stage.session.conversation) == (told_ms > 0)


async def test_a_truncation_stops_the_reply_that_is_being_made(socket_stage: Stage) -> None:
    stage = socket_stage
    await stage.turn()
    item = stage.last("response.output_item.added")["item"]["id"]
    await _truncate(stage, item, 250)
    assert _cuts(stage) == [("truncated", 250, "one")]


async def test_a_truncation_of_what_is_no_spoken_reply_stops_nothing(socket_stage: Stage) -> None:
    stage = socket_stage
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "Hello."}]}
    await stage.tell(type="conversation.item.create", item=item)
    stage.model.go.clear()
    await stage.tell(type="response.create")
    await _truncate(stage, next(iter(stage.session.conversation)).id, 250)
    assert stage.last("error")["error"]["param"] == "item_id"
    stage.model.go.set()
    assert (await stage.until("response.done"))["response"]["status"] == "completed"


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
