"""The grammar of a turn: in which order the events of one session may come.

Written down as four small machines: what a user's item, an item of a reply, a reply and the output buffer go through.
What the server says in one breath (`FOLLOWS`) may not be interrupted by anything else.
"""

from __future__ import annotations

from typing import Any

Machine = dict[str, dict[str, str]]
"""From each state, by event, to the next; the first state is empty."""

TRANSCRIBED = "conversation.item.input_audio_transcription"
PART = "response.content_part"

USERS_ITEM: Machine = {
    "": {
        "input_audio_buffer.speech_started": "speaking",
        "input_audio_buffer.timeout_triggered": "silent",
        f"{TRANSCRIBED}.delta": "heard",
        "input_audio_buffer.committed": "committed",
        "conversation.item.added": "added",
    },
    "heard": {f"{TRANSCRIBED}.delta": "heard", "input_audio_buffer.committed": "committed"},
    "speaking": {f"{TRANSCRIBED}.delta": "speaking", "input_audio_buffer.speech_stopped": "silent"},
    "silent": {"input_audio_buffer.committed": "committed"},
    "committed": {"conversation.item.added": "added"},
    "added": {"conversation.item.done": "done"},
    "done": {
        f"{TRANSCRIBED}.completed": "understood",
        f"{TRANSCRIBED}.failed": "understood",
        "conversation.item.deleted": "deleted",
    },
    "understood": {"conversation.item.deleted": "deleted"},
    "deleted": {},
}

REPLYS_ITEM: Machine = {
    "": {"response.output_item.added": "begun"},
    "begun": {
        f"{PART}.added": "part",
        "response.function_call_arguments.delta": "calling",
        "response.function_call_arguments.done": "called",
    },
    "part": {
        "response.output_audio_transcript.delta": "part",
        "response.output_audio.delta": "part",
        "response.output_text.delta": "part",
        "response.output_audio.done": "sounded",
        "response.output_text.done": "said",
    },
    "sounded": {"response.output_audio_transcript.done": "said"},
    "said": {f"{PART}.done": "whole"},
    "calling": {
        "response.function_call_arguments.delta": "calling",
        "response.function_call_arguments.done": "called",
    },
    "called": {"response.output_item.done": "done"},
    "whole": {"response.output_item.done": "done"},
    "done": {"conversation.item.truncated": "done", "conversation.item.deleted": "deleted"},
    "deleted": {},
}

REPLY: Machine = {
    "": {"response.created": "making"},
    "making": {"response.output_item.added": "making", "response.output_item.done": "making", "response.done": "done"},
    "done": {},
}

OUTPUT_BUFFER: Machine = {
    "": {"output_audio_buffer.started": "playing"},
    "playing": {"output_audio_buffer.stopped": "over", "output_audio_buffer.cleared": "over"},
    "over": {},
}

FOLLOWS = {
    "input_audio_buffer.speech_stopped": "input_audio_buffer.committed",
    "input_audio_buffer.timeout_triggered": "input_audio_buffer.committed",
    "input_audio_buffer.committed": "conversation.item.added",
    "response.output_audio.done": "response.output_audio_transcript.done",
    "response.output_audio_transcript.done": f"{PART}.done",
    "response.output_text.done": f"{PART}.done",
    f"{PART}.done": "response.output_item.done",
}
"""After the one nothing but the other, about the same item."""

FIRST = ("session.created", "error")
"""Events that may come before the session is there."""


class TurnGrammar:
    """Follows one session; `step` tells what is wrong with the order of each event."""

    def __init__(self) -> None:
        self._opened = False
        self._next: tuple[str, str] | None = None
        self._items: dict[str, tuple[Machine, str]] = {}
        self._entered: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._replies: dict[str, str] = {}
        self._buffers: dict[str, str] = {}
        self._output: dict[str, list[str]] = {}
        self._band: str | None = None
        self._aside: set[str] = set()

    def step(self, event: dict[str, Any]) -> list[str]:
        kind, item_id = event["type"], _item_id(event)
        wrong: list[str] = []
        if not self._opened and kind not in FIRST:
            wrong.append("it comes before session.created")
        if kind == "session.created":
            wrong += ["the session was created already"] if self._opened else []
            self._opened = True
        if self._next is not None and self._next != (kind, item_id):
            wrong.append(f"nothing but {self._next} may come now")
        self._next = None
        response_id = event.get("response_id") or event.get("response", {}).get("id")
        if response_id:
            wrong += self._reply(kind, response_id, event)
        if item_id:
            wrong += self._item(kind, item_id, event)
        return wrong

    # -- replies

    def _reply(self, kind: str, response_id: str, event: dict[str, Any]) -> list[str]:
        if kind.startswith("output_audio_buffer."):
            return self._buffer(kind, response_id)
        state = self._replies.get(response_id, "")
        if kind in ("response.created", "response.done", "response.output_item.added", "response.output_item.done"):
            after = REPLY[state].get(kind)
            if after is None:
                return [f"response {response_id} is {state or 'unknown'}"]
            self._replies[response_id] = after
        elif state != "making":
            return [f"response {response_id} is {state or 'unknown'}"]
        if kind == "response.created":
            return self._created(response_id, event["response"])
        return self._made(response_id, event["response"]) if kind == "response.done" else []

    def _created(self, response_id: str, body: dict[str, Any]) -> list[str]:
        self._output[response_id] = []
        wrong = [] if body["status"] == "in_progress" and not body["output"] else ["a new response is not empty"]
        if body["conversation_id"] is None:
            self._aside.add(response_id)
            return wrong
        before, self._band = self._band, response_id
        return wrong if before is None else [*wrong, f"response {before} of the conversation is not done"]

    def _made(self, response_id: str, body: dict[str, Any]) -> list[str]:
        if self._band == response_id:
            self._band = None
        made = self._output.setdefault(response_id, [])
        wrong = [f"item {item} is not done" for item in made if self._items[item][1] not in ("done", "deleted")]
        told = [item["id"] for item in body["output"]]
        return wrong if told == made else [*wrong, f"its output is {told}, its items were {made}"]

    def _buffer(self, kind: str, response_id: str) -> list[str]:
        state = self._buffers.get(response_id, "")
        after = OUTPUT_BUFFER[state].get(kind)
        if after is None:
            return [f"the output buffer is {state or 'not playing'}"]
        self._buffers[response_id] = after
        if kind == "output_audio_buffer.started" and not self._output.get(response_id):
            return [f"response {response_id} has no item to be heard"]
        if kind == "output_audio_buffer.stopped" and self._replies.get(response_id) != "done":
            return [f"response {response_id} is not done"]
        return []

    # -- items

    def _item(self, kind: str, item_id: str, event: dict[str, Any]) -> list[str]:
        machine, state = self._items.get(item_id, (USERS_ITEM, ""))
        if (state, kind) == ("deleted", "conversation.item.added"):
            machine, state = USERS_ITEM, ""  # clients change an item by deleting it and creating it again
        if kind == "conversation.item.retrieved":
            return [] if item_id in self._items else [f"item {item_id} is unknown"]
        if kind == "response.output_item.added" and not state:
            machine = REPLYS_ITEM
        if machine is REPLYS_ITEM and kind in ("conversation.item.added", "conversation.item.done"):
            return self._enters(kind, item_id, event)
        after = machine[state].get(kind)
        if after is None:
            return [f"item {item_id} is {state or 'unknown'}"]
        self._items[item_id] = machine, after
        if (follows := FOLLOWS.get(kind)) is not None:
            self._next = follows, item_id
        if machine is REPLYS_ITEM:
            return self._says(kind, item_id, event)
        if kind == "conversation.item.added":
            self._next = "conversation.item.done", item_id
            return self._behind(event)
        return []

    def _enters(self, kind: str, item_id: str, event: dict[str, Any]) -> list[str]:
        """An item of a reply enters the conversation, or is done there."""
        before = {"conversation.item.added": "", "conversation.item.done": "conversation.item.added"}[kind]
        if self._entered.get(item_id) != before:
            return [f"item {item_id} is not one that enters the conversation now"]
        self._entered[item_id] = kind
        if kind == "conversation.item.added" and event["item"]["type"] == "message":
            self._next = f"{PART}.added", item_id
        return self._behind(event)

    def _behind(self, event: dict[str, Any]) -> list[str]:
        previous = event.get("previous_item_id")
        return [] if previous is None or previous in self._items else [f"there is no item {previous} before it"]

    def _says(self, kind: str, item_id: str, event: dict[str, Any]) -> list[str]:
        """What is said in pieces is what is said in the end; items are numbered in order."""
        if kind == "response.output_item.added":
            output = self._output.setdefault(event["response_id"], [])
            output.append(item_id)
            self._said[item_id] = ""
            if event["response_id"] not in self._aside:
                self._entered[item_id] = ""
                self._next = "conversation.item.added", item_id
            return [] if event["output_index"] == len(output) - 1 else [f"its index is not {len(output) - 1}"]
        if kind.endswith(".delta") and kind != "response.output_audio.delta":
            self._said[item_id] += event["delta"]
        for whole in ("transcript", "text", "arguments"):
            if kind.startswith("response.") and whole in event and event[whole] != self._said[item_id]:
                return [f"its pieces were {self._said[item_id]!r}"]
        if kind == "response.output_item.done" and item_id in self._entered:
            self._next = "conversation.item.done", item_id
        return []


def _item_id(event: dict[str, Any]) -> str:
    return str(event.get("item_id") or event.get("item", {}).get("id") or "")
