"""The server's replies as the person heard them, put together from events and arriving sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from omni_rt.transport.caller import Arrival
from tools.duplex.recording import FORGOT, HUSHED, Event, Recording, audible, joined

# Sound and the event that announces it come on two ways.
_EARLY_S = 0.06
# The client's word to stop is carried out within this.
_OBEYED_S = 0.3


@dataclass(slots=True)
class HeardReply:
    """Times in seconds of the recording. `text` is all that was written of it, `sounds` what arrived, `kept` what the
    server says was heard, None if it did not cut the reply, empty if it deleted it. `hushed`: the client cleared it."""

    id: str
    created: float
    text: str = ""
    status: str = ""
    item: str = ""
    started: float | None = None
    ended: float | None = None
    cleared: bool = False
    hushed: bool = False
    kept: str | None = None
    sounds: list[Arrival] = field(default_factory=list)

    @property
    def first_sound(self) -> float | None:
        """When the first audible sample came."""
        return next(
            (heard.at + span[0] / OUTPUT_RATE for heard in self.sounds if (span := audible(heard.pcm))), None
        )  # fmt: skip

    @property
    def last_sound(self) -> float | None:
        """When the last audible sample was played, by a player that plays at once."""
        return next(
            (heard.at + span[1] / OUTPUT_RATE for heard in reversed(self.sounds) if (span := audible(heard.pcm))), None
        )  # fmt: skip

    @property
    def pcm(self) -> Pcm:
        """24 kHz, from the first packet of the reply on."""
        return joined(self.sounds)

    def sounding_seconds(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """How much of the time between two moments the reply was being said."""
        first, last = self.first_sound, self.last_sound
        if first is None or last is None:
            return 0.0
        return max(0.0, min(last, end) - max(first, begin))


def replies(recording: Recording) -> list[HeardReply]:
    """In the order in which they were created."""
    found: dict[str, HeardReply] = {}
    by_item: dict[str, HeardReply] = {}
    hushed = float("-inf")
    for event in recording.events:
        if event.type == HUSHED:
            hushed = event.at
        if event.type == FORGOT:
            by_item.pop(event.body["item_id"], None)
        _take(event, found, by_item)
        ended = found.get(event.body.get("response_id", ""))
        if event.type == "output_audio_buffer.cleared" and ended is not None:
            ended.hushed = event.at - hushed < _OBEYED_S
    begun = [(reply.started, reply) for reply in found.values() if reply.started is not None]
    _share(recording.heard, sorted(begun, key=lambda pair: pair[0]))
    return list(found.values())


def _take(event: Event, found: dict[str, HeardReply], by_item: dict[str, HeardReply]) -> None:
    body = event.body
    if event.type == "response.created":
        found[body["response"]["id"]] = HeardReply(body["response"]["id"], event.at)
        return
    if event.type == "response.done":
        if reply := found.get(body["response"]["id"]):
            reply.status = body["response"]["status"]
        return
    if event.type in ("conversation.item.truncated", "conversation.item.deleted"):
        if reply := by_item.get(body["item_id"]):
            reply.kept = body.get("transcript", "")
        return
    reply = found.get(body.get("response_id", ""))
    if reply is None:
        return
    match event.type:
        case "response.output_item.added":
            reply.item = body["item"]["id"]
            by_item[reply.item] = reply
        case "response.output_audio_transcript.delta" | "response.output_text.delta":
            reply.text += body["delta"]
        case "output_audio_buffer.started":
            reply.started = event.at
        case "output_audio_buffer.stopped" | "output_audio_buffer.cleared":
            reply.ended = event.at
            reply.cleared = event.type.endswith("cleared")


def _share(heard: Sequence[Arrival], begun: Sequence[tuple[float, HeardReply]]) -> None:
    """Each packet belongs to the reply that was announced last, until its end was announced and it is silent."""
    number = -1
    for arrival in heard:
        while number + 1 < len(begun) and begun[number + 1][0] - _EARLY_S <= arrival.at:
            number += 1
        if number < 0:
            continue
        reply = begun[number][1]
        over = reply.ended is not None and arrival.at > reply.ended + _EARLY_S
        if not over or audible(arrival.pcm) is not None:
            reply.sounds.append(arrival)
