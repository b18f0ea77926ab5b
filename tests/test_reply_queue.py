from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.engine.api import Pcm
from omni_rt.media.reply_queue import FRAME, ReplyQueue


def tone(samples: int, level: int = 1000) -> Pcm:
    return np.full(samples, level, np.int16)


def test_silence_when_there_is_nothing_to_say() -> None:
    queue = ReplyQueue()
    frame = queue.next()
    assert frame.generation is None
    assert not frame.pcm.any()
    assert len(frame.pcm) == FRAME
    assert queue.underruns == 0


def test_a_reply_leaves_in_frames_with_its_place() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(2 * FRAME))
    assert queue.queued_ms == 40
    frames = [queue.next(), queue.next()]
    assert [(f.generation, f.reply_ms, f.duration_ms) for f in frames] == [(1, 0, 20), (1, 20, 20)]


def test_the_last_partial_frame_waits_for_the_end_and_is_padded() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(FRAME + 120))
    queue.next()
    assert queue.next().generation is None
    queue.end(1)
    frame = queue.next()
    assert (frame.generation, frame.reply_ms, frame.duration_ms) == (1, 20, 5)
    assert frame.pcm[:120].all()
    assert not frame.pcm[120:].any()
    assert queue.next().generation is None


def test_two_replies_never_share_a_frame() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(FRAME + 100))
    queue.put(2, tone(FRAME, 2000))
    frames = [queue.next() for _ in range(4)]
    assert [f.generation for f in frames] == [1, 1, 2, None]
    assert frames[2].reply_ms == 0


def test_clear_drops_all_that_was_not_sent_and_what_still_comes_of_it() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(50 * FRAME))
    queue.next()
    queue.clear()
    assert queue.queued_ms == 0
    assert not queue.put(1, tone(FRAME))
    assert queue.next().generation is None
    assert queue.stale == 1
    assert queue.put(2, tone(FRAME))
    assert queue.next().generation == 2


def test_an_older_generation_dies_even_without_a_clear() -> None:
    queue = ReplyQueue()
    queue.put(5, tone(FRAME))
    assert not queue.put(4, tone(FRAME))
    queue.end(5)
    assert not queue.put(5, tone(FRAME))
    assert queue.stale == 2
    assert [queue.next().generation for _ in range(3)] == [5, None, None]


def test_late_audio_is_one_underrun_however_long_it_takes() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(FRAME))
    queue.next()
    for _ in range(5):
        assert queue.next().generation is None
    queue.put(1, tone(FRAME))
    frame = queue.next()
    assert (frame.generation, frame.reply_ms) == (1, 20)
    queue.next()
    assert queue.underruns == 2
    queue.end(1)
    queue.next()
    queue.next()
    assert queue.underruns == 2


def test_waiting_for_the_first_audio_of_a_reply_is_no_underrun() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(10))
    queue.next()
    assert queue.underruns == 0


def test_gain_falls_at_once_and_rises_over_one_frame_without_a_step() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(4 * FRAME, 10_000))
    queue.next()
    queue.set_gain(0.2)
    falling = queue.next().pcm
    assert falling[0] == 10_000
    assert np.abs(np.diff(falling.astype(int))).max() < 70
    assert (falling[120:] == 2000).all()
    queue.set_gain(1.0)
    rising = queue.next().pcm
    assert rising[0] == 2000
    assert rising[-1] == 10_000
    assert np.abs(np.diff(rising.astype(int))).max() < 30


def test_an_abrupt_stop_dies_away_instead_of_clicking() -> None:
    queue = ReplyQueue()
    queue.put(1, tone(10 * FRAME, 8000))
    queue.next()
    queue.clear()
    pcm = queue.next().pcm.astype(int)
    assert pcm[0] == 8000
    assert np.abs(np.diff(pcm)).max() < 100
    assert not pcm[120:].any()
    assert not queue.next().pcm.any()


@given(chunks=st.lists(st.integers(0, 3000), max_size=30))
def test_every_sample_leaves_once_and_in_order(chunks: list[int]) -> None:
    queue, at = ReplyQueue(), 0
    for size in chunks:
        queue.put(1, (np.arange(at, at + size) % 30_000).astype(np.int16))
        at += size
    queue.end(1)
    out = []
    while queue.ready:
        frame = queue.next()
        assert frame.reply_ms == pytest.approx(sum(map(len, out)) / 24)
        out.append(frame.pcm[: round(frame.duration_ms * 24)])
    said = np.concatenate(out) if out else np.zeros(0, np.int16)
    assert (said == np.arange(at) % 30_000).all()
    assert len(said) == at
