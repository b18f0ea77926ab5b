"""A microphone that plays a script: sounds at exact samples over a quiet room, and the loudspeaker's echo."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.media.reply_queue import FRAME_MS
from omni_rt.transport.caller import Microphone
from tools.duplex.echo import Echo
from tools.duplex.sounds import Sound

FRAME = INPUT_RATE * FRAME_MS // 1000
# Noise of a quiet room, root mean square out of 32768.
ROOM_LEVEL = 12.0


def in_room(sound: npt.NDArray[Any], rng: np.random.Generator) -> Pcm:
    """A sound, out of 32768, as it is heard in a quiet room."""
    return np.clip(np.rint(sound + rng.normal(0, ROOM_LEVEL, len(sound))), -32768, 32767).astype(np.int16)


class ScriptedMicrophone(Microphone):
    """16 kHz. `position` is the first sample that is not yet taken; it, and where a sound is placed, count from the
    microphone's first sample. `times` and `frames` are when each frame left and what was in it."""

    def __init__(self, echo: Echo | None = None, seed: int = 0) -> None:
        super().__init__(INPUT_RATE)
        self._echo = echo
        self._rng = np.random.default_rng(seed)
        self._placed: list[tuple[int, Pcm]] = []
        self.times: list[float] = []
        self.frames: list[Pcm] = []
        self._beat = asyncio.Event()

    @property
    def position(self) -> int:
        return len(self.frames) * FRAME

    def place(self, sound: Sound, in_s: float = 0.0) -> int:
        """Let it be heard from `in_s` seconds from now on; returns the sample of its first one."""
        at = self.position + round(in_s * INPUT_RATE)
        self._placed.append((at, sound.pcm))
        return at

    async def beat(self) -> None:
        """Until the next frame has left; half a second if none does."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._beat.wait(), 0.5)

    def next_frame(self) -> tuple[Pcm, bool]:
        now = time.perf_counter()
        start = self.position
        mixed: npt.NDArray[np.float64] = self._rng.normal(0.0, ROOM_LEVEL, FRAME)
        for at, pcm in self._placed:
            begin, end = max(at, start), min(at + len(pcm), start + FRAME)
            if end > begin:
                mixed[begin - start : end - start] += pcm[begin - at : end - at]
        self._placed = [(at, pcm) for at, pcm in self._placed if at + len(pcm) > start + FRAME]
        if self._echo is not None:
            mixed += self._echo.take(now)
        out = np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)
        self.times.append(now)
        self.frames.append(out)
        self._beat.set()
        self._beat = asyncio.Event()
        return out, False


def time_of(times: list[float], sample: int) -> float:
    """When a sample was caught: a frame leaves when its last sample is in."""
    frame = min(sample // FRAME, len(times) - 1)
    return times[frame] + (sample - (frame + 1) * FRAME) / INPUT_RATE
