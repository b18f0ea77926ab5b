from __future__ import annotations

import asyncio
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.codecs.h264 import H264Encoder, h264_depayload
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame

from omni_rt.engine.api import Rgb
from omni_rt.media.frames import FrameSampler, fit, is_key_frame
from tests.support.calls import eventually, picture


def video_frame(red: int, number: int = 0) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture(red), format="rgb24")
    frame.pts, frame.time_base = number * 6000, Fraction(1, 90_000)
    return frame


@pytest.mark.parametrize(
    ("size", "longest", "wanted"),
    [
        ((1280, 720), 640, (640, 360)),
        ((720, 1280), 640, (360, 640)),
        ((320, 240), 640, (320, 240)),
        ((5000, 1), 640, (640, 1)),
    ],
)
def test_pictures_shrink_and_never_grow(size: tuple[int, int], longest: int, wanted: tuple[int, int]) -> None:
    assert fit(*size, longest) == wanted


@pytest.mark.parametrize(
    ("codec", "encoder", "depayload"), [("VP8", Vp8Encoder, vp8_depayload), ("H264", H264Encoder, h264_depayload)]
)
def test_key_frames_are_told_from_the_rest(codec: str, encoder: type, depayload: object) -> None:
    made = encoder()
    kinds = []
    for number in range(4):
        payloads, _ = made.encode(video_frame(40 * number, number), force_keyframe=number == 2)
        kinds.append(is_key_frame(codec, b"".join(depayload(p) for p in payloads)))  # type: ignore[operator]
    assert kinds == [True, False, True, False]


async def test_a_frame_that_cannot_be_decoded_asks_for_a_key_frame_and_costs_nothing_else() -> None:
    got: list[Rgb] = []
    sampler = FrameSampler(got.append, frames_per_second=1, frame_pixels=640)
    decoder = Vp8Decoder()
    sampler.feed(lambda: decoder.decode(JitterFrame(b"\x01garbage", 0)), key_frame=False)  # type: ignore[arg-type,return-value]
    await eventually(lambda: sampler.stats.failed, "the failure")
    assert sampler.wants_key_frame
    sampler.feed(lambda: [video_frame(200)], key_frame=True)
    await eventually(lambda: got, "the good picture")
    assert got[0].dtype == np.uint8
    assert got[0].shape == (240, 320, 3)
    sampler.close()


async def test_a_decoder_that_lags_drops_up_to_the_next_key_frame() -> None:
    gate = threading.Event()
    got: list[Rgb] = []
    sampler = FrameSampler(got.append, frames_per_second=0.1, frame_pixels=640)

    def slow() -> list[av.VideoFrame]:
        gate.wait(30)
        return [video_frame(10)]

    for _ in range(40):
        sampler.feed(slow, key_frame=False)
    assert sampler.stats.dropped == 10
    assert sampler.wants_key_frame
    gate.set()
    await eventually(lambda: sampler.stats.decoded == 30, "the backlog")
    sampler.feed(slow, key_frame=False)
    assert sampler.stats.dropped == 11
    sampler.feed(slow, key_frame=True)
    sampler.feed(slow, key_frame=False)
    await eventually(lambda: sampler.stats.decoded == 32, "what follows the key frame")
    assert sampler.stats.kept == 1
    sampler.close()


async def test_after_close_nothing_is_delivered_and_the_thread_ends() -> None:
    gate = threading.Event()
    got: list[Rgb] = []
    sampler = FrameSampler(got.append, frames_per_second=1, frame_pixels=640)

    def slow() -> list[av.VideoFrame]:
        gate.wait(30)
        return [video_frame(10)]

    sampler.feed(slow, key_frame=True)
    sampler.close()
    gate.set()
    sampler.feed(slow, key_frame=True)
    await eventually(lambda: not [t for t in threading.enumerate() if "frames" in t.name], "the thread's end")
    await asyncio.sleep(0)
    assert not got
