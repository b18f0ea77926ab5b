"""Any sequence of valid client events keeps a session consistent: what the server told is what it has.

OMNI_RT_EXAMPLES=5000 tries that many sequences, other ones each time; by itself it is a small number, the same ones.
"""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image

from omni_rt.engine.api import CallDelta
from tests.support.client_view import ClientView
from tests.support.session_world import World

MORE = int(os.environ.get("OMNI_RT_EXAMPLES", "0"))
# A resampler keeps a few samples to itself.
KEPT_MS = 5

PUSH_TO_TALK = {"audio": {"input": {"turn_detection": None}}}
UPDATES: tuple[dict[str, Any], ...] = (
    PUSH_TO_TALK,
    PUSH_TO_TALK,
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "create_response": False}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}}},
    {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "interrupt_response": False}}}},
    {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}}},
    {"audio": {"input": {"transcription": None}}},
    {"audio": {"input": {"transcription": {"model": "whisper-1", "language": "en"}}}},
    {"audio": {"output": {"speed": 1.5}}},
    {"audio": {"output": {"speed": 1.0}}},
    {"audio": {"output": {"voice": "bell"}}},
    {"output_modalities": ["text"]},
    {"output_modalities": ["audio"]},
    {"instructions": "Be brief.", "max_output_tokens": 100},
    {"instructions": None, "tracing": "auto", "include": []},
    {"tools": [{"type": "function", "name": "lamp", "parameters": {"type": "object"}}], "tool_choice": "required"},
    {"tools": [], "tool_choice": "auto"},
    {"truncation": {"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 20}}},
    {"truncation": "disabled"},
)
WHOLE = ("format", "turn_detection", "transcription", "truncation")
FORMATS = (
    {"type": "audio/pcm", "rate": 24000},
    {"type": "audio/pcmu"},
    {"type": "audio/pcma"},
)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return f"data:image/png;base64,{_base64(file.getvalue())}"


ITEMS: dict[str, dict[str, Any]] = {
    "user": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    "system": {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "rules"}]},
    "assistant": {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
    "told": {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "hi"}]},
    "spoken": {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_audio", "audio": _base64(bytes(9600)), "transcript": "hm"}],
    },
    "shown": {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": _picture()}]},
    "call": {"type": "function_call", "name": "lamp", "call_id": "c1", "arguments": "{}"},
    "result": {"type": "function_call_output", "call_id": "c1", "output": "on"},
}
PARTS: dict[str, Any] = {
    "output_modalities": st.sampled_from((["text"], ["audio"])),
    "metadata": st.just({"topic": "x"}),
    "instructions": st.just("Say one word."),
    "max_output_tokens": st.sampled_from((5, "inf")),
    "tool_choice": st.sampled_from(("none", "auto")),
}


def _within(asked: Any, given: Any) -> Any:
    """The part of `given` that `asked` speaks of."""
    if isinstance(asked, list) and isinstance(given, list):
        return [_within(*pair) for pair in zip(asked, given, strict=True)]
    if not isinstance(asked, dict) or given is None:
        return given
    return {key: _within(value, given[key]) for key, value in asked.items()}


def _merged(old: Any, new: Any, path: str = "") -> Any:
    """What a session is after an update, by the protocol: what is omitted stays; unions are replaced whole."""
    if not isinstance(old, dict) or not isinstance(new, dict) or path.rpartition(".")[2] in WHOLE:
        return new
    return old | {key: _merged(old.get(key), value, f"{path}.{key}") for key, value in new.items()}


class Sessions(RuleBasedStateMachine):
    """`pushed_ms` is what waits for a commit as far as the client can know, None where it can't."""

    def __init__(self) -> None:
        super().__init__()
        self.view = ClientView()
        self.count = 0
        self.appended = 0
        self.decoders = 1
        self.pushed_ms: float | None = None
        self.expected: dict[str, float] = {}
        self.asked = 0

    @initialize(plays=st.booleans(), items=st.sampled_from((10, 1000)))
    def begin(self, plays: bool, items: int) -> None:
        self.world = World(plays, max_items=items)
        self._hear()

    # -- the client's events

    @rule(update=st.sampled_from(UPDATES))
    def update(self, update: dict[str, Any]) -> None:
        before = self.view.session
        self._update(before, update)

    @precondition(lambda self: not self.world.server_plays)
    @rule(form=st.sampled_from(FORMATS), side=st.sampled_from(("input", "output")))
    def update_format(self, form: dict[str, Any], side: str) -> None:
        self._update(self.view.session, {"audio": {side: {"format": form}}})

    @rule(kind=st.sampled_from(sorted(ITEMS)), place=st.integers(-2, 20), own=st.sampled_from(("", "mine", "other")))
    def create(self, kind: str, place: int, own: str) -> None:
        order = list(self.view.order)
        event: dict[str, Any] = {"item": dict(ITEMS[kind])}
        if own:
            event["item"]["id"] = own
        if place == -1:
            event["previous_item_id"] = "root"
        elif place >= 0:
            event["previous_item_id"] = order[place % len(order)] if order and place < 19 else "nowhere"
        code, told = self._send("conversation.item.create", **event)
        full = len(order) >= self.world.session.settings.server.max_items
        if full or own in order or event.get("previous_item_id") == "nowhere":
            assert code in ("too_many_items", "item_create_duplicate_item_id", "item_not_found"), told
            return
        assert code is None, told
        added = next(each for each in told if each["type"] == "conversation.item.added" and self._is(each, kind, own))
        item = added["item"]
        assert item["status"] == "completed"
        if place == -1:
            assert added["previous_item_id"] is None
        if place >= 0:
            assert added["previous_item_id"] == event["previous_item_id"]

    @rule(place=st.integers(0, 20))
    def delete(self, place: int) -> None:
        known = self._known(place)
        code, told = self._send("conversation.item.delete", item_id=known or "nowhere")
        assert code == (None if known else "item_not_found"), told
        assert known not in self.view.order

    @rule(place=st.integers(0, 20))
    def retrieve(self, place: int) -> None:
        known = self._known(place)
        code, told = self._send("conversation.item.retrieve", item_id=known or "nowhere")
        assert code == (None if known else "item_retrieve_invalid_item_id")
        assert known is None or sum(each["type"] == "conversation.item.retrieved" for each in told) == 1

    @rule(place=st.integers(0, 20), ms=st.sampled_from((0, 100, 350, 10_000)))
    def truncate(self, place: int, ms: int) -> None:
        known = self._known(place)
        item = self.view.items.get(known or "", {})
        spoken = item.get("role") == "assistant" and not any("text" in part for part in item["content"])
        code, told = self._send(
            "conversation.item.truncate", item_id=known or "nowhere", content_index=0, audio_end_ms=ms
        )
        if known is None:
            assert code == "item_not_found"
        elif not spoken:
            assert code == "invalid_value", (item, told)
        else:
            assert code in (None, "invalid_value"), told

    @precondition(lambda self: not self.world.server_plays)
    @rule(ms=st.sampled_from((10, 90, 300, 1000)), loud=st.booleans())
    def append(self, ms: int, loud: bool) -> None:
        """As fast as a client likes."""
        form = self.view.session["audio"]["input"]["format"]["type"]
        level = 5000 if loud else 0
        if form == "audio/pcm":
            data = np.full(24 * ms, level, "<i2").tobytes()
        else:
            data = (b"\x00" if loud else b"\xff" if form == "audio/pcmu" else b"\xd5") * 8 * ms
        self._count(ms)
        assert self._send("input_audio_buffer.append", audio=_base64(data))[0] is None

    @precondition(lambda self: self.world.server_plays)
    @rule(ms=st.sampled_from((20, 100, 400, 1500)), loud=st.booleans())
    def speak(self, ms: int, loud: bool) -> None:
        self._count(ms)
        self.world.speak(np.full(16 * ms, 5000 if loud else 0, np.int16))
        self._hear()

    @rule(what=st.sampled_from(("commit", "commit", "clear", "clear_output")))
    def press(self, what: str) -> None:
        getattr(self, f"_{what}")()

    @precondition(lambda self: self.world.server_plays)
    @rule(ms=st.sampled_from((300, 900)))
    def say_something(self, ms: int) -> None:
        self.speak(ms, True)
        self.speak(1700, False)

    def _commit(self) -> None:
        code, told = self._send("input_audio_buffer.commit")
        committed = [each["item_id"] for each in told if each["type"] == "input_audio_buffer.committed"]
        if self.pushed_ms is not None and self.pushed_ms >= 100 + self._slack:
            assert code is None
            self.expected[committed[-1]] = self.pushed_ms
        if self.pushed_ms is not None and self.pushed_ms < 100:
            assert code == "input_audio_buffer_commit_empty"
        assert bool(committed) == (code is None), told
        if committed:
            self._restart()

    def _clear(self) -> None:
        code, told = self._send("input_audio_buffer.clear")
        assert code is None
        assert [each["type"] for each in told].count("input_audio_buffer.cleared") == 1
        self._restart()

    @rule(response=st.none() | st.fixed_dictionaries({}, optional=PARTS))
    def respond(self, response: dict[str, Any] | None) -> None:
        code, _ = self._send("response.create", **({} if response is None else {"response": response}))
        assert code in (None, "conversation_already_has_active_response", "context_full")
        self.asked += code is None

    @rule(own=st.booleans(), spoken=st.booleans())
    def respond_aside(self, own: bool, spoken: bool) -> None:
        response: dict[str, Any] = {"conversation": "none", "output_modalities": ["audio" if spoken else "text"]}
        if own:
            response["input"] = [ITEMS["user"]]
        before = len(self.view.order)
        code, _ = self._send("response.create", response=response)
        track = spoken and self.world.server_plays
        assert code in (("unsupported",) if track else (None, "too_many_responses")), code
        assert len(self.view.order) == before
        self.asked += code is None

    @rule(which=st.sampled_from(("", "newest", "wrong")))
    def cancel(self, which: str) -> None:
        running = set(self.view.open)
        named = {"newest": self.view.made[-1] if self.view.made else "none", "wrong": "resp_wrong"}
        code, _ = self._send("response.cancel", **({"response_id": named[which]} if which else {}))
        assert code in (None, "response_cancel_not_active")
        if which == "wrong" or not running:
            assert code == "response_cancel_not_active"

    def _clear_output(self) -> None:
        """Only where the server has such a buffer."""
        assert self._send("output_audio_buffer.clear")[0] == (None if self.world.server_plays else "unsupported")

    # -- what happens meanwhile

    @rule(ms=st.sampled_from((5, 40, 250, 1500)))
    def time_passes(self, ms: int) -> None:
        self.world.pass_time(ms)
        self._hear()

    @rule(what=st.sampled_from(("tool", "fail", "mumble", "talk")))
    def next_reply(self, what: str) -> None:
        model = self.world.model
        if what == "tool":
            model.tool = CallDelta(0, "c", "lamp", '{"on": true}')
        elif what == "fail":
            model.fail = "it broke"
        else:
            model.words = [] if what == "mumble" else ["one", "two", "three", "four"]

    # -- what holds always

    @invariant()
    def same_items(self) -> None:
        if hasattr(self, "world"):
            assert self.view.order == [item.id for item in self.world.session.conversation]
            assert not self.world.faults, self.world.faults

    @invariant()
    def sound_is_accounted_for(self) -> None:
        if hasattr(self, "world"):
            assert self.world.session.now_ms == pytest.approx(self.appended, abs=self._slack)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._finish()
        finally:
            self.world.close()
        assert not self.world.faults, self.world.faults

    def _finish(self) -> None:
        """What was asked for comes to its end, once silence falls; what is then retrieved is what was told."""
        if self.world.server_plays:
            self.world.speak(np.zeros(16 * 4000, np.int16))
        elif self.view.session["audio"]["input"]["turn_detection"] is not None:
            self._update(self.view.session, {"audio": {"input": {"format": FORMATS[0]}}})
            self._send("input_audio_buffer.append", audio=_base64(bytes(48 * 5000)))
        self.world.pass_time(20_000)
        self._hear()
        assert not self.view.open
        assert not self.world.session.replying
        assert len(self.view.made) >= self.asked
        for item_id in self.view.order:
            assert self.view.items[item_id]["status"] != "in_progress"
            self._send("conversation.item.retrieve", item_id=item_id)
        for item_id, ms in self.expected.items():
            if item_id in self.view.seconds:
                assert self.view.seconds[item_id] * 1000 == pytest.approx(ms, abs=self._slack)

    # -- inside

    def _send(self, kind: str, **fields: Any) -> tuple[str | None, list[dict[str, Any]]]:
        """The code of the error it brought, None if it brought none; and all that was told."""
        self.count += 1
        event_id = f"event-{self.count}"
        self.world.send(type=kind, event_id=event_id, **fields)
        told = self._hear()
        errors = [each["error"] for each in told if each["type"] == "error"]
        mine = [error for error in errors if error["event_id"] == event_id]
        assert len(mine) <= 1, mine
        for error in errors:
            assert error in mine or error["code"] in ("engine_failed", "context_full"), error
            assert error["code"] != "internal", error
        return (mine[0]["code"] if mine else None), told

    def _hear(self) -> list[dict[str, Any]]:
        told = self.world.take()
        for event in told:
            self.view.step(event)
        return told

    def _update(self, before: dict[str, Any], update: dict[str, Any]) -> None:
        code, told = self._send("session.update", session={"type": "realtime", **update})
        if code is not None:
            assert code == "cannot_update_voice"
            assert self.view.session == before
            return
        assert [each["type"] for each in told].count("session.updated") == 1
        after = self.view.session
        self.decoders += after["audio"]["input"]["format"] != before["audio"]["input"]["format"]
        wanted = update | ({"instructions": ""} if "instructions" in update and not update["instructions"] else {})
        assert _within(update, after) == wanted
        changed = _merged(before, update)
        for key in after:
            assert after[key] == before[key] or changed[key] != before[key], key
        detection = (update.get("audio", {}).get("input", {}) or {}).get("turn_detection", before)
        if detection is None and before["audio"]["input"]["turn_detection"] is not None:
            self.pushed_ms = None if self.world.session.utterance_ms else 0.0
        elif detection is not before and detection is not None:
            self.pushed_ms = None

    def _restart(self) -> None:
        self.pushed_ms = 0.0 if self.view.session["audio"]["input"]["turn_detection"] is None else None

    def _count(self, ms: int) -> None:
        self.appended += ms
        if self.pushed_ms is not None:
            self.pushed_ms += ms

    @property
    def _slack(self) -> float:
        """Each new format begins with a resampler of its own."""
        return 0 if self.world.server_plays else KEPT_MS * self.decoders

    def _known(self, place: int) -> str | None:
        order = self.view.order
        return order[place % len(order)] if order and place < 20 else None

    @staticmethod
    def _is(event: dict[str, Any], kind: str, own: str) -> bool:
        item = event["item"]
        return bool(item["id"] == own if own else item["type"] == ITEMS[kind]["type"])


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=MORE or 60,
    stateful_step_count=100 if MORE else 50,
    derandomize=not MORE,
    database=None,
    phases=(Phase.generate, Phase.shrink) if MORE else (Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
