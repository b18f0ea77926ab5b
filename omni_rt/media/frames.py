"""Camera and screen: every frame is decoded, as each needs the one before, but few are kept.

Decoding and conversion run in a thread of their own; only finished pictures reach the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import av
import numpy as np

from omni_rt.engine.api import Rgb

logger = logging.getLogger(__name__)

_BACKLOG = 30
"""Frames that may wait for the decoder; beyond that the rest is dropped up to the next key frame."""


@dataclass(frozen=True, slots=True)
class FrameStats:
    """Counts of frames: `decoded`, `kept` for the engine, `failed` to decode, `dropped` because decoding lagged."""

    decoded: int = 0
    kept: int = 0
    failed: int = 0
    dropped: int = 0


def fit(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size of a picture whose longer side is at most `longest` pixels; never larger than it was."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def is_key_frame(codec: str, data: bytes) -> bool:
    """Whether an encoded frame (`VP8`, or `H264` with start codes) can be decoded on its own."""
    if codec.upper() == "VP8":
        return bool(data) and not data[0] & 1
    units = data.split(b"\x00\x00\x01")[1:]
    return any(unit and unit[0] & 0x1F in (5, 7) for unit in units)


class FrameSampler:
    """One incoming picture track. `deliver` gets pictures on the event loop this is made on, newest first:
    at most `frames_per_second`, the longer side at most `frame_pixels`."""

    def __init__(self, deliver: Callable[[Rgb], None], *, frames_per_second: float, frame_pixels: int) -> None:
        self._deliver = deliver
        self._period = 1 / frames_per_second
        self._longest = frame_pixels
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._places = threading.Semaphore(_BACKLOG)
        self._due = 0.0
        self._skipping = False
        self._closed = False
        self._decoded = self._kept = self._failed = self._dropped = 0
        self.wants_key_frame = False
        """Set when the sender must be asked for a key frame; whoever asks clears it."""

    @property
    def stats(self) -> FrameStats:
        return FrameStats(self._decoded, self._kept, self._failed, self._dropped)

    def feed(self, decode: Callable[[], Sequence[av.VideoFrame]], key_frame: bool) -> None:
        """Take one encoded frame, as a function that decodes it. Never blocks."""
        if self._closed:
            return
        if (self._skipping and not key_frame) or not self._places.acquire(blocking=False):
            self._skipping = self.wants_key_frame = True
            self._dropped += 1
            return
        self._skipping = False
        self._thread.submit(self._work, decode)

    def close(self) -> None:
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(self, decode: Callable[[], Sequence[av.VideoFrame]]) -> None:
        try:
            pictures = decode()
            self._decoded += len(pictures)
            now = time.monotonic()
            if pictures and now >= self._due:
                self._due = (self._due if now - self._due < self._period else now) + self._period
                self._loop.call_soon_threadsafe(self._hand_over, self._convert(pictures[-1]))
        except av.FFmpegError:
            self._failed += 1
            self.wants_key_frame = True
        except Exception:
            if not self._closed:
                logger.exception("a picture could not be converted")
        finally:
            self._places.release()

    def _convert(self, picture: av.VideoFrame) -> Rgb:
        width, height = fit(picture.width, picture.height, self._longest)
        return np.asarray(picture.reformat(width=width, height=height, format="rgb24").to_ndarray(), np.uint8)

    def _hand_over(self, rgb: Rgb) -> None:
        if not self._closed:
            self._kept += 1
            self._deliver(rgb)
