"""The benchmark's measure of resumed replies, on the server's own queue and codec: nothing lost or repeated there is
found to be, and what is left out or said again is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from omni_rt.media.opus import OpusDecoder, OpusEncoder
from omni_rt.media.reply_queue import FRAME, FRAME_MS, ReplyQueue
from omni_rt.transport.caller import Arrival
from tools.duplex.continuity import Continuity, continuity
from tools.duplex.gain import local_speech
from tools.duplex.replies import HeardReply

TEXT = (
    "It was a cold and windy morning when the two brothers went down to the harbour. "
    "They carried the planks that their uncle had left behind, and began to build."
)
# As a small model tells stories.
TWICE = (
    "A baker named Bob couldn't sleep because he was worried about his customers. He had a big, busy day, and he was "
    "worried about whether they would be ready for his baked goods. He couldn't sleep because he was worried about his "
    "customers. He had a big, busy day, and he was worried about whether"
)
HELD_MS = 400


@pytest.fixture(scope="module")
def speak() -> Callable[[str], Pcm]:
    return local_speech()


def heard(pcm: Pcm, ducked_ms: int, held_ms: int, skipped: int = 0) -> Continuity | None:
    """Of a reply that is ducked and held at these places, and let go on so many frames further on, or back."""
    said = np.split(pcm, [held_ms // FRAME_MS * FRAME])
    rest = np.split(pcm, [(held_ms // FRAME_MS + skipped) * FRAME])[1]
    encoder, decoder = OpusEncoder(OUTPUT_RATE), OpusDecoder(OUTPUT_RATE)
    reply = HeardReply("reply", 0.0, text=TEXT)
    queue = ReplyQueue()
    queue.put(1, said[0])

    def play(milliseconds: float) -> None:
        for _ in range(round(milliseconds / FRAME_MS)):
            frame = queue.next()
            at = len(reply.sounds) * FRAME_MS / 1000
            packet = encoder.encode(frame.pcm, frame.generation is None)
            reply.sounds.append(Arrival(at, 0, decoder.decode(bytes(packet)), False))

    play(ducked_ms)
    queue.set_gain(0.2)
    play(held_ms - ducked_ms)
    queue.held = True
    queue.put(1, rest)
    queue.end(1)
    play(HELD_MS)
    queue.set_gain(1.0)
    queue.held = False
    play(queue.queued_ms + 2 * FRAME_MS)
    return continuity(reply, lambda _: pcm)


@pytest.mark.parametrize("held_ms", range(600, 5600, 740))
def test_a_reply_that_goes_on_where_it_stood_loses_and_repeats_nothing(
    held_ms: int, speak: Callable[[str], Pcm]
) -> None:
    assert heard(speak(TEXT), held_ms - 100, held_ms) == Continuity(0, 0)


@pytest.mark.parametrize("held_ms", range(600, 20_000, 2600))
def test_what_is_told_twice_is_not_taken_for_repeated(held_ms: int, speak: Callable[[str], Pcm]) -> None:
    assert heard(speak(TWICE), held_ms - 100, held_ms) == Continuity(0, 0)


@pytest.mark.parametrize("skipped", [10, -10])
def test_what_is_left_out_or_said_again_is_found(skipped: int, speak: Callable[[str], Pcm]) -> None:
    found = heard(speak(TEXT), 1100, 1200, skipped)
    assert found is not None
    assert found.lost_ms == pytest.approx(max(0, 20 * skipped), abs=60)
    assert found.repeated_ms == pytest.approx(max(0, -20 * skipped), abs=60)
