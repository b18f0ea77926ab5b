"""What the assistant played, on the microphone's clock and as spectra: what an echo is looked for in."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from omni_rt.core.timeline import SAMPLES_PER_MS
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm

Real = npt.NDArray[np.float32]

HOP = 256
"""Samples of the microphone between spectra, 16 ms."""
FRAME = 2 * HOP
BINS = FRAME // 2 + 1
"""Of a spectrum of 32 ms: one every 31.25 Hz, whatever the sample rate."""

_REPLY_HOP = HOP * OUTPUT_RATE // INPUT_RATE
_RATE_SQUARED = np.float32((INPUT_RATE / OUTPUT_RATE) ** 2)

# Later than this it was silent in between, or the server stood still: the sound is played from now on.
_LATE = 120 * SAMPLES_PER_MS
# A transport that counts its silence plays in real time, to this much.
_REAL_TIME = 60 * SAMPLES_PER_MS
# A client that is told to be silent plays on until it hears of it.
_PLAYED_ON = 250 * SAMPLES_PER_MS

# Lines that tell one voice from another: the harmonics up to 3.75 kHz, without what the room or a vowel makes of them.
_LINES = slice(6, 120)
_VOWEL_LINES = 9


def window(length: int) -> Real:
    """Periodic Hann; halves that overlap add up to 1."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length), np.float32)


def _without_vowel() -> Real:
    count = _LINES.stop - _LINES.start
    distance = np.abs(np.arange(count)[:, None] - np.arange(count)[None, :])
    near = (distance <= _VOWEL_LINES // 2).astype(np.float32)
    return np.eye(count, dtype=np.float32) - near / near.sum(0)


_DETAIL = _without_vowel()
_REPLY_WINDOW = window(2 * _REPLY_HOP)


def fingerprint(power: Real, least: float) -> Real:
    """A power spectrum's fine structure as a vector of length 1; powers far below `least` count for nothing."""
    detail = np.log(power[_LINES] + np.float32(least)) @ _DETAIL
    return np.asarray(detail / max(float(np.sqrt(detail @ detail)), 1e-3), np.float32)


class Timeline:
    """Places sent sound on the microphone's clock, as if a loudspeaker played it without delay.

    Places are microphone samples of 16 kHz since the session began.
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, Real]] = deque()
        self._newest: tuple[float, float] | None = None
        self.end = 0
        """Where the sound ends that is known so far."""

    def add(self, pcm: Pcm, stream_ms: float, now: int) -> None:
        """24 kHz sound that was sent while the microphone was at `now`; `stream_ms` is its start on the outgoing track.

        What is sent faster than it plays is played one after the other.
        """
        at = float(now)
        if self._newest is not None:
            newest_ms, newest_at = self._newest
            expected = newest_at + (stream_ms - newest_ms) * SAMPLES_PER_MS
            silent_between = expected > self.end + HOP
            if now - expected <= _LATE and not (silent_between and abs(now - expected) > _REAL_TIME):
                at = expected
        self._newest = stream_ms, at
        self._pieces.append((round(at * OUTPUT_RATE / INPUT_RATE), pcm.astype(np.float32)))
        self.end = max(self.end, round(at) + len(pcm) * INPUT_RATE // OUTPUT_RATE)

    def stop(self, now: int) -> None:
        """The client was told to be silent: what it has queued is never played."""
        end = now + _PLAYED_ON
        if self.end <= end:
            return
        last = end * OUTPUT_RATE // INPUT_RATE
        self._pieces = deque((at, pcm[: last - at]) for at, pcm in self._pieces if at < last)
        self._newest = None
        self.end = end

    def take(self, hop: int) -> Real:
        """The 384 samples of 24 kHz that belong to the microphone's samples from 256 * `hop` on; hops in order."""
        out = np.zeros(_REPLY_HOP, np.float32)
        first = hop * _REPLY_HOP
        while self._pieces:
            at, pcm = self._pieces[0]
            begin, end = max(at, first), min(at + len(pcm), first + _REPLY_HOP)
            if begin < end:
                out[begin - first : end - first] = pcm[begin - at : end - at]
            if at + len(pcm) > first + _REPLY_HOP:
                break
            self._pieces.popleft()
        return out


class Playback:
    """The spectra of the last `lags` hops of a Timeline."""

    def __init__(self, lags: int, least: float) -> None:
        self.timeline = Timeline()
        self.lags = lags
        self._least = least
        # rows are written one after the other and moved down seldom, so that the latest always lie together
        self._power = np.zeros((8 * lags, BINS), np.float32)
        self._prints = np.zeros((8 * lags, _LINES.stop - _LINES.start), np.float32)
        self._count = lags
        self._before = np.zeros(_REPLY_HOP, np.float32)
        self._silent = lags

    @property
    def silent(self) -> bool:
        """Nothing was played within the last `lags` hops."""
        return self._silent >= self.lags

    @property
    def live(self) -> bool:
        """Something is being played in the newest hop."""
        return self._silent == 0

    def clear(self) -> None:
        """Take all of it for silence."""
        self._count, self._silent = self.lags, self.lags
        self._power[: self.lags] = 0
        self._prints[: self.lags] = 0
        self._before[:] = 0

    def advance(self, hop: int) -> None:
        """Go on to the frame whose second half is this hop."""
        if self._count == len(self._power):
            self._power[: self.lags] = self._power[-self.lags :]
            self._prints[: self.lags] = self._prints[-self.lags :]
            self._count = self.lags
        now = self.timeline.take(hop)
        row, self._count = self._count, self._count + 1
        frame = np.concatenate([self._before, now])
        self._before = now
        if not frame.any():
            self._silent += 1
            self._power[row] = self._prints[row] = 0
            return
        self._silent = 0
        spectrum = np.fft.rfft(frame * _REPLY_WINDOW)[:BINS].astype(np.complex64)
        power = (spectrum.real**2 + spectrum.imag**2) * _RATE_SQUARED
        self._power[row] = power
        self._prints[row] = fingerprint(power, self._least)

    def likeness(self, fingerprint: Real) -> Real:
        """How much the microphone's fingerprint is like that of what was played 0, 1, 2 ... hops ago, -1 to 1."""
        return np.asarray((self._prints[self._count - self.lags : self._count] @ fingerprint)[::-1])

    def power(self, first: int, weights: Real) -> Real:
        """Weighted sum of the power spectra from `first` hops ago on into the past; those outside are silence."""
        skipped = max(0, -first)
        weights = weights[skipped : max(skipped, self.lags - first)]
        newest = self._count - 1 - max(0, first)
        return np.asarray(weights[::-1] @ self._power[newest + 1 - len(weights) : newest + 1])

    def loudest(self, first: int, count: int) -> Real:
        """Of each line, the most that was played in `count` hops, the latest of them `first` hops ago."""
        first, count = max(0, first), min(count + min(0, first), self.lags - first)
        newest = self._count - 1 - first
        return np.asarray(self._power[newest + 1 - count : newest + 1].max(axis=0))
