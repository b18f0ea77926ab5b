"""What the assistant played, on the microphone's clock and as spectra: what an echo is looked for in."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from omni_rt.core.timeline import SAMPLES_PER_MS
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm

Real = npt.NDArray[np.float32]
Complex = npt.NDArray[np.complex128] | npt.NDArray[np.complex64]

HOP = 256
"""Samples of the microphone between spectra, 16 ms."""
FRAME = 2 * HOP
BINS = FRAME // 2 + 1
"""Of a spectrum of 32 ms: one every 31.25 Hz, whatever the sample rate."""

DECAY = np.float32(0.63)
"""Of power within a hop, in a room."""

_REPLY_HOP = HOP * OUTPUT_RATE // INPUT_RATE
_RATE_SQUARED = np.float32((INPUT_RATE / OUTPUT_RATE) ** 2)

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
    return np.asarray(np.eye(count) - near / near.sum(0), np.float32)


_DETAIL = _without_vowel()
_REPLY_WINDOW = window(2 * _REPLY_HOP)


def fingerprints(powers: Real, least: float | np.float32) -> Real:
    """The fine structure of each power spectrum as a vector of length 1; powers far below `least` count for nothing."""
    details = np.log(powers[:, _LINES] + np.float32(least)) @ _DETAIL
    lengths = np.sqrt(np.einsum("ij,ij->i", details, details))
    return np.asarray(details / np.maximum(lengths, np.float32(1e-3))[:, None], np.float32)


def powers(frames: Real) -> tuple[Complex, Real]:
    """The spectra of windowed frames, and their power."""
    spectra = np.fft.rfft(frames)
    return spectra, np.asarray(spectra.real**2 + spectra.imag**2, np.float32)


class SentSound:
    """Places sent sound on the microphone's clock, as if a loudspeaker played it without delay.

    Places are microphone samples of 16 kHz since the session began.
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, Real]] = deque()
        self._newest: tuple[float, float] | None = None
        self.end: float = -math.inf
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
            # no sound is heard before it was sent: if it should have been, the server stood still, or the microphone's
            # sound had been late
            if expected >= now and not (silent_between and expected - now > _REAL_TIME):
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

    def take(self, at: int, length: int) -> Real:
        """The 24 kHz sound of the `length` samples of the microphone from its sample `at` on; never again of earlier
        ones."""
        first, size = (samples * OUTPUT_RATE // INPUT_RATE for samples in (at, length))
        out = np.zeros(size, np.float32)
        while self._pieces:
            start, pcm = self._pieces[0]
            begin, end = max(start, first), min(start + len(pcm), first + size)
            if begin < end:
                out[begin - first : end - first] = pcm[begin - start : end - start]
            if start + len(pcm) > first + size:
                break
            self._pieces.popleft()
        return out


class Playback:
    """The spectra of the last `lags` hops of SentSound as a room would have them, for two hops of the microphone at a
    time: with each come those before it, 2 dB weaker a hop.

    `ago` is 1 for the first of the two, 0 for the second.
    """

    def __init__(self, lags: int, least: float) -> None:
        self.sent = SentSound()
        self.lags = lags
        self._least = least
        self._kept = lags + 1
        # rows are written one after the other and moved down seldom, so that the latest always lie together
        self._power = np.zeros((4 * lags, BINS), np.float32)
        self._prints = np.zeros((4 * lags, _LINES.stop - _LINES.start), np.float32)
        self._before = np.zeros(_REPLY_HOP, np.float32)
        self._tail = np.zeros(BINS, np.float32)
        self.clear()

    def clear(self) -> None:
        """Take all that was played for silence."""
        self._count = self._kept
        self._power[: self._kept] = 0
        self._prints[: self._kept] = 0
        self._before[:] = 0
        self._tail[:] = 0

    def advance(self, at: int) -> bool:
        """Go on to the microphone's samples from `at` to `at` + 512; whether anything is played there."""
        if self._count + 2 > len(self._power):
            self._power[: self._kept] = self._power[self._count - self._kept : self._count]
            self._prints[: self._kept] = self._prints[self._count - self._kept : self._count]
            self._count = self._kept
        rows = slice(self._count, self._count + 2)
        self._count += 2
        sound = np.concatenate([self._before, self.sent.take(at, 2 * HOP)])
        self._before = sound[-_REPLY_HOP:]
        live = bool(sound.any())
        if not live and self._tail.max() < self._least:
            self._power[rows] = self._prints[rows] = self._tail[:] = 0
            return False
        power = self._power[rows]
        power[:] = powers(frames_of(sound) * _REPLY_WINDOW)[1][:, :BINS] * _RATE_SQUARED if live else 0
        power[0] += DECAY * self._tail
        power[1] += DECAY * power[0]
        self._tail = power[1].copy()
        self._prints[rows] = fingerprints(power, self._least)
        return live

    def likeness(self, fingerprint: Real, ago: int) -> Real:
        """How much the microphone's fingerprint is like that of what was played 0, 1, 2 ... hops ago, -1 to 1."""
        newest = self._count - ago
        return np.asarray((self._prints[newest - self.lags : newest] @ fingerprint)[::-1])

    def power(self, first: int, weights: Real, ago: int) -> Real:
        """Weighted sum of the power spectra from `first` hops ago on into the past; those outside are silence."""
        first, weights = max(0, first), weights[max(0, -first) :]
        weights = weights[: self.lags - first]
        end = self._count - ago - first
        return np.asarray(weights[::-1] @ self._power[end - len(weights) : end])

    def loudest(self, first: int, count: int, ago: int) -> Real:
        """Of each line, the most that was played in `count` hops, the latest of them `first` hops ago."""
        first, count = max(0, first), count + min(0, first)
        end = self._count - ago - first
        return np.asarray(self._power[end - min(count, self.lags - first) : end].max(axis=0))


def frames_of(sound: Real) -> Real:
    """Three hops as two frames that overlap."""
    hop = len(sound) // 3
    return np.stack([sound[: 2 * hop], sound[hop:]])
