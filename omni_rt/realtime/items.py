"""Conversation items on the wire and inside: decoding what clients send, echoing what there is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from omni_rt.core.conversation import Item, Part, Picture, Speech, Text
from omni_rt.engine.api import INPUT_RATE, Rgb, ToolCall
from omni_rt.media.frames import fit
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.item_models import (
    AnyItem,
    CallItem,
    CallOutputItem,
    ContentPart,
    InputAudio,
    InputImage,
    MessageItem,
    OutputAudio,
)
from omni_rt.realtime.settings import AudioFormat
from omni_rt.realtime.wire_audio import decode_base64, decode_clip

MAX_PIXELS = 40_000_000
# Longer side of a picture that is kept; no engine looks closer.
KEPT_SIDE = 2048


def decode_item(item: AnyItem, item_id: str, call_id: str, form: AudioFormat, path: str = "item") -> Item:
    """An item as the client wrote it, with audio in `form`. Raises WireError naming the field, within `path`."""
    match item:
        case CallItem():
            return Item(
                item_id, "function_call", "assistant", call=ToolCall(item.call_id or call_id, item.name, item.arguments)
            )
        case CallOutputItem():
            return Item(item_id, "function_call_output", result_of=item.call_id, output=item.output)
        case MessageItem():
            parts = tuple(_part(part, item.role, form, f"{path}.content.{n}") for n, part in enumerate(item.content))
            return Item(item_id, "message", item.role, parts)


def _part(part: ContentPart, role: str, form: AudioFormat, path: str) -> Part:
    wanted = {"user": "input_", "system": "input_text", "assistant": "output_"}[role]
    if not part.type.startswith(wanted) and not (role == "assistant" and part.type == "text"):
        raise WireError("invalid_value", f"A {role} message cannot have content of type {part.type!r}.", f"{path}.type")
    match part:
        case InputAudio():
            pcm = decode_clip(part.audio or "", form, f"{path}.audio")
            return Speech(part.transcript, pcm, len(pcm) * 1000 // INPUT_RATE)
        case InputImage():
            rgb = _fit(decode_image(part.image_url, f"{path}.image_url"), KEPT_SIDE)
            return Picture(rgb, part.image_url, part.detail)
        case OutputAudio():
            return Speech(part.transcript or "")
        case _:
            return Text(part.text)


def decode_image(url: str, param: str) -> Rgb:
    """A data URL of a PNG or JPEG as RGB pixels. Raises WireError; nothing is ever fetched."""
    head, comma, body = url.partition(",")
    if not comma or head not in ("data:image/png;base64", "data:image/jpeg;base64"):
        raise WireError(
            "invalid_image",
            f"'{param}' must be a data URL, 'data:image/png;base64,...' or 'data:image/jpeg;base64,...'.",
            param,
        )
    return _pixels(decode_base64(body, param), param)


def decode_frame(text: str, param: str, longest: int) -> Rgb:
    """A camera's picture, a data URL or base64 of a PNG or JPEG; its longer side is at most `longest` after this.

    Raises WireError.
    """
    rgb = decode_image(text, param) if text.startswith("data:") else _pixels(decode_base64(text, param), param)
    return _fit(rgb, longest)


def _fit(rgb: Rgb, longest: int) -> Rgb:
    height, width = rgb.shape[:2]
    size = fit(width, height, longest)
    if size == (width, height):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _pixels(data: bytes, param: str) -> Rgb:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise WireError("invalid_image", f"'{param}' has more than {MAX_PIXELS} pixels.", param)
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise WireError("invalid_image", f"'{param}' is no readable PNG or JPEG: {error}.", param) from error


def encode_item(item: Item) -> dict[str, Any]:
    """The item as events carry it; audio is left out, as the protocol does."""
    body: dict[str, Any] = {"id": item.id, "object": "realtime.item", "type": item.kind, "status": item.status}
    if item.kind == "function_call" and item.call is not None:
        return body | {"call_id": item.call.call_id, "name": item.call.name, "arguments": item.call.arguments}
    if item.kind == "function_call_output":
        return body | {"call_id": item.result_of, "output": item.output}
    return body | {"role": item.role, "content": [encode_part(part, item.role) for part in item.parts]}


def encode_part(part: Part, role: str) -> dict[str, Any]:
    side = "output" if role == "assistant" else "input"
    match part:
        case Text():
            return {"type": f"{side}_text", "text": part.text}
        case Speech():
            return {"type": f"{side}_audio", "transcript": part.transcript}
        case Picture():
            return {"type": "input_image", "image_url": part.url, "detail": part.detail}
