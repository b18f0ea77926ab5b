"""The items of a conversation: what was said, shown, called and heard, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from omni_rt.engine.api import ContextItem, Pcm, Rgb, Role, ToolCall

ItemKind = Literal["message", "function_call", "function_call_output"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


@dataclass(frozen=True, slots=True)
class Text:
    """Something written."""

    text: str


@dataclass(frozen=True, slots=True)
class Speech:
    """Something spoken: 16 kHz `pcm` for a user, none for the assistant; `transcript` None is not known yet."""

    transcript: str | None
    pcm: Pcm | None = field(default=None, compare=False)
    audio_ms: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """Something shown; `url` is what the client gave, `rgb` the decoded pixels."""

    rgb: Rgb = field(compare=False)
    url: str = ""
    detail: str = "auto"


Part = Text | Speech | Picture


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of the history. Calls use `call`, results use `result_of` and `output`, messages use `parts`."""

    id: str
    kind: ItemKind = "message"
    role: Role = "user"
    parts: tuple[Part, ...] = ()
    status: ItemStatus = "completed"
    call: ToolCall | None = None
    result_of: str = ""
    output: str = ""

    @property
    def text(self) -> str:
        """All that was written or spoken in it."""
        words = (
            p.text if isinstance(p, Text) else p.transcript or "" for p in self.parts if not isinstance(p, Picture)
        )
        return " ".join(w for w in words if w)

    def context(self) -> ContextItem:
        """What an engine needs of it."""
        if self.kind == "function_call":
            return ContextItem(self.id, "assistant", call=self.call)
        if self.kind == "function_call_output":
            return ContextItem(self.id, "user", text=self.output, result_of=self.result_of)
        audio = next((p.pcm for p in self.parts if isinstance(p, Speech) and p.pcm is not None), None)
        images = tuple(p.rgb for p in self.parts if isinstance(p, Picture))
        return ContextItem(self.id, self.role, self.text, audio, images)


class UnknownItem(KeyError):
    """No item of this id is in the conversation."""


class Conversation:
    """An ordered list of items with unique ids."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._forgotten: set[str] = set()
        self._supposed: dict[str, str] = {}

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._items

    def get(self, item_id: str) -> Item:
        """Raises UnknownItem."""
        try:
            return self._items[item_id]
        except KeyError:
            raise UnknownItem(item_id) from None

    def last_id(self) -> str | None:
        return next(reversed(self._items), None)

    def previous_id(self, item_id: str) -> str | None:
        """The item before this one; None for the first."""
        ids = list(self._items)
        place = ids.index(self.get(item_id).id)
        return ids[place - 1] if place else None

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Insert after an item (`root`: at the start; None: at the end). Returns the id of the item before it.

        Raises ValueError for an id that is taken, UnknownItem for an unknown `after`.
        """
        if item.id in self._items:
            raise ValueError(f"there is already an item {item.id!r}")
        if after is None:
            previous = self.last_id()
            self._items[item.id] = item
            return previous
        if after != "root":
            self.get(after)
        entries = list(self._items.items())
        place = 0 if after == "root" else [key for key, _ in entries].index(after) + 1
        entries.insert(place, (item.id, item))
        self._items = dict(entries)
        return None if after == "root" else after

    def put(self, item: Item) -> None:
        """Replace the item of the same id. Raises UnknownItem."""
        self.get(item.id)
        self._items[item.id] = item

    def remove(self, item_id: str) -> Item:
        """Raises UnknownItem."""
        item = self.get(item_id)
        del self._items[item_id]
        self._forgotten.discard(item_id)
        self._supposed.pop(item_id, None)
        return item

    def forget(self, item_ids: Iterable[str]) -> None:
        """Keep these out of the model's context from now on; they stay in the list."""
        self._forgotten.update(item_ids)

    def suppose(self, item_id: str, heard: str) -> None:
        """Let the model have so much of a reply, whatever the item says, until its transcript is written: nothing of it
        where that is nothing."""
        self._supposed[item_id] = heard

    def remembered(self) -> list[Item]:
        """The items of the model's context."""
        return [item for item in self if item.status != "in_progress" and item.id not in self._forgotten]

    def set_transcript(self, item_id: str, transcript: str) -> Item:
        """Write what was said (user) or heard (assistant) into the item's speech part."""
        item = self.get(item_id)
        parts = tuple(replace(p, transcript=transcript) if isinstance(p, Speech) else p for p in item.parts)
        item = replace(item, parts=parts)
        self.put(item)
        self._supposed.pop(item_id, None)
        return item

    def context(self) -> tuple[ContextItem, ...]:
        """Everything an engine needs to take over the conversation."""
        known = (item for item in self.remembered() if self._supposed.get(item.id, item) != "")
        return tuple(replace(item.context(), text=self._supposed.get(item.id, item.text)) for item in known)
