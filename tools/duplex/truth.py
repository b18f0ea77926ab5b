"""Where in a clip its sound begins and ends, found by energy.

Every time that is measured hangs on this. What is found stands in `clips.json`, where it was corrected by hand if
noise of the recording or a synthetic voice's decay had been taken for speech.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import INPUT_RATE, Pcm

HOP = INPUT_RATE // 200
_FRAME = 2 * HOP
# Below the loud parts by so much a sound is none any more, nor within so much of the clip's own noise.
_FAINT_DB = 32.0
_ABOVE_NOISE_DB = 9.0
# A click is shorter than this.
_SHORTEST_FRAMES = 4


def levels(pcm: Pcm) -> npt.NDArray[np.float64]:
    """Level in dB of frames of 10 ms, one every 5 ms, with high frequencies lifted as they are in consonants."""
    samples = pcm.astype(np.float64)
    lifted = np.diff(samples, prepend=samples[:1]) * 2 + samples * 0.1
    squares = np.concatenate([[0.0], np.cumsum(lifted**2)])
    starts = np.arange(0, max(1, len(pcm) - _FRAME + 1), HOP)
    ends = np.minimum(starts + _FRAME, len(pcm))
    power = (squares[ends] - squares[starts]) / np.maximum(1, ends - starts)
    level: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power, 1e-3))
    return level


def bounds(pcm: Pcm) -> tuple[int, int]:
    """Samples at which the sound of a 16 kHz clip begins and ends. Raises ValueError if it holds none."""
    level = levels(pcm)
    loud, noise = np.percentile(level, 95), np.percentile(level, 5)
    threshold = max(loud - _FAINT_DB, min(noise + _ABOVE_NOISE_DB, loud - 12.0))
    sounding = level >= threshold
    if loud <= 0.0:
        raise ValueError("the clip is silent")
    runs = _runs(sounding)
    kept = [run for run in runs if run[1] - run[0] >= _SHORTEST_FRAMES]
    if not kept:
        raise ValueError("the clip holds nothing but clicks")
    return kept[0][0] * HOP, min(len(pcm), kept[-1][1] * HOP + _FRAME - HOP)


def active_level(pcm: Pcm, onset: int, offset: int) -> float:
    """Root mean square of the loud half of a clip's frames of 20 ms, out of 32768."""
    frames = pcm[onset : onset + (offset - onset) // 320 * 320].reshape(-1, 320).astype(np.float64)
    power = np.sort(np.mean(frames**2, axis=1))
    return float(np.sqrt(np.mean(power[len(power) // 2 :]))) if len(power) else 1.0


def _runs(sounding: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sounding, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
