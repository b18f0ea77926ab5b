"""The message channel by itself, on pipes."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest

from omni_rt.engine.api import (
    AudioDelta,
    ContextItem,
)
from omni_rt.engine.channel import AppendAudio, AppendImage, Channel, Pong, ReplyChunk, Restore
from tests.support.echo_engine import TONE


def test_channel_keeps_order_and_arrays() -> None:
    read_end, write_end = os.pipe()
    back_read, back_write = os.pipe()
    got: list[Any] = []
    ends: list[str] = []
    rng = np.random.default_rng(1)
    small = rng.integers(-32768, 32767, 320, dtype=np.int16)
    large = rng.integers(-32768, 32767, 3_000_000, dtype=np.int16)
    picture = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
    frozen = small.copy()
    frozen.flags.writeable = False
    arrays = [small, small[:0], small[::2], large, large[::-3], frozen]
    sender = Channel(os.fdopen(back_read, "rb", 0), os.fdopen(write_end, "wb", 0), got.append, ends.append)
    receiver = Channel(os.fdopen(read_end, "rb", 0), os.fdopen(back_write, "wb", 0), got.append, ends.append)
    for number, array in enumerate(arrays):
        sender.post(AppendAudio(number, array))
    sender.post(AppendImage(100, picture[:, :, ::-1], 5))
    items = (ContextItem("a", "user", audio=large, images=(picture, picture)), ContextItem("b", "assistant", "text"))
    sender.post(Restore(101, items))
    for number in range(500):
        sender.post(Pong(number))
    sender.finish(60)
    receiver.finish(60)
    while len(ends) < 2:
        time.sleep(0.01)
    assert ends == ["", ""]
    assert [m.session for m in got[:8]] == [0, 1, 2, 3, 4, 5, 100, 101]
    for array, message in zip(arrays, got, strict=False):
        assert message.pcm.dtype == np.int16
        np.testing.assert_array_equal(message.pcm, array)
    np.testing.assert_array_equal(got[6].rgb, picture[:, :, ::-1])
    np.testing.assert_array_equal(got[7].items[0].audio, large)
    np.testing.assert_array_equal(got[7].items[0].images[1], picture)
    assert got[7].items[1] == items[1]
    assert got[8:] == [Pong(number) for number in range(500)]


@pytest.mark.parametrize("cut", [3, 20, 200])
def test_channel_takes_a_broken_stream_for_its_end(cut: int) -> None:
    """What a worker that is killed amidst a message leaves in the pipe."""
    read_end, write_end = os.pipe()
    copy_read, copy_write = os.pipe()
    ends: list[str] = []
    got: list[Any] = []
    sender = Channel(os.fdopen(os.dup(copy_read), "rb", 0), os.fdopen(write_end, "wb", 0), got.append, ends.append)
    sender.post(ReplyChunk(1, AudioDelta(1, TONE, "a")))
    frame = os.read(read_end, 1 << 16)
    os.write(copy_write, frame[:cut])
    os.close(copy_write)
    while not ends:
        time.sleep(0.01)
    assert (got, ends) == ([], [""])
    os.close(copy_read)
    os.close(read_end)
