"""How large an item may be that a client makes."""

from __future__ import annotations

from omni_rt.config import ServerSettings
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.item_models import (
    AnyItem,
    CallItem,
    ContentPart,
    InputAudio,
    InputImage,
    MessageItem,
    OutputAudio,
)


def check_size(item: AnyItem, limits: ServerSettings, path: str) -> None:
    """Raises WireError `item_too_large` naming `path`."""
    match item:
        case MessageItem():
            characters, size = sum(map(_characters, item.content)), sum(map(_bytes, item.content))
        case CallItem():
            characters, size = len(item.arguments), 0
        case _:
            characters, size = len(item.output), 0
    if characters > limits.max_item_characters:
        raise WireError(
            "item_too_large",
            f"The text of this item has {characters} characters; an item may have {limits.max_item_characters} "
            "(server.max_item_characters). Shorten it, or make several items of it.",
            path,
        )
    if size > limits.max_item_bytes:
        raise WireError(
            "item_too_large",
            f"The sound and pictures of this item have {size} bytes of base64; an item may have "
            f"{limits.max_item_bytes} (server.max_item_bytes). Make them smaller, or make several items of them.",
            path,
        )


def _characters(part: ContentPart) -> int:
    match part:
        case InputAudio() | OutputAudio():
            return len(part.transcript or "")
        case InputImage():
            return 0
        case _:
            return len(part.text)


def _bytes(part: ContentPart) -> int:
    match part:
        case InputAudio() | OutputAudio():
            return len(part.audio or "")
        case InputImage():
            return len(part.image_url)
        case _:
            return 0
