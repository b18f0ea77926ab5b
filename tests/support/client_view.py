"""What a client knows of a session that hears every event and nothing else, and what contradicts itself in it."""

from __future__ import annotations

from typing import Any

from tests.support.strict_events import faults
from tests.support.turn_grammar import TurnGrammar

Event = dict[str, Any]


class ClientView:
    """`order` are the items' ids, `items` the items as they were told; `open` the responses that are not done, `made`
    their ids in order."""

    def __init__(self) -> None:
        self.session: Event = {}
        self.order: list[str] = []
        self.items: dict[str, Event] = {}
        self.open: set[str] = set()
        self.made: list[str] = []
        self.done: dict[str, Event] = {}
        self.seconds: dict[str, float] = {}
        self._grammar = TurnGrammar()

    def step(self, event: Event) -> None:
        """Raises AssertionError where the event is wrong, or does not go with those before it."""
        wrong = faults(event) or self._grammar.step(event)
        assert not wrong, (wrong, event)
        match event["type"]:
            case "session.created" | "session.updated":
                self.session = event["session"]
            case "conversation.item.added":
                self._add(event["item"], event["previous_item_id"])
            case "conversation.item.done":
                assert self._before(event["item"]["id"]) == event["previous_item_id"] or self._moved(event), event
                self.items[event["item"]["id"]] = event["item"]
            case "conversation.item.deleted":
                self.order.remove(event["item_id"])
                del self.items[event["item_id"]]
            case "conversation.item.truncated":
                self._says(event["item_id"], event["transcript"])
            case "conversation.item.input_audio_transcription.completed":
                self.seconds[event["item_id"]] = event["usage"]["seconds"]
                if event["item_id"] in self.items:
                    self._says(event["item_id"], event["transcript"])
            case "conversation.item.retrieved":
                known = self.items[event["item"]["id"]]
                for part, told in zip(known.get("content", ()), event["item"].get("content", ()), strict=True):
                    if part.get("transcript", "") is None:
                        part["transcript"] = told["transcript"]  # not told where no transcription is wanted
                assert event["item"] == known, known
            case "input_audio_buffer.committed":
                assert event["previous_item_id"] == (self.order[-1] if self.order else None)
            case "response.created":
                self.made.append(event["response"]["id"])
                self.open.add(event["response"]["id"])
            case "response.done":
                self.open.remove(event["response"]["id"])
                self.done[event["response"]["id"]] = event["response"]

    def _add(self, item: Event, previous: str | None) -> None:
        assert item["id"] not in self.items
        self.order.insert(0 if previous is None else self.order.index(previous) + 1, item["id"])
        self.items[item["id"]] = item

    def _before(self, item_id: str) -> str | None:
        place = self.order.index(item_id)
        return self.order[place - 1] if place else None

    def _moved(self, event: Event) -> bool:
        """Items were put before it, or taken away, while it was made."""
        return bool(event["item"].get("role") == "assistant")

    def _says(self, item_id: str, transcript: str) -> None:
        item = self.items[item_id]
        content = [part | ({"transcript": transcript} if "transcript" in part else {}) for part in item["content"]]
        self.items[item_id] = item | {"content": content}
