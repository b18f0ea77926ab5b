"""A conversation as it was: both channels, the events, and what was said on purpose, on one clock."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omni_rt.client.tape import Tape
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.transport.caller import Arrival
from tools.duplex.microphone import FRAME
from tools.duplex.sounds import SoundKind

# Decoded silence is below this, out of 32768; a voice is above it within its first milliseconds.
AUDIBLE = 100
# A frame that left no more off than this follows the frame before it.
_JITTER = INPUT_RATE * 6 // 100
# Among the server's events: here the client ended what was being said.
HUSHED = "client.hushed"
# And here it deleted the item named by `item_id`.
FORGOT = "client.forgot"


@dataclass(frozen=True, slots=True)
class Said:
    """One sound of the script and when it sounded. Times in seconds of the recording's clock. `over` a reply, or in
    the user's own time; `exchange` counts the questions of the conversation. `skipped`: the reply had ended, it was not
    played."""

    name: str
    kind: SoundKind
    spans: tuple[tuple[float, float], ...]
    exchange: int
    over: bool = False
    words: str = ""
    made: bool = False
    pause_s: float = 0.0
    skipped: bool = False

    @property
    def onset(self) -> float:
        return self.spans[0][0]

    @property
    def offset(self) -> float:
        return self.spans[-1][1]


@dataclass(frozen=True, slots=True)
class Event:
    """A server event and when it came."""

    at: float
    body: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.body["type"])


@dataclass(slots=True)
class Recording:
    """`microphone` are the 20 ms frames that were sent and when each left; `heard` what arrived."""

    scene: str
    group: str
    policy: str
    said: list[Said] = field(default_factory=list)
    heard: list[Arrival] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    microphone: list[tuple[float, Pcm]] = field(default_factory=list)
    underruns: int = 0
    fault: str = ""
    """why the conversation ended before its script did"""

    @property
    def end(self) -> float:
        """Seconds from the start of the clock to the last of anything."""
        return max(
            (heard.at + len(heard.pcm) / OUTPUT_RATE for heard in self.heard[-1:]),
            default=max((at for at, _ in self.microphone[-1:]), default=0.0),
        )

    def write(self, folder: Path) -> None:
        """NAME.wav, left what was said and right what was received, and NAME.json. Raises OSError."""
        name = f"{self.scene}-{self.policy}"
        left, right = self.channels()
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(INPUT_RATE)
            file.writeframes(np.stack([left, right], axis=1).astype("<i2").tobytes())
        body = {
            "said": [{"name": s.name, "kind": s.kind, "spans": s.spans, "skipped": s.skipped} for s in self.said],
            "events": [{"at": round(event.at, 4), **event.body} for event in self.events],
            "fault": self.fault,
        }
        (folder / f"{name}.json").write_text(json.dumps(body, indent=1, ensure_ascii=False), encoding="utf-8")

    def channels(self) -> tuple[Pcm, Pcm]:
        """What was said and what was received, both 16 kHz from the start of the clock on."""
        count = round((self.end + 0.1) * INPUT_RATE)
        left, right = np.zeros(count, np.int16), np.zeros(count, np.int16)
        end = 0
        for at, pcm in self.microphone:
            begin = round(at * INPUT_RATE) - FRAME
            if abs(begin - end) <= _JITTER:
                begin = end
            end = begin + len(pcm)
            if 0 <= begin <= count - len(pcm):
                left[begin:end] = pcm
        tape = Tape()
        tape.start(0.0)
        for arrival in self.heard:
            tape.add(arrival)
        received = to_input_rate(tape.pcm())[:count]
        right[: len(received)] = received
        return left, right


def to_input_rate(pcm: Pcm) -> Pcm:
    """24 kHz sound at 16 kHz; plain interpolation is enough for a recogniser."""
    count = len(pcm) * INPUT_RATE // OUTPUT_RATE
    places = np.arange(count) * OUTPUT_RATE / INPUT_RATE
    return np.interp(places, np.arange(len(pcm)), pcm).astype(np.int16) if count else np.zeros(0, np.int16)


def audible(pcm: Pcm) -> tuple[int, int] | None:
    """The first audible sample and the one behind the last; None in silence."""
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) >= AUDIBLE)
    return (int(loud[0]), int(loud[-1]) + 1) if len(loud) else None


def joined(frames: Sequence[Arrival]) -> Pcm:
    return np.concatenate([frame.pcm for frame in frames]) if frames else np.zeros(0, np.int16)
