"""Our server events, as the dialect's."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from omni_rt.media.resample import Resampler
from omni_rt.realtime.dashscope.client_events import ClientEvents, pcm_text
from omni_rt.realtime.dashscope.settings import modalities
from omni_rt.realtime.wire_audio import PCM_RATE
from omni_rt.realtime.writer import new_id

Event = dict[str, Any]

RENAMED = {
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "conversation.item.added": "conversation.item.created",
    "conversation.item.input_audio_transcription.failed": "error",
}
# Not known there: an item is done when it is created, a silence that was too long is told by its commit, of what was
# heard of a reply nothing is said.
UNTOLD = (
    "conversation.item.done",
    "conversation.item.deleted",
    "conversation.item.truncated",
    "input_audio_buffer.timeout_triggered",
)
# Fields of ours, by event, that the dialect has not.
_DROPPED: dict[str, tuple[str, ...]] = {
    "input_audio_buffer.committed": ("previous_item_id",),
    "conversation.item.created": ("previous_item_id",),
    "conversation.item.input_audio_transcription.completed": ("usage",),
    "error": ("item_id", "content_index"),
}
# Where our errors find faults, and what it is called there.
_PARAMS = {
    "session.audio.input.turn_detection": "session.turn_detection",
    "session.audio.input.transcription": "session.input_audio_transcription",
    "session.audio.output.voice": "session.voice",
    "session.output_modalities": "session.modalities",
    "session.max_output_tokens": "session.max_tokens",
    "response.output_modalities": "response.modalities",
}


class ServerEvents:
    """Translates what is told to one session's client; `client` knows what the session's dialect is."""

    def __init__(self, client: ClientEvents) -> None:
        self._client = client
        self._resamplers: dict[str, Resampler] = {}
        self._translations: dict[str, Callable[[Event], Iterable[Event]]] = {
            "session.created": self._session,
            "session.updated": self._updated,
            "error": _error,
            "conversation.item.created": _item,
            "response.created": self._response,
            "response.done": self._response,
            "response.output_item.added": _item,
            "response.output_item.done": _item,
            "response.content_part.added": _part,
            "response.content_part.done": _part,
            "response.audio.delta": self._audio,
            "response.audio.done": self._audio_done,
        }

    def translate(self, event: Event) -> list[Event]:
        """What the client is told for one event of ours; nothing where the dialect has no word for it."""
        ours = str(event["type"])
        if ours in UNTOLD:
            return []
        kind = RENAMED.get(ours, ours)
        dropped = _DROPPED.get(kind, ())
        theirs = {name: value for name, value in event.items() if name not in dropped} | {"type": kind}
        translation = self._translations.get(kind)
        return [theirs] if translation is None else list(translation(theirs))

    def finished(self) -> Event:
        """The answer to `session.finish`, which we have no word for."""
        return {"type": "session.finished", "event_id": new_id("event")}

    def _session(self, event: Event) -> Iterable[Event]:
        yield event | {"session": self._client.dialect.echo(event["session"])}

    def _updated(self, event: Event) -> Iterable[Event]:
        self._client.agreed()
        return self._session(event)

    def _response(self, event: Event) -> Iterable[Event]:
        ours = event["response"]
        theirs = {name: ours[name] for name in ("id", "object", "conversation_id", "status")}
        if ours["status_details"] is not None:
            theirs["status_details"] = ours["status_details"]
        theirs |= {
            "modalities": modalities(ours["output_modalities"]),
            "voice": ours["audio"]["output"]["voice"],
            "output_audio_format": self._client.dialect.output_format,
            "output": [_their_item(item) for item in ours["output"]],
        }
        if ours["usage"] is not None:
            theirs["usage"] = _usage(ours["usage"])
        yield event | {"response": theirs}

    def _audio(self, event: Event) -> Iterable[Event]:
        """At the rate that held when the item began to sound."""
        item_id = event["item_id"]
        resampler = self._resamplers.get(item_id)
        if resampler is None:
            resampler = self._resamplers[item_id] = Resampler(PCM_RATE, self._client.dialect.output_rate)
        pcm = resampler.feed(np.frombuffer(base64.b64decode(event["delta"]), "<i2").astype(np.int16, copy=False))
        if len(pcm):
            yield event | {"delta": pcm_text(pcm)}

    def _audio_done(self, event: Event) -> Iterable[Event]:
        resampler = self._resamplers.pop(event["item_id"], None)
        if resampler is not None and len(rest := resampler.flush()):
            yield event | {
                "type": "response.audio.delta",
                "event_id": f"{event['event_id']}_rest",
                "delta": pcm_text(rest),
            }
        yield event


def _error(event: Event) -> Iterable[Event]:
    error = {"event_id": None} | event["error"]
    for ours, theirs in _PARAMS.items():
        if error["param"] == ours or (error["param"] or "").startswith(f"{ours}."):
            error = error | {
                "param": theirs + error["param"].removeprefix(ours),
                "message": error["message"].replace(ours, theirs),
            }
            break
    yield event | {"error": error}


def _item(event: Event) -> Iterable[Event]:
    yield event | {"item": _their_item(event["item"])}


def _part(event: Event) -> Iterable[Event]:
    yield event | {"part": _their_part(event["part"])}


def _their_item(item: Event) -> Event:
    return item | {"content": [_their_part(part) for part in item["content"]]} if "content" in item else item


def _their_part(part: Event) -> Event:
    """The documentation has what was said as `text` in one place and as `transcript` in another: here it is both."""
    match part["type"]:
        case "output_text" | "text":
            return {"type": "text", "text": part["text"]}
        case "output_audio" | "audio":
            return {"type": "audio", "text": part["transcript"], "transcript": part["transcript"]}
        case _:
            return part


def _usage(ours: Event) -> Event:
    heard, made = ours["input_token_details"], ours["output_token_details"]
    return {
        **{name: ours[name] for name in ("total_tokens", "input_tokens", "output_tokens")},
        "input_tokens_details": {name: heard[name] for name in ("text_tokens", "audio_tokens", "image_tokens")},
        "output_tokens_details": {name: made[name] for name in ("text_tokens", "audio_tokens")},
    }
