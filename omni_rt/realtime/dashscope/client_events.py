"""The dialect's client events, as our own."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from omni_rt.engine.api import Pcm
from omni_rt.media.resample import Resampler, resample
from omni_rt.realtime.dashscope.settings import Dialect, Modalities, our_modalities, our_update, read_update
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import PcmFormat, WireModel, wire_error
from omni_rt.realtime.wire_audio import PCM_RATE, decode_samples

Event = dict[str, Any]


class SessionFinished(Exception):
    """`session.finish`: no event of this client counts any more."""


class ResponseParams(WireModel):
    modalities: Modalities | None = None
    instructions: str | None = None


class ClientEvents:
    """Translates a session's events, in order. `dialect` is what holds; an update that our session has not agreed to
    yet is in `asked`."""

    def __init__(self, voices: tuple[str, ...]) -> None:
        self.dialect = Dialect()
        self.asked: Dialect | None = None
        self._voices = voices
        self._rate = self.dialect.input_rate
        self._resampler = Resampler(self._rate, PCM_RATE)
        self._translations: dict[str, Callable[[Event], Event]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": _same,
            "input_audio_buffer.clear": _same,
            "input_image_buffer.append": _same,
            "conversation.item.create": self._create_item,
            "response.create": _create_response,
            "response.cancel": _same,
            "session.finish": _finish,
        }

    @property
    def kinds(self) -> list[str]:
        """The types of events that there are."""
        return list(self._translations)

    def translate(self, event: Event) -> Event:
        """One event, which has a `type`. Raises WireError naming what is wrong, or SessionFinished.

        What is the same in both protocols is not looked at; whoever takes our event checks all of it.
        """
        translation = self._translations.get(event["type"])
        if translation is None:
            raise WireError(
                "unknown_event",
                f"Unknown event type {event['type'][:80]!r}; there are: {', '.join(self.kinds)}.",
                "type",
            )
        return translation(event)

    def agreed(self) -> None:
        """Our session holds what it was asked for."""
        self.dialect, self.asked = self.asked or self.dialect, None

    def _update(self, event: Event) -> Event:
        self.asked = None
        update = read_update(event.get("session"))
        self.asked = self.dialect.updated(update)
        return {**event, "session": our_update(update, self._voices)}

    def _append(self, event: Event) -> Event:
        if not isinstance(event.get("audio"), str):
            return event
        if self.dialect.input_rate != self._rate:
            self._rate = self.dialect.input_rate
            self._resampler = Resampler(self._rate, PCM_RATE)
        return {**event, "audio": pcm_text(self._resampler.feed(decode_samples(event["audio"], PcmFormat(), "audio")))}

    def _create_item(self, event: Event) -> Event:
        item = event.get("item")
        if not isinstance(item, dict) or not isinstance(item.get("content"), list):
            return event
        parts = [self._part(part, f"item.content.{number}") for number, part in enumerate(item["content"])]
        return {**event, "item": {**item, "content": parts}}

    def _part(self, part: Any, path: str) -> Any:
        if not isinstance(part, dict):
            return part
        if part.get("type") == "audio":
            return {**part, "type": "output_audio"}
        if part.get("type") == "input_audio" and isinstance(part.get("audio"), str):
            clip = decode_samples(part["audio"], PcmFormat(), f"{path}.audio")
            return {**part, "audio": pcm_text(resample(clip, self.dialect.input_rate, PCM_RATE))}
        return part


def _same(event: Event) -> Event:
    return event


def _create_response(event: Event) -> Event:
    if event.get("response") is None:
        return event
    try:
        params = ResponseParams.model_validate(event["response"])
    except ValidationError as error:
        raise wire_error(error, "response") from error
    response: Event = {}
    if params.modalities is not None:
        response["output_modalities"] = our_modalities(params.modalities)
    if params.instructions is not None:
        response["instructions"] = params.instructions
    return {**event, "response": response}


def _finish(event: Event) -> Event:
    for name in event.keys() - {"type", "event_id"}:
        raise WireError("unknown_parameter", f"Unknown parameter: '{name}'.", name)
    raise SessionFinished


def pcm_text(pcm: Pcm) -> str:
    """Samples as events carry them."""
    return base64.b64encode(pcm.astype("<i2", copy=False).tobytes()).decode("ascii") if len(pcm) else ""
