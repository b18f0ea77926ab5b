"""The recorded human speech in tests/data/speech and what tests do with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from omni_rt.config import cache_dir
from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.models.store import ModelStore

FOLDER = Path(__file__).parents[1] / "data" / "speech"


@dataclass(frozen=True, slots=True)
class Clip:
    name: str
    pcm: Pcm
    words: str


def clips() -> list[Clip]:
    """All clips, 16 kHz, by name."""
    return [clip(path.stem) for path in sorted(FOLDER.glob("*.wav"))]


def clip(name: str) -> Clip:
    pcm, rate = soundfile.read(FOLDER / f"{name}.wav", dtype="int16")
    assert rate == INPUT_RATE
    return Clip(name, pcm, (FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip())


def silence(seconds: float) -> Pcm:
    return np.zeros(round(seconds * INPUT_RATE), np.int16)


def with_noise(pcm: Pcm, level: float, seed: int = 0) -> Pcm:
    """White noise of RMS `level` added."""
    noise = np.random.default_rng(seed).normal(0, level, len(pcm))
    return np.clip(pcm + noise, -32768, 32767).astype(np.int16)


def model(name: str) -> Path:
    """A model file of the cache that tests share with the server."""
    return ModelStore(cache_dir()).path(name)
