"""Server events, built in the order the protocol wants them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import uuid4

from omni_rt.core.conversation import Item, Speech, Text
from omni_rt.engine.api import CallDelta, Pcm, ToolCall, Usage
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.items import encode_item, encode_part
from omni_rt.realtime.settings import WireSession
from omni_rt.realtime.wire_audio import AudioEncoder

Send = Callable[[dict[str, Any]], None]
ResponseStatus = Literal["completed", "cancelled", "failed", "incomplete"]


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex[:24]}"


class EventWriter:
    """Sends the events that stand for themselves; a reply has its own ResponseWriter."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event, not sent. Every event that leaves the server is made here."""
        return {"type": kind, "event_id": new_id("event"), **fields}

    def emit(self, kind: str, **fields: Any) -> None:
        self._send(self.event(kind, **fields))

    def send(self, event: dict[str, Any]) -> None:
        """Send what `event` has made."""
        self._send(event)

    def error(self, error: WireError) -> None:
        self.emit("error", error=error.body())

    def session(self, kind: Literal["session.created", "session.updated"], session: WireSession) -> None:
        self.emit(kind, session=session.echo())

    def speech_started(self, at_ms: int, item_id: str) -> None:
        self.emit("input_audio_buffer.speech_started", audio_start_ms=at_ms, item_id=item_id)

    def speech_stopped(self, at_ms: int, item_id: str) -> None:
        """`at_ms` is where the turn ended, the silence that ended it included."""
        self.emit("input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=item_id)

    def timeout_triggered(self, from_ms: int, at_ms: int, item_id: str) -> None:
        self.emit("input_audio_buffer.timeout_triggered", audio_start_ms=from_ms, audio_end_ms=at_ms, item_id=item_id)

    def committed(self, item_id: str, previous_id: str | None) -> None:
        self.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous_id)

    def item(self, item: Item, previous_id: str | None) -> None:
        """A whole item entered the conversation."""
        self.item_added(item, previous_id)
        self.item_done(item, previous_id)

    def item_added(self, item: Item, previous_id: str | None) -> None:
        self.emit("conversation.item.added", item=encode_item(item), previous_item_id=previous_id)

    def item_done(self, item: Item, previous_id: str | None) -> None:
        self.emit("conversation.item.done", item=encode_item(item), previous_item_id=previous_id)

    def item_deleted(self, item_id: str) -> None:
        self.emit("conversation.item.deleted", item_id=item_id)

    def item_truncated(self, item_id: str, audio_ms: int, heard: str) -> None:
        """`transcript`, what was heard of it, stands beside the standard fields."""
        self.emit(
            "conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=audio_ms, transcript=heard
        )

    def transcript_delta(self, item_id: str, delta: str) -> None:
        self.emit("conversation.item.input_audio_transcription.delta", item_id=item_id, content_index=0, delta=delta)

    def transcript_done(self, item_id: str, transcript: str, seconds: float) -> None:
        self.emit(
            "conversation.item.input_audio_transcription.completed",
            item_id=item_id,
            content_index=0,
            transcript=transcript,
            usage={"type": "duration", "seconds": seconds},
        )

    def transcript_failed(self, item_id: str, error: WireError) -> None:
        body = {"type": error.kind, "code": error.code, "message": str(error), "param": error.param}
        self.emit("conversation.item.input_audio_transcription.failed", item_id=item_id, content_index=0, error=body)


@dataclass(slots=True)
class _OpenItem:
    item_id: str
    output_index: int
    previous_id: str | None
    text: str = ""


class ResponseWriter:
    """The events of one reply. `session` is the session as it holds for this reply; where it speaks, text is the
    transcript of audio, otherwise it is plain text. Out of band, `conversation_id` is None."""

    def __init__(
        self,
        events: EventWriter,
        session: WireSession,
        metadata: dict[str, str] | None,
        conversation_id: str | None,
    ) -> None:
        self.id = new_id("resp")
        self._events = events
        self._spoken = session.speaks
        self._conversation_id = conversation_id
        self._session = session
        self._metadata = metadata
        self._audio = AudioEncoder(session.audio.output.format)
        self._message: _OpenItem | None = None
        self._output: list[Item] = []
        self.finished = False

    @property
    def message_id(self) -> str | None:
        """The assistant message's item id, once something was said."""
        if self._message is not None:
            return self._message.item_id
        return next((item.id for item in self._output if item.kind == "message"), None)

    @property
    def text(self) -> str:
        return self._message.text if self._message else next((i.text for i in self._output if i.kind == "message"), "")

    def created(self) -> None:
        self._events.emit("response.created", response=self._body("in_progress"))

    def open_message(self, previous_id: str | None) -> Item | None:
        """Begin the assistant's message; None if it is open already."""
        if self._message is not None:
            return None
        self._message = _OpenItem(new_id("item"), len(self._output), previous_id)
        item = Item(self._message.item_id, "message", "assistant", (), "in_progress")
        self._item_event("response.output_item.added", item)
        self._conversation_event(self._events.item_added, item, previous_id)
        part = Speech("") if self._spoken else Text("")
        self._part_event("response.content_part.added", part=self._part(part))
        return item

    def text_delta(self, delta: str) -> None:
        assert self._message is not None
        self._message.text += delta
        kind = "response.output_audio_transcript.delta" if self._spoken else "response.output_text.delta"
        self._part_event(kind, delta=delta)

    def audio_delta(self, pcm: Pcm | None) -> dict[str, Any] | None:
        """The event that carries audio where there is no track; with None for `pcm`, the last one. None if it would
        carry nothing."""
        if self._message is None:
            return None
        audio = self._audio.flush() if pcm is None else self._audio.feed(pcm)
        if not audio:
            return None
        return self._events.event(
            "response.output_audio.delta",
            response_id=self.id,
            item_id=self._message.item_id,
            output_index=self._message.output_index,
            content_index=0,
            delta=audio,
        )

    def close_message(self, status: Literal["completed", "incomplete"]) -> Item | None:
        """End the assistant's message; returns it as it stands."""
        message = self._message
        if message is None:
            return None
        part = Speech(message.text) if self._spoken else Text(message.text)
        if self._spoken:
            self._part_event("response.output_audio.done")
            self._part_event("response.output_audio_transcript.done", transcript=message.text)
        else:
            self._part_event("response.output_text.done", text=message.text)
        self._part_event("response.content_part.done", part=self._part(part))
        item = Item(message.item_id, "message", "assistant", (part,), status)
        self._item_event("response.output_item.done", item)
        self._conversation_event(self._events.item_done, item, message.previous_id)
        self._output.insert(message.output_index, item)
        self._message = None
        return item

    def call(self, call: CallDelta, previous_id: str | None) -> Item:
        """A complete function call as an item of its own; a message that is open stays open."""
        item = Item(
            new_id("item"),
            "function_call",
            "assistant",
            status="in_progress",
            call=ToolCall(call.call_id, call.name, call.arguments),
        )
        index = len(self._output) + (self._message is not None)
        place = {"response_id": self.id, "item_id": item.id, "output_index": index, "call_id": call.call_id}
        begun = replace(item, call=ToolCall(call.call_id, call.name, ""))
        self._events.emit(
            "response.output_item.added", response_id=self.id, output_index=index, item=encode_item(begun)
        )
        self._conversation_event(self._events.item_added, begun, previous_id)
        self._events.emit("response.function_call_arguments.delta", **place, delta=call.arguments)
        self._events.emit("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        done = replace(item, status="completed")
        self._events.emit("response.output_item.done", response_id=self.id, output_index=index, item=encode_item(done))
        self._conversation_event(self._events.item_done, done, previous_id)
        self._output.append(done)
        return done

    def done(self, status: ResponseStatus, reason: str | None, usage: Usage, error: str = "") -> None:
        """The last event of the reply's making; `reason` says why it is not complete."""
        if self.finished:
            return
        self.finished = True
        details: dict[str, Any] | None = None
        if status != "completed":
            details = {"type": status}
            if reason:
                details["reason"] = reason
            if error:
                details["error"] = {"type": "server_error", "code": reason or "engine_failed"}
        self._events.emit("response.done", response=self._body(status, details, usage))

    def buffer(self, what: Literal["started", "stopped", "cleared"]) -> None:
        self._events.emit(f"output_audio_buffer.{what}", response_id=self.id)

    def _body(self, status: str, details: dict[str, Any] | None = None, usage: Usage | None = None) -> dict[str, Any]:
        output = self._session.audio.output
        return {
            "object": "realtime.response",
            "id": self.id,
            "conversation_id": self._conversation_id,
            "status": status,
            "status_details": details,
            "output": [encode_item(item) for item in self._output],
            "output_modalities": ["audio" if self._spoken else "text"],
            "audio": {"output": {"format": output.format.model_dump(mode="json"), "voice": self._session.voice}},
            "max_output_tokens": self._session.max_output_tokens,
            "metadata": self._metadata,
            "usage": _usage(usage) if usage else None,
        }

    def _part(self, part: Speech | Text) -> dict[str, Any]:
        body = encode_part(part, "assistant")
        return body | {"type": "audio" if self._spoken else "text"}

    def _part_event(self, kind: str, **fields: Any) -> None:
        assert self._message is not None
        self._events.emit(
            kind,
            response_id=self.id,
            item_id=self._message.item_id,
            output_index=self._message.output_index,
            content_index=0,
            **fields,
        )

    def _conversation_event(self, tell: Callable[[Item, str | None], None], item: Item, previous: str | None) -> None:
        if self._conversation_id is not None:
            tell(item, previous)

    def _item_event(self, kind: str, item: Item) -> None:
        assert self._message is not None
        self._events.emit(kind, response_id=self.id, output_index=self._message.output_index, item=encode_item(item))


def _usage(usage: Usage) -> dict[str, Any]:
    cached = usage.input_tokens - usage.evaluated_tokens
    return {
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "input_token_details": {
            "text_tokens": usage.input_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": cached,
        },
        "output_token_details": {"text_tokens": usage.output_tokens, "audio_tokens": 0},
    }
