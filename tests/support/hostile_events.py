"""Client events that are wrong in every way, made from valid ones; the same for the same seed."""

from __future__ import annotations

import base64
import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Json = dict[str, Any]
Place = tuple[Any, Any]
"""A container and a key or index in it."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """`event_id` is what its error must carry. `bad`: it must be answered by an error; otherwise it may be."""

    raw: str | bytes
    event_id: str | None
    bad: bool


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _picture(kind: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 30, 30)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{_base64(file.getvalue())}"


def _message(role: str, *parts: Json, **fields: Any) -> Json:
    item = {"type": "message", "role": role, "content": list(parts), **fields}
    return {"type": "conversation.item.create", "item": item}


def _update(**session: Any) -> Json:
    return {"type": "session.update", "session": {"type": "realtime", **session}}


_SOUND = _base64(np.full(2400, 900, "<i2").tobytes())
_TEXT = {"type": "input_text", "text": "two words"}
_LAMP = {
    "type": "function",
    "name": "lamp",
    "description": "Turns it.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}, "level": {"enum": [1, 2]}}},
}
_RESPONSE: Json = {
    "instructions": "Be brief.",
    "output_modalities": ["text"],
    "max_output_tokens": 20,
    "metadata": {"topic": "x"},
    "conversation": "none",
    "input": [{"type": "message", "role": "user", "content": [_TEXT]}],
    "audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "tone"}},
}

VALID: tuple[Json, ...] = (
    _update(instructions="Be brief.", output_modalities=["text"], max_output_tokens=50),
    _update(output_modalities=["audio"], tool_choice="auto", parallel_tool_calls=True, tracing="auto"),
    _update(truncation={"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 500}}),
    _update(prompt={"id": "p", "variables": {"city": "Bern"}}, reasoning={"effort": "low"}, include=[]),
    _update(tracing={"workflow_name": "w", "group_id": "g", "metadata": {"a": ["b"]}}, truncation="auto"),
    _update(audio={"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None, "noise_reduction": None}}),
    _update(audio={"input": {"format": {"type": "audio/pcm", "rate": 24000}, "transcription": {"language": "en"}}}),
    _update(
        audio={
            "input": {
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                    "create_response": False,
                }
            },
            "output": {"format": {"type": "audio/pcma"}, "voice": {"id": "tone"}, "speed": 1.25},
        }
    ),
    _update(audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}}),
    _update(tools=[_LAMP], tool_choice={"type": "function", "name": "lamp"}),
    {"type": "input_audio_buffer.append", "audio": _SOUND},
    {"type": "input_audio_buffer.append", "audio": _SOUND},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "input_image_buffer.append", "image": _picture("PNG")},
    {"type": "output_audio_buffer.clear"},
    _message("user", _TEXT),
    _message("user", _TEXT, id="item_known"),
    _message("system", _TEXT, status="completed", object="realtime.item"),
    _message("assistant", {"type": "output_text", "text": "aha"}, {"type": "output_audio", "transcript": "oho"}),
    _message("user", {"type": "input_audio", "audio": _SOUND, "transcript": "hm"}),
    _message("user", {"type": "input_image", "image_url": _picture("JPEG"), "detail": "low"}, _TEXT),
    {**_message("user", _TEXT), "previous_item_id": "root"},
    {
        "type": "conversation.item.create",
        "item": {"type": "function_call", "name": "lamp", "call_id": "call_1", "arguments": '{"on":true}'},
    },
    {
        "type": "conversation.item.create",
        "item": {"type": "function_call_output", "call_id": "call_1", "output": "it is on"},
    },
    {"type": "conversation.item.retrieve", "item_id": "item_known"},
    {"type": "conversation.item.delete", "item_id": "item_known"},
    {"type": "conversation.item.truncate", "item_id": "item_known", "content_index": 0, "audio_end_ms": 100},
    {"type": "response.create"},
    {"type": "response.create", "response": _RESPONSE},
    {"type": "response.create", "response": {"output_modalities": ["text"], "tool_choice": "none"}},
    {"type": "response.cancel"},
    {"type": "response.cancel", "response_id": "resp_none"},
)
REQUIRED = {
    "session.update": ("session",),
    "input_audio_buffer.append": ("audio",),
    "input_image_buffer.append": ("image",),
    "conversation.item.create": ("item",),
    "conversation.item.retrieve": ("item_id",),
    "conversation.item.delete": ("item_id",),
    "conversation.item.truncate": ("item_id", "audio_end_ms"),
}
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64 - 1, 0.5, -1e300, 1e-320),
    *("", "a", "auto", "none", "root", "item_known", "\x00", "\u202e\u0007", "\U0001f600" * 9, "A" * 3000, "'\"<>"),
    *([], {}, [[]], [None], {"": None}, {"type": "message"}, {"type": 3}, [{"type": "input_text"}], [0] * 300),
)
_NOT_TAKEN = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 400, '"\\ud800"', '"\\udc00\\ud800"', '{"\\udfff":1}')
_NO_EVENTS = (
    *("[]", '"text"', "5", "null", "true", "", " ", "\ufeff{}", "{}{}", "nul", "'a'"),
    *("[" * 50_000, '{"a":' * 10_000),
)


class Generator:
    """`limit` is what the server takes of one event, in bytes."""

    def __init__(self, seed: int, limit: int) -> None:
        self._random = random.Random(seed)
        self._limit = limit
        self._count = 0
        self._ways: tuple[Callable[[Json], Hostile], ...] = (
            *(self._as_it_is, self._other_value, self._other_value, self._other_value, self._less, self._twice),
            *(self._unknown_type, self._no_type, self._unknown_field, self._cut_off, self._binary, self._not_taken),
            *(self._not_taken, self._deep, self._bad_event_id, self._bad_sound, self._oversize, self._no_event),
            *(self._no_such_item, self._required),
        )

    def take(self, count: int) -> Iterator[Hostile]:
        for _ in range(count):
            self._count += 1
            event = {"event_id": self._id, **copy.deepcopy(self._random.choice(VALID))}
            yield self._random.choice(self._ways)(event)

    @property
    def _id(self) -> str:
        return f"hostile-{self._count}"

    def _told(self, event: Json, bad: bool) -> Hostile:
        return Hostile(json.dumps(event), self._id, bad)

    def _place(self, event: Json) -> Place:
        """Anything in it but its id and type."""
        return self._random.choice([p for p in _places(event) if p[0] is not event or p[1] not in ("event_id", "type")])

    # -- may be valid

    def _as_it_is(self, event: Json) -> Hostile:
        return self._told(event, False)

    def _other_value(self, event: Json) -> Hostile:
        event.setdefault("response", {"metadata": {}}) if event["type"] == "response.create" else None
        if len(event) > 2:
            holder, key = self._place(event)
            holder[key] = copy.deepcopy(self._random.choice(_VALUES))
        return self._told(event, False)

    def _less(self, event: Json) -> Hostile:
        if len(event) > 2:
            holder, key = self._place(event)
            del holder[key]
        return self._told(event, False)

    def _twice(self, event: Json) -> Hostile:
        """A member stands there twice; the last counts."""
        key = self._random.choice([key for key in event if key != "event_id"])
        first = json.dumps({key: self._random.choice(_VALUES)})[1:-1]
        return Hostile(f"{{{first},{json.dumps(event)[1:]}", self._id, False)

    # -- never valid

    def _unknown_type(self, event: Json) -> Hostile:
        event["type"] = self._random.choice(("", "error", "session.created", event["type"] + "s", "x" * 5000, "\n"))
        return self._told(event, True)

    def _no_type(self, event: Json) -> Hostile:
        if self._random.random() < 0.5:
            del event["type"]
        else:
            event["type"] = self._random.choice((None, 3, [], {}, ["session.update"], False))
        return self._told(event, True)

    def _required(self, event: Json) -> Hostile:
        fields = REQUIRED.get(event["type"])
        if fields is None:
            return self._unknown_field(event)
        name = self._random.choice(fields)
        if self._random.random() < 0.5:
            del event[name]
        else:
            event[name] = self._random.choice((None, [], [{}], -1, 1.5))
        return self._told(event, True)

    def _unknown_field(self, event: Json) -> Hostile:
        inner = (event.get(name) for name in ("session", "item", "response"))
        holders = [event, *(holder for holder in inner if isinstance(holder, dict))]
        self._random.choice(holders)[self._random.choice(("colour", "", "Type", "a.b", "k" * 2000, "é"))] = 1
        return self._told(event, True)

    def _cut_off(self, event: Json) -> Hostile:
        text = json.dumps(event)
        left = text[: self._random.randrange(1, len(text))]
        return Hostile(left, self._id if f'"{self._id}"' in left else None, True)

    def _binary(self, event: Json) -> Hostile:
        way = self._random.randrange(4)
        if way == 0:
            return Hostile(json.dumps(event).encode(), self._id, False)
        if way == 1:
            return Hostile(b"\xff\xfe" + json.dumps(event).encode("utf-16-le")[:-1], None, True)
        if way == 2:
            return Hostile(json.dumps(event).encode()[:-1] + b"\xff}", self._id, True)
        return Hostile(b"\x80" + self._random.randbytes(self._random.randrange(300)), None, True)

    def _not_taken(self, event: Json) -> Hostile:
        """A number or text that cannot be sent back, at any depth."""
        return self._spliced(event, self._random.choice(_NOT_TAKEN))

    def _deep(self, event: Json) -> Hostile:
        depth = self._random.choice((101, 300, 900))
        return self._spliced(event, '{"a":' * depth + "1" + "}" * depth if depth % 2 else "[" * depth + "]" * depth)

    def _spliced(self, event: Json, text: str) -> Hostile:
        event.setdefault("response" if event["type"] == "response.create" else "extra", {})
        holder, key = self._place(event)
        holder[key] = "@@"
        return Hostile(json.dumps(event).replace('"@@"', text), self._id, True)

    def _bad_event_id(self, event: Json) -> Hostile:
        event["event_id"] = self._random.choice((5, [], {}, True, "e" * 513, 1.5))
        return Hostile(json.dumps(event), None, True)

    def _bad_sound(self, event: Json) -> Hostile:
        bad = self._random.choice(("A", "AAA", "A===", "====", "AAAA=AAA", "Ä" * 8, "A A A A ", "AAAA\n", "-_-_", "%"))
        if self._random.random() < 0.5:
            event = {"event_id": self._id, "type": "input_audio_buffer.append", "audio": bad}
        else:
            parts = {"input_audio": {"audio": bad}, "input_image": {"image_url": f"data:image/png;base64,{bad}"}}
            kind = self._random.choice(list(parts))
            event = {"event_id": self._id, **_message("user", {"type": kind, **parts[kind]})}
        return self._told(event, True)

    def _oversize(self, event: Json) -> Hostile:
        if self._random.random() < 0.9:
            return self._unknown_field(event)
        if self._random.random() < 0.5:
            event["pad"] = "p" * self._limit
        else:
            event = {"pad": ["\\"] * (self._limit // 4), "type": event["type"], "event_id": self._id}
        return self._told(event, True)

    def _no_event(self, event: Json) -> Hostile:
        return Hostile(self._random.choice(_NO_EVENTS), None, True)

    def _no_such_item(self, event: Json) -> Hostile:
        kind = self._random.choice(("retrieve", "delete", "truncate"))
        more = {"audio_end_ms": 0} if kind == "truncate" else {}
        named = self._random.choice(("", "x" * 4000))
        return self._told({"event_id": self._id, "type": f"conversation.item.{kind}", "item_id": named, **more}, True)


def _places(value: Any) -> Iterator[Place]:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])
