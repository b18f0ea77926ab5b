"""The protocol's client events: parsed, checked, and named in errors when they are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from omni_rt.realtime.errors import WireError
from omni_rt.realtime.item_models import AnyItem
from omni_rt.realtime.response_params import ResponseParams
from omni_rt.realtime.settings import wire_error
from omni_rt.realtime.strict_json import event_id_unparsed, fault, is_whole

MAX_EVENT_ID = 512


class ClientEvent(BaseModel):
    """What every client event has. Unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event_id: str | None = Field(None, max_length=MAX_EVENT_ID)


class SessionUpdate(ClientEvent):
    type: Literal["session.update"]
    session: dict[str, Any]


class AudioAppend(ClientEvent):
    type: Literal["input_audio_buffer.append"]
    audio: str


class AudioCommit(ClientEvent):
    type: Literal["input_audio_buffer.commit"]


class AudioClear(ClientEvent):
    type: Literal["input_audio_buffer.clear"]


class ImageAppend(ClientEvent):
    """Not in OpenAI's protocol: a camera's picture, as a data URL or as base64 of a PNG or JPEG."""

    type: Literal["input_image_buffer.append"]
    image: str


class OutputClear(ClientEvent):
    type: Literal["output_audio_buffer.clear"]


class ItemCreate(ClientEvent):
    type: Literal["conversation.item.create"]
    item: AnyItem
    previous_item_id: str | None = None


class ItemRetrieve(ClientEvent):
    type: Literal["conversation.item.retrieve"]
    item_id: str


class ItemDelete(ClientEvent):
    type: Literal["conversation.item.delete"]
    item_id: str


class ItemTruncate(ClientEvent):
    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: int = Field(0, ge=0)
    audio_end_ms: int = Field(ge=0)


class ResponseCreate(ClientEvent):
    type: Literal["response.create"]
    response: ResponseParams | None = None


class ResponseCancel(ClientEvent):
    type: Literal["response.cancel"]
    response_id: str | None = None


AnyEvent = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ImageAppend
    | OutputClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)

_EVENTS: dict[str, TypeAdapter[AnyEvent]] = {
    kind.model_fields["type"].annotation.__args__[0]: TypeAdapter(kind) for kind in AnyEvent.__args__
}


Translate = Callable[[dict[str, Any]], dict[str, Any]]
"""From an event of another protocol, which has a `type`, to one of ours. Raises WireError."""


def parse(raw: str | bytes, max_bytes: int, translate: Translate | None = None) -> AnyEvent:
    """One client event. Raises WireError naming what is wrong with it; the client's event id is in the error."""
    size = len(raw) if isinstance(raw, bytes) or raw.isascii() else len(raw.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise WireError(
            "event_too_large",
            f"The event has {size} bytes; at most {max_bytes} are taken (server.max_event_bytes). Send audio in "
            "shorter pieces, pictures in smaller ones.",
            event_id=event_id_unparsed(raw),
        )
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WireError(
            "invalid_json", f"The event is not valid JSON: {error}.", event_id=event_id_unparsed(raw)
        ) from error
    if not isinstance(data, dict):
        raise WireError("invalid_json", "An event is a JSON object with a 'type'.")
    named = data.get("event_id")
    event_id = named if isinstance(named, str) and len(named) <= MAX_EVENT_ID and is_whole(named) else None
    if wrong := fault(data):
        raise WireError("invalid_json", f"The event is not taken: {wrong}.", event_id=event_id)
    kind = data.get("type")
    if not isinstance(kind, str):
        raise WireError("missing_required_parameter", "Missing required parameter: 'type'.", "type", event_id)
    if translate is not None:
        data = _translated(data, translate, event_id)
        kind = data["type"]
    adapter = _EVENTS.get(kind)
    if adapter is None:
        raise WireError(
            "unknown_event", f"Unknown event type {kind[:80]!r}; there are: {', '.join(_EVENTS)}.", "type", event_id
        )
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        found = wire_error(error, "event")
        param = (found.param or "").removeprefix("event.")
        raise WireError(found.code, str(found).replace("event.", "", 1), param, event_id) from error


def _translated(data: dict[str, Any], translate: Translate, event_id: str | None) -> dict[str, Any]:
    try:
        return translate(data)
    except WireError as error:
        error.event_id = event_id
        raise
