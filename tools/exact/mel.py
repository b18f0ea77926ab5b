"""Streamed mel against Hugging Face's feature extractor on the whole clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from omni_rt.engine.qwen3_omni.mel import SHORTEST, MelStream, normalise
from tools.exact.draw import draw
from tools.exact.lines import Line


def clip_lengths(rng: np.random.Generator) -> list[int]:
    """Lengths in samples: tiny, below a second, about whole seconds and windows, and any."""
    second = 16_000
    about = [int(rng.integers(1, 4)) * second, 8 * second, 16 * second]
    return [
        SHORTEST,
        int(rng.integers(SHORTEST, 700)),
        int(rng.integers(700, second)),
        *(length + int(rng.integers(-1, 2)) for length in about),
        *(int(n) for n in rng.integers(second, 20 * second, 2)),
    ]


def sound(rng: np.random.Generator, samples: int) -> np.ndarray:
    """float32 [samples]: noise, gliding tones and true silence, each stretch at a level of its own."""
    time = np.arange(samples) / 16_000
    tone = np.sin(2 * np.pi * (rng.uniform(60, 4000) + rng.uniform(0, 400) * time) * time)
    out = rng.uniform(0, 1) * tone + 10 ** rng.uniform(-4, -1) * rng.standard_normal(samples)
    for _ in range(int(rng.integers(0, 4))):
        start, end = sorted(rng.integers(0, samples + 1, 2))
        out[start:end] *= rng.choice([0.0, 1e-3, 0.03])
    return np.clip(out, -1, 1).astype(np.float32)


def pieces(rng: np.random.Generator, clip: np.ndarray) -> Iterator[np.ndarray]:
    """The clip in pieces of 0 samples to a few seconds, sizes drawn anew for every piece."""
    at = 0
    while at < len(clip):
        size = int(rng.choice([0, 1, int(rng.integers(1, 200)), 320, int(rng.integers(200, 16_000)), 3 * 16_000]))
        yield clip[at : at + size]
        at += size


def reference_mel(clip: np.ndarray) -> torch.Tensor:
    """Hugging Face's normalised features [128, n] of the whole clip."""
    extractor: Any = WhisperFeatureExtractor(feature_size=128)  # type: ignore[no-untyped-call]
    batch = extractor(clip, sampling_rate=16_000, padding=True, truncation=False, return_tensors="pt")
    features: torch.Tensor = batch.input_features[0]
    return features


def lines(seed: int) -> list[Line]:
    rng = draw(seed).rng("mel")
    error, compared = 0.0, 0
    for samples in clip_lengths(rng):
        clip = sound(rng, samples)
        stream = MelStream()
        raw = torch.cat([*(stream.push(piece) for piece in pieces(rng, clip)), stream.close()], dim=1)
        expected = reference_mel(clip)
        if raw.shape != expected.shape:
            return [Line("streamed mel = whole-clip mel", 1e-5, float("nan"), 0, f"{samples} samples: {raw.shape}")]
        error = max(error, float((normalise(raw, float(raw.max())) - expected).abs().max()))
        compared += raw.numel()
    return [Line("streamed mel = whole-clip mel", 1e-5, error, compared)]
