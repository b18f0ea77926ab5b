"""The session's settings: what real clients send is taken and echoed whole, what cannot be had is refused by name."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.scripted_server import TONE_S, ScriptedServer
from tests.support.socket_talk import Talk
from tests.support.stage import Stage


@pytest.mark.parametrize(
    "settings",
    [
        {"truncation": "auto"},
        {"truncation": "disabled"},
        {"truncation": {"type": "retention_ratio", "retention_ratio": 0.8, "token_limits": None}},
        {"truncation": {"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 900}}},
        {"parallel_tool_calls": True},
        {"parallel_tool_calls": False},
        {"include": []},
        {"tracing": "auto"},
        {"tracing": {"workflow_name": "w", "group_id": "g", "metadata": {"a": "b"}}},
        {"tracing": None},
        {"prompt": {"id": "pmpt_1", "version": "2", "variables": {"city": "Bern"}}},
        {"reasoning": {"effort": "low"}},
        {"tool_choice": {"type": "function", "name": "lamp"}},
        {"tool_choice": "required"},
        {"max_output_tokens": 512},
        {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}},
        {"audio": {"input": {"noise_reduction": {"type": "far_field"}}}},
        {"audio": {"input": {"noise_reduction": None}}},
        {"audio": {"output": {"speed": 0.25}}},
        {"audio": {"output": {"speed": 1.5}}},
        {"audio": {"output": {"voice": "bell"}}},
    ],
)
async def test_taken_and_echoed_whole(stage: Stage, settings: dict[str, Any]) -> None:
    await stage.tell(type="session.update", session={"type": "realtime", **settings})
    assert "error" not in stage.transport.kinds()
    echoed = stage.last("session.updated")["session"]
    assert _within(settings, echoed) == settings


def _within(asked: Any, given: Any) -> Any:
    """The part of `given` that `asked` speaks of."""
    if not isinstance(asked, dict) or given is None:
        return given
    return {key: _within(value, given[key]) for key, value in asked.items()}


async def test_transcription_as_real_clients_ask_for_it(stage: Stage) -> None:
    asked = {
        "model": "gpt-4o-mini-transcribe",
        "language": "en",
        "prompt": "names",
        "keywords": ["omni"],
        "delay": "low",
    }
    await stage.tell(type="session.update", session={"audio": {"input": {"transcription": asked}}})
    assert stage.last("session.updated")["session"]["audio"]["input"]["transcription"] == asked
    await stage.tell(type="session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
    echoed = stage.last("session.updated")["session"]["audio"]["input"]["transcription"]
    assert echoed == {"model": "whisper-1"}
    assert "error" not in stage.transport.kinds()


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"truncation": "never"}, "truncation"),
        ({"truncation": {"type": "other"}}, "truncation.type"),
        ({"truncation": {"type": "retention_ratio"}}, "truncation.retention_ratio"),
        ({"truncation": {"type": "retention_ratio", "retention_ratio": 1.1}}, "truncation.retention_ratio"),
        (
            {
                "truncation": {
                    "type": "retention_ratio",
                    "retention_ratio": 1,
                    "token_limits": {"post_instructions": -1},
                }
            },
            "truncation.token_limits.post_instructions",
        ),
        ({"include": ["item.input_audio_transcription.logprobs"]}, "include"),
        ({"include": ["colour"]}, "include.0"),
        ({"tools": [{"type": "mcp", "server_label": "a", "server_url": "http://b"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "mcp", "server_label": "a"}}, "tool_choice.type"),
        ({"tracing": "loud"}, "tracing"),
        ({"parallel_tool_calls": "maybe"}, "parallel_tool_calls"),
        ({"audio": {"output": {"speed": 0.2}}}, "audio.output.speed"),
        ({"audio": {"output": {"speed": 1.6}}}, "audio.output.speed"),
        ({"audio": {"output": {"voice": {"id": "nobody"}}}}, "audio.output.voice"),
    ],
)
async def test_refused_by_name(stage: Stage, settings: dict[str, Any], param: str) -> None:
    before = stage.session.wire
    await stage.tell(type="session.update", event_id="mine", session=settings)
    error = stage.last("error")["error"]
    assert (error["param"], error["event_id"]) == (f"session.{param}", "mine"), error
    assert stage.session.wire == before


async def test_transcription_is_told_without_what_is_not_set(stage: Stage) -> None:
    """Pipecat stops reading at a model that is null."""
    assert stage.last("session.created")["session"]["audio"]["input"]["transcription"] == {}
    asked = {"audio": {"input": {"transcription": {"language": "de"}}}}
    await stage.tell(type="session.update", session=asked)
    assert stage.last("session.updated")["session"]["audio"]["input"]["transcription"] == {"language": "de"}


async def test_for_a_voice_of_openais_the_engines_own_speaks(stage: Stage) -> None:
    """openai-agents asks for "ash" where its user names none; all else of its update holds."""
    settings = {"instructions": "Be kind.", "audio": {"output": {"voice": "ash"}}}
    await stage.tell(type="session.update", session=settings)
    echoed = stage.last("session.updated")["session"]
    assert (echoed["instructions"], echoed["audio"]["output"]["voice"]) == ("Be kind.", "")
    await stage.turn()
    stage.transport.play()
    await stage.tell(type="session.update", session=settings)
    assert "error" not in stage.transport.kinds()


async def test_mcp_tools_are_refused_for_one_response_too(stage: Stage) -> None:
    await stage.tell(type="response.create", response={"tools": [{"type": "mcp", "server_label": "a"}]})
    error = stage.last("error")["error"]
    assert error["param"] == "response.tools.0.type"
    assert "MCP" in error["message"]


FINE = {"type": "function", "name": "fine", "parameters": {"type": "object", "properties": {}}}
ODD = {"type": "function", "name": "odd", "parameters": {"type": "object", "properties": {"x": {"not": {}}}}}


async def test_a_tool_whose_schema_the_engine_cannot_hold_to_is_refused_by_its_place(stage: Stage) -> None:
    """By an engine that promises arguments that fit; another takes it."""
    await stage.tell(type="session.update", session={"tools": [FINE, ODD]})
    assert "error" not in stage.transport.kinds()
    stage.session.capabilities = replace(stage.session.capabilities, exact_tools=True)
    before = stage.session.wire
    await stage.tell(type="session.update", session={"tools": [FINE, ODD, FINE | {"name": "other"}]})
    error = stage.last("error")["error"]
    assert (error["code"], error["param"]) == ("tool_schema", "session.tools.1.parameters")
    assert "tools[1].parameters of 'odd' cannot be enforced: properties.x.not" in error["message"]
    assert stage.session.wire == before
    await stage.tell(type="response.create", response={"tools": [ODD]})
    assert stage.last("error")["error"]["param"] == "response.tools.0.parameters"


@pytest.mark.parametrize("speed", [0.5, 1.5])
@pytest.mark.parametrize("conversation", ["auto", "none"])
async def test_speed(talk: Talk, tone_server: ScriptedServer, speed: float, conversation: str) -> None:
    await talk.send("session.update", session={"audio": {"output": {"speed": speed}}})
    await talk.send("response.create", response={"conversation": conversation})
    events = await talk.until("response.done")
    sent = b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta")
    pcm = np.frombuffer(sent, "<i2")
    assert len(pcm) / 24_000 == pytest.approx(TONE_S / speed, rel=0.05)
    middle = pcm[len(pcm) // 4 : -len(pcm) // 4].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 24_000 / len(middle) == pytest.approx(440, abs=6)


async def test_what_was_heard_at_half_speed(stage: Stage) -> None:
    """Each word takes 400 ms to play and 200 in what the engine made."""
    await stage.tell(type="session.update", session={"audio": {"output": {"speed": 0.5}}})
    await stage.turn()
    assert sum(ms for _, ms in stage.transport.queue) == pytest.approx(1200, abs=40)
    stage.transport.play()
    stage.hear(500, True)
    await stage.settle()
    stage.session.on_silenced(820)
    truncated = await stage.until("conversation.item.truncated")
    assert (truncated["transcript"], truncated["audio_end_ms"]) == ("one two", 820)
    asked = [call for call in stage.model.calls if call[0] == "keep_heard"]
    assert asked[-1] == ("keep_heard", 1, 410)


async def test_a_client_cannot_truncate_past_the_end(stage: Stage) -> None:
    await stage.tell(type="session.update", session={"audio": {"output": {"speed": 1.5}}})
    await stage.turn()
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    item = stage.last("response.done")["response"]["output"][0]["id"]
    await stage.tell(type="conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=5000)
    truncated = await stage.until("conversation.item.truncated")
    assert truncated["audio_end_ms"] == pytest.approx(400, abs=20)
    assert truncated["transcript"] == "one two three"
