"""A real call in one process: a Caller against a WebRtcTransport over real sockets on 127.0.0.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aioice.ice
import numpy as np
import pytest

from omni_rt.config import MediaSettings, ServerSettings
from omni_rt.engine.api import Pcm, Rgb
from omni_rt.transport.base import SentAudio
from omni_rt.transport.caller import Arrival, Caller
from omni_rt.transport.webrtc import WebRtcTransport
from tests.support.loss_proxy import LossProxy


@pytest.fixture
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """ICE uses 127.0.0.1 and nothing else; by itself aioice leaves it out."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


class Ear:
    """A TransportListener that keeps what it is told."""

    def __init__(self) -> None:
        self.audio: list[tuple[Pcm, bool]] = []
        self.frames: list[Rgb] = []
        self.events: list[str | bytes] = []
        self.sent: list[SentAudio] = []
        self.heard: list[float] = []
        self.silenced: list[float] = []
        self.opened = 0
        self.closed: list[str] = []

    def on_audio(self, pcm: Pcm, concealed: bool) -> None:
        self.audio.append((pcm, concealed))

    def on_frame(self, rgb: Rgb) -> None:
        self.frames.append(rgb)

    def on_event(self, raw: str | bytes) -> None:
        self.events.append(raw)

    def on_open(self) -> None:
        self.opened += 1

    def on_sent(self, sent: SentAudio) -> None:
        self.sent.append(sent)

    def on_heard(self, stream_ms: float) -> None:
        self.heard.append(stream_ms)

    def on_silenced(self, stream_ms: float) -> None:
        self.silenced.append(stream_ms)

    def on_closed(self, reason: str) -> None:
        self.closed.append(reason)

    @property
    def ms(self) -> float:
        return sum(len(pcm) for pcm, _ in self.audio) / 16


class Call:
    def __init__(self, caller: Caller, transport: WebRtcTransport, ear: Ear, arrivals: list[Arrival]) -> None:
        self.caller = caller
        self.transport = transport
        self.ear = ear
        self.arrivals = arrivals


async def eventually(condition: Callable[[], Any], what: str = "", patience_s: float = 20.0) -> None:
    """Wait for something that must come; fails by name after a patience that no sound run comes near."""
    for _ in range(round(patience_s / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it never came: {what or condition}")


@asynccontextmanager
async def call(
    *,
    media: MediaSettings | None = None,
    server: ServerSettings | None = None,
    camera: Iterator[Rgb] | None = None,
    proxy: LossProxy | None = None,
    reports: bool = False,
) -> AsyncIterator[Call]:
    ear, made = Ear(), list[WebRtcTransport]()
    arrivals: list[Arrival] = []

    async def exchange(offer: str) -> str:
        transport, answer = await WebRtcTransport.answer(
            proxy.offer(offer) if proxy else offer, ear, media or MediaSettings(), server or ServerSettings()
        )
        made.append(transport)
        return proxy.answer(answer) if proxy else answer

    caller = Caller(exchange=exchange, camera=camera, on_audio=arrivals.append, reports=reports)
    try:
        await caller.connect()
        yield Call(caller, made[0], ear, arrivals)
    finally:
        await caller.close()
        for transport in made:
            await transport.close()


def picture(red: int, width: int = 320, height: int = 240) -> Rgb:
    """A flat picture whose red tells pictures apart."""
    rgb = np.full((height, width, 3), 40, np.uint8)
    rgb[:, :, 0] = red
    return rgb
