"""Log-mel spectrogram of 16 kHz sound, computed while the sound arrives.

Frame t is centred on sample 160 t and sees the samples [160 t - 200, 160 t + 200), so it exists 12.5 ms after its
centre. Raw values are log10 of the power in each band; the one step that needs the loudest cell of the utterance,
`normalise`, comes later.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.api import EngineError

RATE = 16_000
HOP = 160
FRAME = 400
SHORTEST = FRAME // 2 + 1
"""Samples below which an utterance has no frame: its reflection at the edges would be undefined."""

RANGE = 8.0
"""Decades below the loudest cell at which all others are clamped."""

LOUDEST = 8.0
"""Largest magnitude of a sample; full scale is 1."""

_HALF = FRAME // 2
_FLOOR = 1e-10
_AT_ONCE = 2_000


def frames_in(samples: int) -> int:
    """Mel frames of a whole utterance of so many samples; 0 below `SHORTEST`."""
    return samples // HOP if samples >= SHORTEST else 0


def normalise(raw: Tensor, maximum: float) -> Tensor:
    """Raw log10 values clamped to `RANGE` decades below `maximum`, then (x + 4) / 4, in the shape of `raw`."""
    return (raw.clamp(min=maximum - RANGE) + 4.0) / 4.0


@lru_cache(maxsize=4)
def mel_filters(bands: int) -> Tensor:
    """Triangular filters float32 [bands, 201] over 0-8000 Hz, each of unit area in Hz.

    Scale and normalisation follow Slaney, Auditory Toolbox version 2 (Interval Research TR 1998-010): linear below
    1 kHz with 200/3 Hz to a step, above it 27 steps to a factor of 6.4. Computed in float64.
    """
    linear_hz, corner = 200.0 / 3.0, 1000.0
    corner_step, growth = corner / linear_hz, math.log(6.4) / 27.0
    top = corner_step + math.log(RATE / 2 / corner) / growth
    steps = np.linspace(0.0, top, bands + 2)
    edges = np.where(steps < corner_step, steps * linear_hz, corner * np.exp(growth * (steps - corner_step)))
    bins = np.linspace(0.0, RATE / 2, FRAME // 2 + 1)
    low, centre, high = (edges[i : bands + i, None] for i in range(3))
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * 2.0 / (high - low)).astype(np.float32))


@lru_cache(maxsize=1)
def _hann() -> Tensor:
    return torch.hann_window(FRAME, periodic=True, dtype=torch.float32, device="cpu")


class MelStream:
    """State of one utterance's spectrogram, on the CPU; keeps fewer than 600 samples between calls."""

    __slots__ = ("_bands", "_closed", "_pending", "_reflected", "frames", "samples")

    def __init__(self, bands: int = 128) -> None:
        self.samples = 0
        self.frames = 0
        self._bands = bands
        self._closed = False
        self._reflected = False
        self._pending = torch.empty(0)

    def push(self, samples: Tensor | np.ndarray) -> Tensor:
        """Takes 16 kHz samples [n], any n, int16 or floating point with full scale 1; returns the raw frames float32
        [bands, m] they complete.

        Raises EngineError `audio_invalid` (wrong shape or type, not finite, louder than `LOUDEST`) or `audio_closed`;
        the utterance is then as before.
        """
        if self._closed:
            raise EngineError("audio_closed", "the utterance has ended; start another for further sound")
        sound = checked(samples)
        if sound.dtype == torch.int16:
            sound = sound.float() / 32768
        self.samples += sound.numel()
        self._pending = torch.cat((self._pending, sound))
        if self.samples < SHORTEST:
            return torch.empty(self._bands, 0)
        if not self._reflected:
            self._pending = torch.cat((self._pending[1 : _HALF + 1].flip(0), self._pending))
            self._reflected = True
        return self._take((self._pending.numel() - FRAME) // HOP + 1)

    def close(self) -> Tensor:
        """Ends the utterance; returns its last raw frames [bands, 0 or 1]. Raises EngineError `audio_closed`."""
        if self._closed:
            raise EngineError("audio_closed", "the utterance has already ended")
        self._closed = True
        left = frames_in(self.samples) - self.frames
        if left:
            missing = (left - 1) * HOP + FRAME - self._pending.numel()
            self._pending = torch.cat((self._pending, self._pending[-missing - 1 : -1].flip(0)))
        last = self._take(left)
        self._pending = torch.empty(0)
        return last

    def copy(self) -> MelStream:
        """A stream that goes on from here on its own."""
        other = MelStream(self._bands)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def _take(self, count: int) -> Tensor:
        parts = []
        while count > 0:
            step = min(count, _AT_ONCE)
            parts.append(_log_mel(self._pending[: (step - 1) * HOP + FRAME], self._bands))
            # clone, so that a long push is not kept alive by its last samples
            self._pending = self._pending[step * HOP :].clone()
            self.frames += step
            count -= step
        return torch.cat(parts, dim=1) if parts else torch.empty(self._bands, 0)


def checked(samples: Tensor | np.ndarray) -> Tensor:
    """A copy of the samples on the CPU, int16 or float32 [n]. Raises EngineError `audio_invalid`, see
    `MelStream.push`."""
    sound = samples.to("cpu", copy=True) if isinstance(samples, Tensor) else torch.from_numpy(np.array(samples))
    if sound.dim() != 1 or not (sound.is_floating_point() or sound.dtype == torch.int16):
        raise EngineError(
            "audio_invalid", f"samples must be int16 or floating point [n], not {sound.dtype} {list(sound.shape)}"
        )
    if sound.dtype == torch.int16:
        return sound
    sound = sound.float()
    # also false for NaN
    if sound.numel() and not bool(sound.abs().max() <= LOUDEST):
        raise EngineError(
            "audio_invalid", f"samples must be finite and at most {LOUDEST:g} in magnitude; full scale is 1"
        )
    return sound


def _log_mel(sound: Tensor, bands: int) -> Tensor:
    """Raw frames [bands, n] of sound [(n - 1) * HOP + FRAME]."""
    spectrum: Tensor = torch.fft.rfft(sound.unfold(0, FRAME, HOP) * _hann())
    power = spectrum.real.square() + spectrum.imag.square()
    return (mel_filters(bands) @ power.T).clamp(min=_FLOOR).log10()
