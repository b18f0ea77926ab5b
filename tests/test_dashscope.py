"""The DashScope dialect, what a client sends: each event and each setting becomes ours or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE
from omni_rt.realtime.client_events import parse
from omni_rt.realtime.dashscope.client_events import ClientEvents, SessionFinished
from omni_rt.realtime.dashscope.server_events import ServerEvents
from omni_rt.realtime.dashscope.settings import VOICES, SessionUpdate
from omni_rt.realtime.errors import WireError
from tests.support.dashscope_line import Line, is_the_tone, samples, text, tone


def translated(event: dict[str, Any], client: ClientEvents | None = None) -> dict[str, Any]:
    """What our own parser takes for it."""
    client = client or ClientEvents(("tone",))
    return parse(json.dumps(event), 2**20, client.translate).model_dump(exclude_unset=True)


def refused(event: dict[str, Any]) -> WireError:
    with pytest.raises(WireError) as found:
        translated(event)
    return found.value


# -- session.update


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"modalities": ["text", "audio"]}, {"output_modalities": ["audio"]}),
        ({"modalities": ["audio", "text"]}, {"output_modalities": ["audio"]}),
        ({"modalities": ["text"]}, {"output_modalities": ["text"]}),
        ({"voice": "tone"}, {"audio": {"output": {"voice": "tone"}}}),
        ({"voice": "Cherry"}, {}),
        ({"voice": None}, {}),
        ({"voice": "Nobody"}, {"audio": {"output": {"voice": "Nobody"}}}),
        ({"instructions": "Be brief."}, {"instructions": "Be brief."}),
        ({"turn_detection": None}, {"audio": {"input": {"turn_detection": None}}}),
        (
            {"turn_detection": {"type": "semantic_vad", "threshold": 0.2, "silence_duration_ms": 800}},
            {
                "audio": {
                    "input": {
                        "turn_detection": {
                            "type": "semantic_vad",
                            "create_response": True,
                            "interrupt_response": True,
                        }
                    }
                }
            },
        ),
        ({"input_audio_transcription": None}, {"audio": {"input": {"transcription": None}}}),
        (
            {"input_audio_transcription": {"model": None, "language": "en"}},
            {"audio": {"input": {"transcription": {"language": "en"}}}},
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
            {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
        ),
        ({"tools": [{"type": "function", "name": "f"}]}, {"tools": [{"type": "function", "name": "f"}]}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tool_choice": {"type": "function", "name": "f"}},
        ),
        ({"max_tokens": 100}, {"max_output_tokens": 100}),
        ({"max_tokens": 16_384}, {"max_output_tokens": "inf"}),
        ({"smooth_output": False, "seed": 3, "top_p": 0.8, "temperature": 0.9, "enable_search": False}, {}),
        ({"model": "qwen3-omni-flash-realtime"}, {}),
    ],
)
def test_settings_become_ours(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    whole = {"type": "realtime", **ours}
    whole["audio"] = {side: ours.get("audio", {}).get(side, {}) for side in ("input", "output")}
    assert translated({"type": "session.update", "session": theirs}) == {"type": "session.update", "session": whole}


@pytest.mark.parametrize(("theirs", "ours"), [(0.5, 0.5), (0.9, 0.9), (0.0, 0.2), (-1.0, 0.2)])
def test_a_threshold_that_our_detector_cannot_go_by_is_its_lowest(theirs: float, ours: float) -> None:
    asked = {"type": "server_vad", "threshold": theirs, "prefix_padding_ms": 200, "silence_duration_ms": 900}
    event = translated({"type": "session.update", "session": {"turn_detection": asked}})
    assert event["session"]["audio"]["input"]["turn_detection"] == {
        **asked,
        "threshold": ours,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }


@pytest.mark.parametrize(
    ("settings", "param", "code"),
    [
        ({"modalities": ["audio"]}, "session.modalities", "invalid_value"),
        ({"modalities": []}, "session.modalities", "invalid_value"),
        ({"modalities": ["smell"]}, "session.modalities.0", "invalid_value"),
        ({"input_audio_format": "mp3"}, "session.input_audio_format", "invalid_value"),
        ({"output_audio_format": "wav"}, "session.output_audio_format", "invalid_value"),
        ({"sample_rate": 11_025}, "session.sample_rate", "invalid_value"),
        ({"audio": {"input": {"format": {"type": "wav"}}}}, "session.audio.input.format.type", "invalid_value"),
        (
            {"audio": {"output": {"format": {"type": "pcm", "sample_rate": 1}}}},
            "session.audio.output.format.sample_rate",
            "invalid_value",
        ),
        (
            {"audio": {"output": {"format": {"type": "pcm", "speech_rate": 2}}}},
            "session.audio.output.format.speech_rate",
            "unknown_parameter",
        ),
        ({"turn_detection": {"threshold": 2}}, "session.turn_detection.threshold", "invalid_value"),
        ({"turn_detection": {"type": "smart_turn"}}, "session.turn_detection.type", "invalid_value"),
        (
            {"turn_detection": {"silence_duration_ms": 100}},
            "session.turn_detection.silence_duration_ms",
            "invalid_value",
        ),
        ({"temperature": 2.0}, "session.temperature", "invalid_value"),
        ({"enable_search": True}, "session.enable_search", "unsupported"),
        ({"search_options": {"enable_source": True}}, "session.search_options", "unsupported"),
        ({"translation": {"language": "en"}}, "session.translation", "unsupported"),
        ({"colour": "red"}, "session.colour", "unknown_parameter"),
        ("nonsense", "session", "invalid_value"),
    ],
)
def test_a_setting_that_cannot_be_had_is_refused_by_name(settings: Any, param: str, code: str) -> None:
    error = refused({"type": "session.update", "event_id": "e1", "session": settings})
    assert (error.code, error.param, error.event_id) == (code, param, "e1")


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"voice": "Nobody"}, "session.voice"),
        ({"tools": [{"type": "mcp", "server_url": "x"}]}, "session.tools.0.type"),
        ({"tool_choice": "sometimes"}, "session.tool_choice"),
    ],
)
async def test_what_our_session_refuses_has_their_name(line: Line, settings: dict[str, Any], param: str) -> None:
    error = await line.update(**settings, smooth_output=True)
    assert error["param"] == param
    assert "audio.output" not in error["message"]
    assert "smooth_output" not in await line.update(instructions="x"), "a refused update leaves nothing behind"


async def test_a_session_as_it_is_told(line: Line) -> None:
    created = line.last("session.created")["session"]
    assert created["id"] == "s"
    assert created["modalities"] == ["text", "audio"]
    assert (created["input_audio_format"], created["output_audio_format"]) == ("pcm16", "pcm24")
    told = created["turn_detection"]
    assert (told["type"], told["threshold"], told["silence_duration_ms"]) == ("server_vad", 0.5, 800)
    kept = {
        "modalities": ["text"],
        "turn_detection": {"type": "server_vad", "threshold": -0.5, "silence_duration_ms": 900},
        "smooth_output": None,
        "top_k": 50,
        "seed": 1314,
        "max_tokens": 16_384,
        "video": {"input": {"representation_compact": "high"}},
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
        ],
    }
    session = await line.update(**kept, voice="Cherry", instructions="Be brief.", input_audio_format="pcm")
    for name, value in kept.items():
        assert session[name] == value or value.items() <= session[name].items(), name
    assert (session["instructions"], session["voice"]) == ("Be brief.", line.session.wire.voice)
    assert "Cherry" in VOICES
    session = await line.update(turn_detection=None, input_audio_transcription=None)
    assert (session["turn_detection"], session["input_audio_transcription"]) == (None, None)
    assert session["seed"] == 1314, "what an update omits stays"


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, (16_000, 24_000)),
        ({"input_audio_format": "pcm16", "output_audio_format": "pcm16"}, (16_000, 24_000)),
        ({"input_audio_format": "pcm24", "output_audio_format": "pcm24"}, (24_000, 24_000)),
        ({"input_audio_format": "pcm", "sample_rate": 8000}, (8000, 24_000)),
        ({"audio": {"input": {"format": {"type": "pcm", "sample_rate": 48_000}}}}, (48_000, 24_000)),
        ({"audio": {"output": {"format": {"type": "pcm", "sample_rate": 8000}}}}, (16_000, 8000)),
        ({"audio": {"output": {"format": {"type": "pcm"}}}}, (16_000, 24_000)),
    ],
)
async def test_rates(line: Line, settings: dict[str, Any], rates: tuple[int, int]) -> None:
    """What the client says and what it hears, by name of a format or by number."""
    session = await line.update(**settings, turn_detection=None)
    told = tuple(session["audio"][side]["format"]["sample_rate"] for side in ("input", "output"))
    assert told == rates
    sound = tone(rates[0], 0.5)
    for start in range(0, len(sound), 777):
        await line.tell(type="input_audio_buffer.append", audio=text(sound[start : start + 777]))
    assert line.session.utterance_ms == pytest.approx(500, abs=8)

    place = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
    told_of = ServerEvents(line.client)
    made: list[dict[str, Any]] = []
    sound = tone(OUTPUT_RATE)
    for start in range(0, len(sound), 2400):
        delta = {"type": "response.output_audio.delta", "event_id": "event_1", "delta": text(sound[start:][:2400])}
        made += told_of.translate(delta | place)
    made += told_of.translate({"type": "response.output_audio.done", "event_id": "event_2"} | place)
    assert [event["type"] for event in made[-1:]] == ["response.audio.done"]
    assert is_the_tone(samples(*(event["delta"] for event in made[:-1])), rates[1])


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 48_000])
def test_appended_sound_becomes_ours_whole(rate: int) -> None:
    client = ClientEvents(("tone",))
    client.asked = client.dialect.updated(SessionUpdate(sample_rate=rate))
    client.agreed()
    pieces = []
    for start in range(0, rate // 2, rate // 10):
        event = {"type": "input_audio_buffer.append", "audio": text(tone(rate)[start:][: rate // 10])}
        pieces.append(translated(event, client)["audio"])
    assert is_the_tone(samples(*pieces), OUTPUT_RATE)


# -- other client events


def test_events_that_are_the_same_in_both() -> None:
    for event in (
        {"type": "input_audio_buffer.commit", "event_id": "e"},
        {"type": "input_audio_buffer.clear", "event_id": "e"},
        {"type": "input_image_buffer.append", "event_id": "e", "image": "abc"},
        {"type": "response.cancel", "event_id": "e"},
        {"type": "response.create", "event_id": "e"},
    ):
        assert translated(event) == event


def test_a_response_as_the_package_asks_for_it() -> None:
    event = {"type": "response.create", "response": {"instructions": None}}
    assert translated(event) == {"type": "response.create", "response": {}}
    event["response"] = {"instructions": "In French.", "modalities": ["text"]}
    assert translated(event)["response"] == {"instructions": "In French.", "output_modalities": ("text",)}
    event["response"] = {"modalities": ["text", "audio"]}
    assert translated(event)["response"] == {"output_modalities": ("audio",)}


def test_items_become_ours() -> None:
    def item(**fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = translated({"type": "conversation.item.create", "item": fields})["item"]
        return made

    output = {"type": "function_call_output", "call_id": "c", "output": "{}"}
    assert item(**output) == output
    (part,) = item(type="message", role="assistant", content=[{"type": "audio", "transcript": "yes"}])["content"]
    assert part == {"type": "output_audio", "transcript": "yes"}
    said = {"type": "input_audio", "audio": text(tone(INPUT_RATE))}
    parts = item(type="message", role="user", content=[{"type": "input_text", "text": "hear"}, said])["content"]
    assert parts[0] == {"type": "input_text", "text": "hear"}
    assert is_the_tone(samples(parts[1]["audio"]), OUTPUT_RATE)


@pytest.mark.parametrize(
    ("event", "param", "code"),
    [
        ({"type": "conversation.item.truncate", "item_id": "i"}, "type", "unknown_event"),
        ({"type": "output_audio_buffer.clear"}, "type", "unknown_event"),
        ({"type": "input_audio_buffer.append"}, "audio", "missing_required_parameter"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "audio", "invalid_base64"),
        ({"type": "input_audio_buffer.append", "audio": "AA=="}, "audio", "invalid_audio"),
        ({"type": "input_audio_buffer.append", "audio": 7}, "audio", "invalid_value"),
        ({"type": "input_audio_buffer.commit", "colour": "red"}, "colour", "unknown_parameter"),
        ({"type": "input_image_buffer.append"}, "image", "missing_required_parameter"),
        ({"type": "response.create", "response": {"voice": "x"}}, "response.voice", "unknown_parameter"),
        ({"type": "response.create", "response": {"modalities": ["audio"]}}, "response.modalities", "invalid_value"),
        ({"type": "response.create", "response": 1}, "response", "invalid_value"),
        ({"type": "conversation.item.create", "item": 1}, "item", "invalid_value"),
        (
            {
                "type": "conversation.item.create",
                "item": {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "?"}]},
            },
            "item.content.0.audio",
            "invalid_base64",
        ),
        ({"type": "session.finish", "colour": "red"}, "colour", "unknown_parameter"),
        ({"type": "session.update"}, "session", "invalid_value"),
    ],
)
def test_bad_events_are_refused_by_name(event: dict[str, Any], param: str, code: str) -> None:
    error = refused(event | {"event_id": "mine"})
    assert (error.code, error.param, error.event_id) == (code, param, "mine")


def test_the_end() -> None:
    with pytest.raises(SessionFinished):
        translated({"type": "session.finish", "event_id": "e"})
