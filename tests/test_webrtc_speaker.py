"""The pace of the outgoing track, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from omni_rt.media.opus import OpusDecoder, OpusEncoder
from omni_rt.media.reply_queue import FRAME, Frame
from omni_rt.transport.speaker import Speaker
from tests.support.virtual_loop import run_virtually
from tests.support.voices import rms, voiced


class Sender:
    """Does with a track what aiortc does: asks for the next packet as soon as it has the last."""

    def __init__(self) -> None:
        self.frames: list[tuple[Frame, float]] = []
        self.speaker = Speaker(OpusEncoder(24_000), lambda frame, at: self.frames.append((frame, at)))
        self.speaker.read_clock = lambda: 777
        self.times: list[float] = []
        self.packets: list[Any] = []
        self.start = asyncio.get_running_loop().time()
        self.task = asyncio.ensure_future(self._run())

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.start

    async def _run(self) -> None:
        while True:
            self.packets.append(await self.speaker.recv())
            self.times.append(round(self.now * 1000, 3))


def test_one_packet_every_twenty_ms_and_no_drift() -> None:
    async def main() -> None:
        sender = Sender()
        await asyncio.sleep(60.001)
        assert sender.times == [20.0 * k for k in range(3001)]
        assert [p.pts for p in sender.packets] == [960 * k for k in range(3001)]

    run_virtually(main())


def test_speech_after_idle_goes_at_once_and_the_clock_comes_back() -> None:
    async def main() -> None:
        sender = Sender()
        await asyncio.sleep(0.205)
        sender.speaker.say(1, voiced(0.1, 24_000))
        sender.speaker.finish(1)
        await asyncio.sleep(0.5)
        at = sender.times.index(205.0)
        assert sender.times[at - 1] == 200
        assert sender.times[at : at + 6] == [205, 225, 245, 265, 285, 305]
        assert sender.times[at + 6] == 340
        assert all(t % 20 == 0 for t in sender.times[at + 6 :])
        assert [p.pts for p in sender.packets] == [960 * k for k in range(len(sender.packets))]

    run_virtually(main())


def test_a_stall_moves_the_clock_and_causes_no_burst() -> None:
    async def main() -> None:
        sender = Sender()
        await asyncio.sleep(0.1)
        asyncio.get_running_loop()._virtual += 0.5  # type: ignore[attr-defined]
        await asyncio.sleep(1.0)
        gaps = np.diff(sender.times)
        assert gaps.max() >= 500
        assert gaps.min() >= 20 - 1e-6

    run_virtually(main())


def test_a_packet_that_is_a_little_late_does_not_shift_the_rest() -> None:
    async def main() -> None:
        sender = Sender()
        await asyncio.sleep(0.095)
        asyncio.get_running_loop()._virtual += 0.017  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        assert sender.times[5:8] == [112, 120, 140]

    run_virtually(main())


def test_many_short_replies_do_not_push_the_clock_ahead() -> None:
    async def main() -> None:
        sender = Sender()
        for generation in range(200):
            await asyncio.sleep(0.1137)
            sender.speaker.say(generation, voiced(0.03, 24_000))
            sender.speaker.finish(generation)
        await asyncio.sleep(0.1)
        assert abs(sender.speaker.sent_ms - sender.now * 1000) <= 40

    run_virtually(main())


def test_every_frame_of_a_reply_is_reported_with_its_place_on_the_track() -> None:
    async def main() -> None:
        sender = Sender()
        await asyncio.sleep(0.05)
        sender.speaker.say(3, voiced(0.05, 24_000))
        sender.speaker.finish(3)
        await asyncio.sleep(0.2)
        assert [(f.generation, f.reply_ms, f.duration_ms, at) for f, at in sender.frames] == [
            (3, 0, 20, 60),
            (3, 20, 20, 80),
            (3, 40, 10, 100),
        ]
        decoder = OpusDecoder(24_000)
        loud = [rms(decoder.decode(bytes(packet))) > 300 for packet in sender.packets]
        assert loud.index(True) == 3

    run_virtually(main())


def test_rtp_timestamps_map_to_the_track_also_after_the_wrap() -> None:
    async def main() -> None:
        sender = Sender()
        assert sender.speaker.stream_ms(777) is None
        await asyncio.sleep(1)
        assert sender.speaker.stream_ms(777 + 960 * 10) == 200
        assert sender.speaker.stream_ms(777 - 48) == -1
        sender.speaker.packets = 2**32 // 960 + 100
        assert sender.speaker.stream_ms(777) == pytest.approx(2**32 / 48)

    run_virtually(main())


def test_stop_ends_the_track_while_it_waits() -> None:
    async def main() -> None:
        sender = Sender()
        await asyncio.sleep(0.01)
        sender.speaker.stop()
        with pytest.raises(MediaStreamError):
            await sender.task

    run_virtually(main())


def test_audio_queued_faster_than_real_time_leaves_in_real_time() -> None:
    async def main() -> None:
        sender = Sender()
        await asyncio.sleep(0.1)
        sender.speaker.say(1, np.ones(FRAME * 500, np.int16))
        await asyncio.sleep(1)
        assert len(sender.frames) <= 52
        sender.speaker.queue.clear()
        sent = len(sender.frames)
        await asyncio.sleep(1)
        assert len(sender.frames) == sent

    run_virtually(main())
