"""Sounds of people of which no recording could be had, made from a seed: a cough, and "mm-hm"."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import INPUT_RATE, Pcm

Wave = npt.NDArray[np.float64]
_EDGE_S = 0.05


def cough(seed: int) -> Pcm:
    """One to three barks: a burst, the noise after it, and for some the voiced end. About 0.3 s each."""
    rng = np.random.default_rng(1000 + seed)
    barks = []
    for number in range(1 + seed % 3):
        burst = _noise(rng, 0.045, (700, 1700, 3100), decay_s=0.03)
        breath = 0.30 * _noise(rng, rng.uniform(0.10, 0.17), (600, 1500, 2600), decay_s=0.12)
        voiced = 0.55 * _voice(rng.uniform(150, 260), 0.75, rng.uniform(0.05, 0.09), (550, 1200, 2500))
        bark = _join([burst, breath, *([voiced] if rng.random() < 0.6 else [])])
        barks += [bark * (1 - 0.2 * number), np.zeros(round(rng.uniform(0.06, 0.14) * INPUT_RATE))]
    return _finished(np.concatenate(barks[:-1]))


def mm_hm(seed: int) -> Pcm:
    """Two hums with closed lips and a breath between them, the second one higher. About 0.5 s."""
    rng = np.random.default_rng(2000 + seed)
    pitch = (105, 190, 140)[seed % 3] * rng.uniform(0.95, 1.05)
    first = _voice(pitch, 0.95, rng.uniform(0.15, 0.2), (260, 1050, 2200))
    breath = 0.08 * _noise(rng, 0.05, (400, 1200, 2300), decay_s=0.2)
    second = 1.1 * _voice(pitch * 1.15, 1.18, rng.uniform(0.2, 0.28), (260, 1050, 2200))
    return _finished(_join([first, breath, second]))


MAKERS = {"cough": cough, "mm_hm": mm_hm}


def _voice(pitch: float, glide: float, seconds: float, formants: tuple[int, ...]) -> Wave:
    """A voice of that pitch in Hz, which changes by the factor `glide`, through resonances at the formants."""
    count = round(seconds * INPUT_RATE)
    pitches = pitch * np.linspace(1.0, glide, count)
    phase = np.cumsum(pitches) / INPUT_RATE
    wave = np.zeros(count)
    for harmonic in range(1, int(4000 // max(pitches)) + 1):
        frequency = harmonic * float(np.mean(pitches))
        gain = sum(1 / (1 + ((frequency - f) / 130.0) ** 2) / (1 + n) for n, f in enumerate(formants))
        wave += gain * np.sin(2 * np.pi * harmonic * phase)
    wave *= np.sin(np.linspace(0.15, np.pi - 0.15, count)) ** 0.5 / np.max(np.abs(wave))
    return wave


def _noise(rng: np.random.Generator, seconds: float, formants: tuple[int, ...], decay_s: float) -> Wave:
    count = round(seconds * INPUT_RATE)
    spectrum = np.fft.rfft(rng.normal(0, 1, count))
    frequencies = np.fft.rfftfreq(count, 1 / INPUT_RATE)
    shape = 0.08 + sum(np.exp(-(((frequencies - f) / 350.0) ** 2)) for f in formants)
    wave: Wave = np.fft.irfft(spectrum * shape, count)
    wave *= np.exp(-np.arange(count) / (decay_s * INPUT_RATE)) / np.max(np.abs(wave))
    return wave


def _join(parts: list[Wave]) -> Wave:
    """One after the other, over 5 ms into each other."""
    fade = round(0.005 * INPUT_RATE)
    out = parts[0]
    for part in parts[1:]:
        ramp = np.linspace(0.0, 1.0, fade)
        middle = out[-fade:] * (1 - ramp) + part[:fade] * ramp
        out = np.concatenate([out[:-fade], middle, part[fade:]])
    return out


def _finished(wave: Wave) -> Pcm:
    edge = np.zeros(round(_EDGE_S * INPUT_RATE))
    loud = wave / np.max(np.abs(wave)) * 16_000
    return np.concatenate([edge, loud, edge]).astype(np.int16)
