"""Signals that Opus takes for speech, made from a seed."""

from __future__ import annotations

import numpy as np

from omni_rt.engine.api import Pcm


def voiced(seconds: float, rate: int, pitch: float = 140.0, seed: int = 0) -> Pcm:
    """A gliding harmonic tone with syllables of about 200 ms, mono int16."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * t))) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 5 * t)
    return (5000 * tone * syllables + rng.normal(0, 60, len(t))).clip(-32768, 32767).astype(np.int16)


def rms(pcm: Pcm) -> float:
    return float(np.sqrt(np.mean(pcm.astype(np.float64) ** 2))) if len(pcm) else 0.0
