"""What the assistant is about to say, cut into 20 ms frames: replies in order, silence between, nothing stale.

Pure and synchronous: a frame is asked for when it is due, whatever the clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from omni_rt.engine.api import OUTPUT_RATE, Pcm

FRAME_MS = 20
FRAME = OUTPUT_RATE * FRAME_MS // 1000
_PER_MS = OUTPUT_RATE // 1000
_FADE = 5 * _PER_MS


@dataclass(frozen=True, slots=True)
class Frame:
    """20 ms at 24 kHz. `generation` is None for silence; `duration_ms` is how much of it is the reply's."""

    pcm: Pcm
    generation: int | None = None
    reply_ms: float = 0.0
    duration_ms: float = 0.0


class _Reply:
    """The unsent audio of one reply."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.ended = False
        self.sent = 0
        self.queued = 0
        self._chunks: deque[Pcm] = deque()

    def put(self, pcm: Pcm) -> None:
        self._chunks.append(pcm)
        self.queued += len(pcm)

    def take(self, samples: int) -> Pcm:
        """The next `samples`, which must be queued, in a frame padded with zeros."""
        out = np.zeros(FRAME, np.int16)
        filled = 0
        while filled < samples:
            chunk = self._chunks.popleft()
            part = chunk[: samples - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            if len(part) < len(chunk):
                self._chunks.appendleft(chunk[len(part) :])
        self.queued -= samples
        self.sent += samples
        return out


class ReplyQueue:
    """Audio of replies by generation number, first in, first out.

    Audio of a generation below the newest, or of one that was cleared or ended, is refused. `underruns` counts how
    often a reply was not ready in time, `stale` the refused pieces. While `held` nothing is taken from it.
    """

    def __init__(self) -> None:
        self._replies: deque[_Reply] = deque()
        self._newest = -1
        self._gain = self._target = 1.0
        self._last_sample = 0
        self._starved = False
        self.held = False
        self.underruns = 0
        self.stale = 0

    @property
    def queued_ms(self) -> float:
        return sum(reply.queued for reply in self._replies) / _PER_MS

    def put(self, generation: int, pcm: Pcm) -> bool:
        """Queue 24 kHz mono audio; False if it is stale."""
        if generation > self._newest:
            self._newest = generation
            self._replies.append(_Reply(generation))
        # A reply that was cleared, or ended and has been sent, is not in the queue any more.
        reply = self._replies[-1] if self._replies else None
        if reply is None or reply.ended or reply.generation != generation:
            self.stale += 1
            return False
        if len(pcm):
            reply.put(np.ascontiguousarray(pcm, np.int16))
        return True

    def end(self, generation: int) -> None:
        """What is queued of this reply is all there is; a last partial frame goes out padded."""
        for reply in self._replies:
            if reply.generation == generation:
                reply.ended = True

    def clear(self) -> None:
        """Drop everything, and whatever else comes of the replies seen so far."""
        self._replies.clear()
        self._starved = False

    def set_gain(self, gain: float) -> None:
        """Loudness from 0 to 1: softer within 5 ms, louder over the next frame."""
        self._target = min(1.0, max(0.0, gain))

    @property
    def ready(self) -> bool:
        """Whether the next frame is speech."""
        return self._head() is not None

    def next(self) -> Frame:
        """The frame that is due now."""
        reply = self._head()
        if reply is None:
            waiting = bool(self._replies) and self._replies[0].sent > 0 and not self.held
            self.underruns += waiting and not self._starved
            self._starved = waiting
            return Frame(self._fade_out())
        self._starved = False
        samples = min(reply.queued, FRAME)
        at = reply.sent / _PER_MS
        pcm = self._scaled(reply.take(samples))
        self._last_sample = int(pcm[-1])
        return Frame(pcm, reply.generation, at, samples / _PER_MS)

    def _head(self) -> _Reply | None:
        """The reply that has a frame to give."""
        while self._replies and not self.held:
            reply = self._replies[0]
            complete = reply.ended or len(self._replies) > 1
            if reply.queued >= FRAME or (complete and reply.queued):
                return reply
            if not complete:
                return None
            self._replies.popleft()
        return None

    def _fade_out(self) -> Pcm:
        """Silence; after an abrupt stop the last sample dies away over 5 ms instead of clicking."""
        pcm = np.zeros(FRAME, np.int16)
        if self._last_sample:
            pcm[:_FADE] = np.linspace(self._last_sample, 0, _FADE)
            self._last_sample = 0
        self._gain = self._target
        return pcm

    def _scaled(self, pcm: Pcm) -> Pcm:
        if self._gain == self._target == 1.0:
            return pcm
        ramp = np.full(len(pcm), self._target, np.float32)
        turning = len(pcm) if self._target > self._gain else min(_FADE, len(pcm))
        ramp[:turning] = np.linspace(self._gain, self._target, turning, dtype=np.float32)
        self._gain = self._target
        return (pcm * ramp).astype(np.int16)
