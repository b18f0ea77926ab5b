"""A session between stand-ins whose client speaks the DashScope dialect, and the sound that it sends and gets."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from omni_rt.engine.api import Pcm
from omni_rt.realtime.dashscope.client_events import ClientEvents
from omni_rt.realtime.dashscope.server_events import ServerEvents
from omni_rt.realtime.dashscope.settings import TurnDetection
from omni_rt.realtime.settings import merge
from omni_rt.session.commands import read_events
from omni_rt.transport.base import SentAudio
from tests.support.scripted import KeptTransport, ScriptedEngine
from tests.support.stage import Stage, validate

DEFAULTS = {"audio": {"input": {"turn_detection": TurnDetection().ours()}}}


class Line(Stage):
    """A session between stand-ins whose client speaks the dialect."""

    def __init__(self) -> None:
        super().__init__(validate({"turn": {"speculate_ms": 0}}))
        self.session.wire = merge(self.session.wire, DEFAULTS, ScriptedEngine().capabilities)
        self.client = ClientEvents(("tone", "bell"))
        self.transport = _Transport(self, ServerEvents(self.client))

    async def open(self) -> None:
        await self.session.open()
        self.session.attach(self.transport, partial(read_events, translate=self.client.translate))
        self.session.on_open()

    async def update(self, **settings: Any) -> dict[str, Any]:
        """The session or the error that comes of it."""
        self.transport.events.clear()
        await self.tell(type="session.update", session=settings)
        (event,) = self.transport.events
        answer: dict[str, Any] = event["session"] if event["type"] == "session.updated" else event["error"]
        return answer


class _Transport(KeptTransport):
    """Carries audio in events, as a WebSocket does, and at once; nobody reports how much of it was played."""

    def __init__(self, line: Line, events: ServerEvents) -> None:
        super().__init__(line.session, server_plays=False)
        self._line = line
        self._told = events

    def send_event(self, event: dict[str, Any]) -> None:
        self.events += self._told.translate(event)

    def send_audio(self, generation: int, pcm: Pcm) -> None:
        self._carry(generation, pcm)
        super().send_audio(generation, pcm)
        generation, length_ms = self.queue.pop()
        self.listener.on_sent(SentAudio(generation, self.reply_ms.get(generation, 0.0), self.stream_ms, length_ms, pcm))
        self.reply_ms[generation] = self.reply_ms.get(generation, 0.0) + length_ms
        self.stream_ms += length_ms

    def end_audio(self, generation: int) -> None:
        self._carry(generation, None)

    def _carry(self, generation: int, pcm: Pcm | None) -> None:
        event = self._line.session.replies.audio_event(generation, pcm)
        if event is not None:
            self.send_event(event)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    await line.open()
    yield line
    await line.session.close("test over")


def tone(rate: int, seconds: float = 0.5) -> Pcm:
    return (8000 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.int16)


def text(pcm: Pcm) -> str:
    return base64.b64encode(pcm.tobytes()).decode()


def samples(*texts: str) -> Pcm:
    return np.frombuffer(b"".join(base64.b64decode(one) for one in texts), np.int16)


def is_the_tone(pcm: Pcm, rate: int) -> bool:
    """Half a second of it, without a seam."""
    wanted = tone(rate)
    if not -0.01 * rate < len(pcm) - len(wanted) < 0.01 * rate:
        return False
    ends = rate // 50
    middle, length = pcm[ends:-ends].astype(float), len(pcm) - 2 * ends
    angle = 2 * np.pi * 440 * np.arange(length) / rate
    waves = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    rest = middle - waves @ np.linalg.lstsq(waves, middle, rcond=None)[0]
    return bool(np.sqrt((rest**2).mean()) < 60)
