"""The DashScope dialect, what its client is told: a session's real events, translated."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from omni_rt.engine.api import INPUT_RATE, CallDelta, Transcript, Usage
from omni_rt.realtime.dashscope.client_events import ClientEvents
from omni_rt.realtime.dashscope.server_events import RENAMED, UNTOLD, ServerEvents
from omni_rt.realtime.settings import WireSession
from omni_rt.realtime.writer import EventWriter
from tests.support import dashscope_events, strict_events
from tests.support.dashscope_line import Line, samples, text, tone


async def test_a_spoken_turn(line: Line) -> None:
    line.model.usage = Usage(12, 5, 3, 600)
    line.hear(1000, True)
    line.hear(1000, False)
    await line.until("response.done")
    deltas = ("response.audio.delta", "response.audio_transcript.delta")
    assert [kind for kind in line.transport.kinds() if kind not in deltas] == [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.created",
        "response.created",
        "conversation.item.input_audio_transcription.completed",
        "response.output_item.added",
        "conversation.item.created",
        "response.content_part.added",
        "response.audio.done",
        "response.audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert len(samples(*(e["delta"] for e in line.transport.events if e["type"] == deltas[0]))) == 3 * 4800
    assert line.last("conversation.item.input_audio_transcription.completed")["transcript"] == "hello there"
    done = line.last("response.done")["response"]
    assert (done["modalities"], done["status"]) == (["text", "audio"], "completed")
    (part,) = done["output"][0]["content"]
    assert part == {"type": "audio", "text": "one two three ", "transcript": "one two three "}
    assert line.last("response.content_part.done")["part"] == part
    assert done["usage"]["input_tokens_details"] == {"text_tokens": 12, "audio_tokens": 0, "image_tokens": 0}
    assert (done["usage"]["output_tokens"], done["usage"]["total_tokens"]) == (3, 15)


async def test_push_to_talk_with_a_picture_and_a_text_answer(line: Line) -> None:
    await line.update(turn_detection=None, modalities=["text"])
    await line.tell(type="input_audio_buffer.append", audio=text(tone(INPUT_RATE)))
    file = io.BytesIO()
    Image.new("RGB", (320, 240), "red").save(file, "JPEG")
    image = base64.b64encode(file.getvalue()).decode()
    await line.tell(type="input_image_buffer.append", image=image)
    while not any(call[0] == "append_image" for call in line.model.calls):
        await line.settle()
    await line.tell(type="input_audio_buffer.commit")
    assert "response.created" not in line.transport.kinds()
    await line.tell(type="response.create", response={"instructions": "Be brief."})
    await line.until("response.done")
    texts = [event["delta"] for event in line.transport.events if event["type"] == "response.text.delta"]
    assert "".join(texts) == line.last("response.text.done")["text"] == "one two three "
    assert line.last("response.done")["response"]["output"][0]["content"] == [
        {"type": "text", "text": "one two three "}
    ]
    assert not [kind for kind in line.transport.kinds() if kind.startswith("response.audio")]
    await line.tell(type="input_audio_buffer.clear")
    assert line.transport.kinds()[-1] == "input_audio_buffer.cleared"


async def test_a_tool(line: Line) -> None:
    await line.update(tools=[{"type": "function", "function": {"name": "lamp", "description": "A lamp."}}])
    line.model.words, line.model.tool = [], CallDelta(0, "call_1", "lamp", '{"on": true}')
    await line.tell(type="response.create")
    await line.until("response.done")
    done = line.last("response.function_call_arguments.done")
    assert (done["call_id"], done["name"], done["arguments"]) == ("call_1", "lamp", '{"on": true}')
    assert line.last("response.output_item.done")["item"]["type"] == "function_call"
    output = {"type": "function_call_output", "call_id": "call_1", "output": "ok"}
    await line.tell(type="conversation.item.create", item=output)
    assert line.last("conversation.item.created")["item"]["output"] == "ok"
    assert ("append_tool_result", "call_1", "ok") in line.model.calls


async def test_an_interruption_and_a_cancellation(line: Line) -> None:
    """The client hears of them by the speech's start and the response's end; there is no event for what was heard."""
    line.model.words = [f"word{number}" for number in range(20)]
    line.hear(1000, True)
    line.hear(1000, False)
    await line.until("response.done")
    line.transport.events.clear()
    await asyncio.sleep(0.5)
    line.hear(1000, True)
    await line.settle()
    assert line.transport.kinds() == ["input_audio_buffer.speech_started"]
    remembered = line.session.conversation.context()[-1]
    assert remembered.role == "assistant"
    assert remembered.text
    assert " ".join(line.model.words).startswith(remembered.text), "the model knows what was heard in that time"
    assert len(remembered.text.split()) < len(line.model.words)
    line.model.go.clear()
    line.hear(1000, False)
    await line.settle()
    await line.tell(type="response.cancel")
    assert line.last("response.done")["response"]["status"] == "cancelled"
    await line.tell(type="response.cancel", event_id="late")
    error = line.last("error")["error"]
    assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "late")


async def test_every_bad_event_costs_itself_only(line: Line) -> None:
    for raw in ("", "{", "[]", "1", '{"type": 1}', '{"type": "x"}', '{"type": "session.update", "session": {"a": 1}}'):
        line.session.on_event(raw)
    await line.settle()
    assert [e["error"]["type"] for e in line.transport.events[1:]] == ["invalid_request_error"] * 7
    assert (await line.update(instructions="Still here."))["instructions"] == "Still here."


async def test_a_failed_reply(line: Line) -> None:
    line.model.fail = "no memory"
    await line.tell(type="response.create")
    response = (await line.until("response.done"))["response"]
    assert (response["status"], response["status_details"]["type"]) == ("failed", "failed")
    assert line.last("error")["error"]["message"] == "no memory"


async def test_what_cannot_be_understood_is_an_error(line: Line) -> None:
    line.model.commit = lambda item_id: None  # type: ignore[method-assign]
    await line.turn()
    item = line.last("input_audio_buffer.committed")["item_id"]
    line.session.on_transcript(Transcript(item, "", True, "the recogniser failed"))
    error = line.last("error")
    assert (error["error"]["code"], error["error"]["message"]) == ("transcription_failed", "the recogniser failed")
    assert (error["error"]["event_id"], "item_id" in error) == (None, False)


async def test_a_silence_that_becomes_too_long(line: Line) -> None:
    """It is told as any turn is that the server commits."""
    await line.update(turn_detection={"type": "server_vad", "idle_timeout_ms": 5000})
    line.hear(1000, True)
    line.hear(1000, False)
    await line.until("response.done")
    while line.session.replying:
        await asyncio.sleep(0.01)
    line.transport.events.clear()
    await line.listen(5200, False)
    await line.until("response.done")
    kinds = line.transport.kinds()
    assert kinds[:3] == ["input_audio_buffer.committed", "conversation.item.created", "response.created"]
    assert line.transport.events[0]["item_id"] == line.transport.events[1]["item"]["id"]


# -- the check of the dialect's own events


def test_each_of_our_events_is_known_there_or_untold() -> None:
    """Whatever our sessions tell; no client of the dialect can ask for an item."""
    source = Path(__file__).parent.parent / "omni_rt"
    told = "".join(path.read_text("utf-8") for path in [*source.glob("session/*.py"), source / "realtime/writer.py"])
    kinds = {kind for kind in strict_events.kinds() if f'"{kind}"' in told} - {"conversation.item.retrieved"}
    assert len(kinds) > 25
    assert {*RENAMED, *UNTOLD} <= kinds
    assert {RENAMED.get(kind, kind) for kind in kinds - {*UNTOLD}} <= dashscope_events.KINDS.keys()


def test_wrong_events_are_found(event_faults: Path) -> None:
    cleared = {"type": "input_audio_buffer.cleared", "event_id": "event_1"}
    assert dashscope_events.faults(cleared) == []
    assert dashscope_events.faults(cleared | {"colour": "red"}) == ["colour: Extra inputs are not permitted"]
    assert dashscope_events.faults({"type": "response.output_audio.done"}) == [
        "the dialect has no event of type 'response.output_audio.done'"
    ]
    before = event_faults.read_text()
    ServerEvents(ClientEvents(())).translate({"type": "rate_limits.updated", "event_id": "event_1"})
    added = event_faults.read_text().removeprefix(before)
    event_faults.write_text(before)
    assert "no event of type 'rate_limits.updated'" in added


def test_our_default_session_has_no_fault_there() -> None:
    sent: list[dict[str, Any]] = []
    EventWriter(sent.append).session("session.created", WireSession(id="sess_1", model="local"))
    (told,) = ServerEvents(ClientEvents(())).translate(sent[0])
    assert dashscope_events.faults(told) == []
