"""Calls through a network that loses, reorders and corrupts: nothing waits longer than it must, nothing stays late."""

from __future__ import annotations

import asyncio

import pytest

from omni_rt.engine.api import Pcm
from omni_rt.media.opus import OpusEncoder
from omni_rt.transport.caller import Microphone
from tests.support.calls import Call, call, eventually, only_loopback  # noqa: F401
from tests.support.loss_proxy import LossProxy
from tests.support.voices import rms, voiced

pytestmark = pytest.mark.usefixtures("only_loopback")


async def speak_on(c: Call, seconds: float) -> None:
    await c.caller.speak(voiced(seconds, 16_000))


async def test_ten_seconds_of_loss_leave_no_trace() -> None:
    async with LossProxy(seed=7) as proxy, call(proxy=proxy) as c:
        await speak_on(c, 2.0)
        before = c.transport.stats().received
        assert before.buffered_ms == 0
        proxy.up.loss = proxy.down.loss = 0.05
        await speak_on(c, 10.0)
        proxy.up.loss = proxy.down.loss = 0.0
        await speak_on(c, 1.0)
        during = c.transport.stats().received
        start = len(c.ear.audio)
        await speak_on(c, 3.0)
        await asyncio.sleep(0.1)
        after = c.transport.stats().received

        assert during.lost >= 0.6 * proxy.up.lost > 3
        assert during.recovered > 0
        assert after.buffered_ms == before.buffered_ms == 0
        assert during.buffered_max_ms <= 40
        assert (after.lost, after.concealed_ms, after.late) == (during.lost, during.concealed_ms, during.late)
        assert not any(concealed for _, concealed in c.ear.audio[start:])
        packets = after.packets - after.duplicate - after.late
        assert c.ear.ms == 20 * (packets + after.lost) + after.filled_ms
        assert c.transport.stats().loss_percent is not None
        arrived = c.caller.dejitter.stats
        assert arrived.lost > 3
        assert arrived.buffered_ms == 0


async def test_reordering_is_undone_and_settles() -> None:
    async with LossProxy(seed=3) as proxy, call(proxy=proxy) as c:
        await speak_on(c, 1.0)
        proxy.up.jitter_ms = 50
        await speak_on(c, 4.0)
        proxy.up.jitter_ms = 0
        await speak_on(c, 1.0)
        await asyncio.sleep(0.1)
        stats = c.transport.stats().received
        assert stats.reordered > 20
        assert stats.lost < 0.05 * stats.packets
        assert stats.buffered_ms == 0
        assert c.ear.ms == 20 * (stats.packets - stats.late - stats.duplicate + stats.lost) + stats.filled_ms


async def test_datagrams_of_noise_cost_only_themselves() -> None:
    async with LossProxy(seed=5) as proxy, call(proxy=proxy) as c:
        proxy.up.corrupt = 0.1
        await speak_on(c, 2.0)
        proxy.up.corrupt = 0.0
        await speak_on(c, 0.5)
        assert rms(c.ear.audio[-3][0]) > 0
        assert not c.ear.closed
        assert c.transport.stats().received.buffered_ms == 0


class _Garbling(OpusEncoder):
    """Every fifth packet is properly encrypted nonsense."""

    count = 0

    def encode(self, pcm: Pcm, silent: bool = False) -> bytes:
        self.count += 1
        return b"\xff\xff\xff" if self.count % 5 == 0 else super().encode(pcm, silent)


async def test_corrupt_payloads_cost_only_themselves() -> None:
    async with call() as c:
        assert isinstance(c.caller.microphone, Microphone)
        c.caller.microphone._encoder = _Garbling(16_000)
        await speak_on(c, 2.0)
        await eventually(lambda: c.transport.stats().received.corrupt >= 15, "the corrupt packets")
        stats = c.transport.stats().received
        assert stats.lost == 0
        assert c.ear.ms == 20 * stats.packets + stats.filled_ms
        spoken = [pcm for pcm, concealed in c.ear.audio if not concealed and rms(pcm) > 100]
        assert len(spoken) > 70
        assert not c.ear.closed
