"""The DashScope dialect, event by event: what a client sends becomes ours, what a session tells becomes theirs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, CallDelta, Pcm, Usage
from omni_rt.realtime.client_events import parse
from omni_rt.realtime.dashscope.client_events import ClientEvents, SessionFinished
from omni_rt.realtime.dashscope.server_events import RENAMED, UNTOLD, ServerEvents
from omni_rt.realtime.dashscope.settings import VOICES, SessionUpdate, TurnDetection
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import WireSession, merge
from omni_rt.realtime.writer import EventWriter
from omni_rt.session.commands import read_events
from tests.support import dashscope_events, strict_events
from tests.support.scripted import KeptTransport, ScriptedEngine
from tests.support.stage import Stage, validate

DEFAULTS = {"audio": {"input": {"turn_detection": TurnDetection().ours()}}}


class Line(Stage):
    """A session between stand-ins whose client speaks the dialect."""

    def __init__(self) -> None:
        super().__init__(validate({}))
        self.session.wire = merge(self.session.wire, DEFAULTS, ScriptedEngine().capabilities)
        self.client = ClientEvents(("tone", "bell"))
        self.transport = _Transport(self, ServerEvents(self.client))

    async def open(self) -> None:
        await self.session.open()
        self.session.attach(self.transport, partial(read_events, translate=self.client.translate))
        self.session.on_open()

    async def update(self, **settings: Any) -> dict[str, Any]:
        """The session or the error that comes of it."""
        self.transport.events.clear()
        await self.tell(type="session.update", session=settings)
        (event,) = self.transport.events
        answer: dict[str, Any] = event["session"] if event["type"] == "session.updated" else event["error"]
        return answer


class _Transport(KeptTransport):
    """Carries audio in events, as a WebSocket does."""

    def __init__(self, line: Line, events: ServerEvents) -> None:
        super().__init__(line.session, server_plays=False)
        self._line = line
        self._told = events

    def send_event(self, event: dict[str, Any]) -> None:
        self.events += self._told.translate(event)

    def send_audio(self, generation: int, pcm: Pcm) -> None:
        self._carry(generation, pcm)
        super().send_audio(generation, pcm)

    def end_audio(self, generation: int) -> None:
        self._carry(generation, None)

    def _carry(self, generation: int, pcm: Pcm | None) -> None:
        event = self._line.session.replies.audio_event(generation, pcm)
        if event is not None:
            self.send_event(event)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    await line.open()
    yield line
    await line.session.close("test over")


def translated(event: dict[str, Any], client: ClientEvents | None = None) -> dict[str, Any]:
    """What our own parser takes for it."""
    client = client or ClientEvents(("tone",))
    return parse(json.dumps(event), 2**20, client.translate).model_dump(exclude_unset=True)


def refused(event: dict[str, Any]) -> WireError:
    with pytest.raises(WireError) as found:
        translated(event)
    return found.value


def tone(rate: int, seconds: float = 0.5) -> Pcm:
    return (8000 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.int16)


def text(pcm: Pcm) -> str:
    return base64.b64encode(pcm.tobytes()).decode()


def samples(*texts: str) -> Pcm:
    return np.frombuffer(b"".join(base64.b64decode(one) for one in texts), np.int16)


def is_the_tone(pcm: Pcm, rate: int) -> bool:
    """Half a second of it, without a seam."""
    wanted = tone(rate)
    if not -0.01 * rate < len(pcm) - len(wanted) < 0.01 * rate:
        return False
    ends = rate // 50
    middle, length = pcm[ends:-ends].astype(float), len(pcm) - 2 * ends
    angle = 2 * np.pi * 440 * np.arange(length) / rate
    waves = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    rest = middle - waves @ np.linalg.lstsq(waves, middle, rcond=None)[0]
    return bool(np.sqrt((rest**2).mean()) < 60)


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


# -- server events


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
    line.hear(1000, True)
    line.hear(1000, False)
    await line.until("response.done")
    line.transport.play(2)
    line.transport.events.clear()
    line.hear(1000, True)
    await line.settle()
    assert line.transport.kinds() == ["input_audio_buffer.speech_started"]
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
