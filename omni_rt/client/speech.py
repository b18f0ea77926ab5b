"""Recorded speech that a client plays as its microphone, and where in it the speech ends."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from omni_rt.config import ModelSettings, cache_dir
from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.media.vad import WINDOW, SileroVad, VadState
from omni_rt.models.fetch import fetch
from omni_rt.models.manifest import find
from omni_rt.models.store import ModelStore

_VAD = "silero-vad-v6"
_FRAME = INPUT_RATE // 100
_FAINT_DB = -24


class UnreadableFile(Exception):
    """A file is not what it should be; the message names it and the cause."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """16 kHz speech to be said; `speech_end` is the number of samples up to its last sound, `words` what is said."""

    name: str
    pcm: Pcm
    speech_end: int
    words: str = ""


def load_vad() -> SileroVad:
    """The detector that finds the end of speech, ungated; its file is fetched if it is missing. Raises FetchError."""
    store = ModelStore(cache_dir())
    fetch(store, [find(_VAD)], ModelSettings(), sys.stderr)
    return SileroVad(store.path(_VAD), gated=False)


def read_utterance(path: Path, vad: SileroVad) -> Utterance:
    """A recording whose words, if they are known, stand beside it in a .txt. Raises UnreadableFile."""
    pcm = read_speech(path)
    end = speech_end(vad, pcm)
    if end is None:
        raise UnreadableFile(f"{path} holds no speech that voice activity detection can find")
    words = path.with_suffix(".txt")
    try:
        return Utterance(path.stem, pcm, end, words.read_text(encoding="utf-8").strip() if words.exists() else "")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"cannot read {words}: {error}") from error


def read_speech(path: Path) -> Pcm:
    """A file's first audio track as 16 kHz mono, in any format that FFmpeg reads. Raises UnreadableFile."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UnreadableFile(f"{path} holds no sound")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=INPUT_RATE)
            frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
            frames += resampler.resample(None)
    except (FFmpegError, OSError) as error:
        raise UnreadableFile(f"cannot read {path} as sound: {error.strerror or error}") from error
    if not frames:
        raise UnreadableFile(f"{path} holds no sound")
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.int16)


def speech_end(vad: SileroVad, pcm: Pcm) -> int | None:
    """Number of 16 kHz samples up to the end of the last sound of speech; None if there is no speech.

    The last window that Silero takes for speech bounds it. Up to there it is the end of the last 10 ms that are at
    most 24 dB below the loud parts of the speech (95th percentile of its 10 ms frames). Give a `vad` without gate.
    """
    state = VadState()
    windows = np.concatenate([pcm, np.zeros(-len(pcm) % WINDOW, np.int16)]).reshape(-1, WINDOW)
    spoken = np.flatnonzero([vad.step(state, window) >= 0.5 for window in windows])
    if not len(spoken):
        return None
    first, bound = int(spoken[0]) * WINDOW, min(len(pcm), (int(spoken[-1]) + 1) * WINDOW)
    frames = pcm[first : first + (bound - first) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    loudness = np.sqrt(np.mean(frames**2, axis=1))
    sounding = np.flatnonzero(loudness >= np.percentile(loudness, 95) * 10 ** (_FAINT_DB / 20))
    return first + (int(sounding[-1]) + 1) * _FRAME
