"""Sound out: one 20 ms Opus packet every 20 ms, on an absolute clock, whether there is something to say or not.

Silence is sent too: when packets stop, the browser goes on inventing the voice for about 200 ms.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.packet import Packet

from omni_rt.engine.api import Pcm
from omni_rt.media.dejitter import nearest
from omni_rt.media.opus import CLOCK_RATE, OpusEncoder
from omni_rt.media.reply_queue import FRAME_MS, Frame, ReplyQueue

_PERIOD = FRAME_MS / 1000
_TICKS = CLOCK_RATE * FRAME_MS // 1000
_TIME_BASE = Fraction(1, CLOCK_RATE)


class PacedTrack(MediaStreamTrack):
    """An outgoing track of ready Opus packets. aiortc sends what `recv` returns at once, so `recv` keeps the time.

    When it falls more than a packet behind it moves its clock and never catches up in a burst. The first frame of
    speech after silence goes at once; the silence after it makes up for that, so that the clock keeps wall time.
    """

    kind = "audio"

    def __init__(self, encoder: OpusEncoder) -> None:
        super().__init__()
        self._encoder = encoder
        self._due: float | None = None
        self._ahead = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._silent = True
        self.packets = 0

    @property
    def sent_ms(self) -> float:
        """Length of the track so far, in milliseconds."""
        return float(self.packets * FRAME_MS)

    @abstractmethod
    def next_frame(self) -> tuple[Pcm, bool]:
        """The 20 ms that are due, and whether they are silence."""

    def hurry(self) -> None:
        """There is something to say: do not wait for the next beat if nothing but silence is being sent."""
        if self._silent and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def recv(self) -> Packet[Any]:
        """The next packet, when it is due."""
        loop = asyncio.get_running_loop()
        due = loop.time() if self._due is None else self._due
        await self._until(due)
        if self.readyState != "live":
            raise MediaStreamError
        now = loop.time()
        pcm, self._silent = self.next_frame()
        if now < due or now - due > _PERIOD:
            self._ahead += max(0.0, due - now)
            due = now
        self._due = due + _PERIOD
        if self._silent:
            self._due += self._ahead
            self._ahead = 0.0
        packet = Packet(self._encoder.encode(pcm, self._silent))
        packet.pts = self.packets * _TICKS
        packet.time_base = _TIME_BASE
        self.packets += 1
        return packet

    def stop(self) -> None:
        super().stop()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if due <= loop.time():
            return
        self._waiter = loop.create_future()
        timer = loop.call_at(due, _release, self._waiter)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Speaker(PacedTrack):
    """The assistant's voice. `on_frame(frame, stream_ms)` is called for each frame of a reply as it leaves."""

    def __init__(self, encoder: OpusEncoder, on_frame: Callable[[Frame, float], None]) -> None:
        super().__init__(encoder)
        self._on_frame = on_frame
        self._origin: int | None = None
        self.queue = ReplyQueue()
        self.read_clock: Callable[[], int] | None = None
        """Gives the RTP timestamp of the packet sent last."""

    def say(self, generation: int, pcm: Pcm) -> None:
        """Queue 24 kHz mono audio of a reply."""
        if self.queue.put(generation, pcm) and self.queue.ready:
            self.hurry()

    def hold(self, on: bool) -> None:
        """Keep what is queued back, or go on with it."""
        self.queue.held = on
        if self.queue.ready:
            self.hurry()

    def finish(self, generation: int) -> None:
        """Nothing more comes of this reply."""
        self.queue.end(generation)
        if self.queue.ready:
            self.hurry()

    def stream_ms(self, rtp: int) -> float | None:
        """Where on the track an RTP timestamp lies, in milliseconds; None before the second packet."""
        if self._origin is None:
            return None
        return nearest(rtp - self._origin, self.packets * _TICKS, 32) * 1000 / CLOCK_RATE

    def expect_loss(self, percent: int) -> None:
        self._encoder.expect_loss(percent)

    async def recv(self) -> Packet[Any]:
        if self.packets == 1 and self.read_clock is not None:
            # Asked for the second packet, so the first, at 0, is what the sender sent last.
            self._origin = self.read_clock()
        return await super().recv()

    def next_frame(self) -> tuple[Pcm, bool]:
        frame = self.queue.next()
        if frame.generation is not None:
            self._on_frame(frame, self.sent_ms)
        return frame.pcm, frame.generation is None
