"""Replies out of band, and what else `response.create` may set: on the wire, in the engine, and not in the
conversation."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from omni_rt.engine.api import CallDelta, EngineError, EngineListener, SessionSettings
from omni_rt.media.g711 import ULAW
from tests.support.scripted import ScriptedEngineSession
from tests.support.scripted_server import TONE_S, ScriptedServer
from tests.support.socket_talk import Talk
from tests.support.stage import Stage

ASIDE: dict[str, Any] = {"conversation": "none", "output_modalities": ["text"]}


def _written(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _errors(stage: Stage) -> list[tuple[str, str]]:
    return [(e["error"]["code"], e["error"]["param"]) for e in stage.transport.events if e["type"] == "error"]


async def test_its_items_stay_out_of_the_conversation(stage: Stage) -> None:
    await stage.tell(type="conversation.item.create", item=_written("hi"))
    before = stage.transport.kinds()
    await stage.tell(type="response.create", response=ASIDE | {"metadata": {"topic": "mood"}})
    done = (await stage.until("response.done"))["response"]
    assert stage.transport.kinds()[len(before) :] == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert (done["status"], done["metadata"], done["conversation_id"]) == ("completed", {"topic": "mood"}, None)
    assert done["output"][0]["content"] == [{"type": "output_text", "text": "one two three "}]
    assert stage.texts() == [("user", "hi")]
    main, aside = stage.engine.sessions
    assert main.names() == ["append_text"]
    assert aside.names() == ["restore", "respond", "close"]
    assert aside.calls[0] == ("restore", ("hi",))


async def test_own_input_and_references(stage: Stage) -> None:
    await stage.tell(type="conversation.item.create", item=_written("the first") | {"id": "item_first"})
    await stage.tell(type="conversation.item.create", item=_written("the second"))
    own = [{"type": "item_reference", "id": "item_first"}, _written("what was that?")]
    await stage.tell(type="response.create", response=ASIDE | {"input": own})
    await stage.tell(type="response.create", response=ASIDE | {"input": []})
    await stage.settle()
    asides = stage.engine.sessions[1:]
    assert [aside.calls[0] for aside in asides] == [("restore", ("the first", "what was that?")), ("restore", ())]
    assert len(stage.session.conversation) == 2
    assert not _errors(stage)


async def test_its_settings_are_its_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[SessionSettings] = []
    open_engine = stage.engine.open

    async def spy(name: str, settings: SessionSettings, listener: EngineListener) -> ScriptedEngineSession:
        opened.append(settings)
        return await open_engine(name, settings, listener)

    monkeypatch.setattr(stage.engine, "open", spy)
    lamp = {"type": "function", "name": "lamp", "description": "", "parameters": {"type": "object", "properties": {}}}
    own = {
        "instructions": "Say one word.",
        "max_output_tokens": 7,
        "tools": [lamp],
        "tool_choice": "required",
        "audio": {"output": {"voice": "bell"}},
    }
    await stage.tell(type="response.create", response=ASIDE | own)
    done = (await stage.until("response.done"))["response"]
    assert (done["max_output_tokens"], done["output_modalities"]) == (7, ["text"])
    assert done["audio"]["output"]["voice"] == "bell"
    (settings,) = opened
    assert (settings.instructions, settings.voice, settings.tools[0].name) == ("Say one word.", "bell", "lamp")
    options = stage.model.calls[1][1]
    assert (options.max_tokens, options.tool_choice, options.audio) == (7, "required", False)
    assert (stage.session.wire.instructions, stage.session.wire.voice) == ("", "")


async def test_a_call_out_of_band(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine = stage.engine.open

    async def calling(name: str, settings: SessionSettings, listener: EngineListener) -> ScriptedEngineSession:
        session = await open_engine(name, settings, listener)
        session.words, session.tool = [], CallDelta(1, "call_1", "lamp", "{}")
        return session

    monkeypatch.setattr(stage.engine, "open", calling)
    await stage.tell(type="response.create", response=ASIDE)
    done = (await stage.until("response.done"))["response"]
    assert [(item["type"], item["call_id"]) for item in done["output"]] == [("function_call", "call_1")]
    assert "conversation.item.added" not in stage.transport.kinds()
    assert not len(stage.session.conversation)


async def test_several_in_a_row_while_the_conversation_goes_on(stage: Stage) -> None:
    stage.engine.sessions[0].go.clear()
    await stage.tell(type="response.create")
    for number in "123":
        await stage.tell(type="response.create", response=ASIDE | {"metadata": {"number": number}})
    await stage.settle()
    done = [event["response"] for event in stage.transport.events if event["type"] == "response.done"]
    assert [response["metadata"]["number"] for response in done] == ["1", "2", "3"]
    stage.engine.sessions[0].go.set()
    await stage.settle()
    last = stage.last("response.done")["response"]
    assert last["conversation_id"] == stage.session.replies.conversation_id
    assert [role for role, _ in stage.texts()] == ["assistant"]


async def test_one_can_be_cancelled_and_too_many_are_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine = stage.engine.open

    async def held(name: str, settings: SessionSettings, listener: EngineListener) -> ScriptedEngineSession:
        session = await open_engine(name, settings, listener)
        session.go.clear()
        return session

    monkeypatch.setattr(stage.engine, "open", held)
    for _ in range(9):
        await stage.tell(type="response.create", response=ASIDE)
    assert _errors(stage) == [("too_many_responses", "response.conversation")]
    created = stage.last("response.created")["response"]["id"]
    await stage.tell(type="response.cancel")
    assert _errors(stage)[1:] == [("response_cancel_not_active", "response_id")]
    await stage.tell(type="response.cancel", response_id=created)
    stage.model.go.set()
    done = (await stage.until("response.done"))["response"]
    assert (done["id"], done["status"]) == (created, "cancelled")
    await stage.settle()
    assert stage.last("response.created")["response"]["id"] != created


async def test_no_place_in_the_engine_and_a_failing_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine = stage.engine.open

    async def full(*_: Any) -> ScriptedEngineSession:
        raise EngineError("busy", "all places are taken")

    async def failing(name: str, settings: SessionSettings, listener: EngineListener) -> ScriptedEngineSession:
        session = await open_engine(name, settings, listener)
        session.fail = "out of memory"
        return session

    monkeypatch.setattr(stage.engine, "open", full)
    await stage.tell(type="response.create", event_id="mine", response=ASIDE)
    error = stage.last("error")["error"]
    assert (error["code"], error["param"], error["event_id"]) == ("busy", "response.conversation", "mine")
    monkeypatch.setattr(stage.engine, "open", failing)
    await stage.tell(type="response.create", response=ASIDE)
    assert stage.last("response.done")["response"]["status"] == "failed"
    monkeypatch.setattr(stage.engine, "open", open_engine)
    await stage.tell(type="response.create", response=ASIDE)
    assert stage.last("response.done")["response"]["status"] == "completed"
    assert stage.engine.sessions[1].names()[-1] == "close"


async def test_closing_ends_it(stage: Stage) -> None:
    await stage.tell(type="response.create", response=ASIDE)
    stage.session.on_event('{"type":"response.create","response":{"conversation":"none","output_modalities":["text"]}}')
    await stage.session.close("test")
    assert all(session.names()[-1] == "close" for session in stage.engine.sessions)


@pytest.mark.parametrize(
    ("response", "param"),
    [
        ({"conversation": "other"}, "response.conversation"),
        ({"conversation": "none"}, "response.output_modalities"),
        ({"input": [_written("hi")]}, "response.input"),
        (ASIDE | {"input": [{"type": "item_reference", "id": "x"}]}, "response.input.0.id"),
        (ASIDE | {"input": [_written("a"), {"type": "item_reference"}]}, "response.input.1.id"),
        (ASIDE | {"input": [_written("a") | {"role": "robot"}]}, "response.input.0.role"),
        (
            ASIDE
            | {
                "input": [
                    _written("a") | {"content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}
                ]
            },
            "response.input.0.content.0.image_url",
        ),
        ({"metadata": {"key": 1}}, "response.metadata.key"),
        ({"metadata": {"key": "v" * 513}}, "response.metadata.key"),
        ({"metadata": {str(n): "" for n in range(17)}}, "response.metadata"),
        ({"output_modalities": ["audio", "text"]}, "response.output_modalities"),
        ({"audio": {"output": {"voice": "nobody"}}}, "response.audio.output.voice"),
        ({"audio": {"output": {"voice": "bell"}}}, "response.audio.output.voice"),
        ({"audio": {"output": {"format": {"type": "audio/pcmu"}}}}, "response.audio.output.format"),
        ({"max_output_tokens": 0}, "response.max_output_tokens"),
        ({"max_output_tokens": "few"}, "response.max_output_tokens"),
        ({"tools": [{"type": "function", "name": "a", "parameters": {"type": 5}}]}, "response.tools"),
        ({"colour": "red"}, "response.colour"),
    ],
)
async def test_what_cannot_be_had_is_named(stage: Stage, response: dict[str, Any], param: str) -> None:
    await stage.tell(type="response.create", event_id="mine", response=response)
    for _ in range(200):
        if _errors(stage):
            break
        await stage.settle()
    error = stage.last("error")["error"]
    assert (error["param"], error["event_id"]) == (param, "mine"), error
    assert "response.created" not in stage.transport.kinds()
    await stage.tell(type="response.create", response={"metadata": None, "conversation": None, "audio": None})
    assert (await stage.until("response.done"))["response"]["status"] == "completed"


async def test_spoken_over_a_websocket_in_its_own_format(talk: Talk, tone_server: ScriptedServer) -> None:
    output = {"format": {"type": "audio/pcmu"}, "voice": "bell"}
    await talk.send("response.create", response={"conversation": "none", "input": [], "audio": {"output": output}})
    events = await talk.until("response.done")
    sent = b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta")
    assert len(sent) / 8000 == pytest.approx(TONE_S, abs=0.005)
    assert np.abs(ULAW.decode(sent).astype(int)).max() == pytest.approx(8000, rel=0.1)
    assert events[-1]["response"]["audio"]["output"] == output
    await talk.send("response.create", response={"audio": {"output": {"format": {"type": "audio/pcma"}}}})
    events = await talk.until("response.done")
    sent = b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta")
    assert len(sent) / 8000 == pytest.approx(TONE_S, abs=0.005)
