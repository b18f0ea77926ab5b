"""What is played at one go: a clip, a clip with a pause in it, or a crowd; with the places where it sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omni_rt.engine.api import INPUT_RATE, Pcm
from tools.duplex.clips import SPEECH_LEVEL, Clip
from tools.duplex.truth import active_level

SoundKind = Literal["turn", "answer", "interruption", "backchannel", "cough", "typing", "crowd"]

_FADE = INPUT_RATE // 200
# Of a crowd behind the speaker, against the speaker.
_CROWD_DB = -18.0
_VOICES = 6


@dataclass(frozen=True, slots=True)
class Sound:
    """16 kHz. `spans` are samples from..to of sound, in order; between them are pauses that were put there."""

    name: str
    kind: SoundKind
    pcm: Pcm
    spans: tuple[tuple[int, int], ...]
    words: str = ""
    made: bool = False
    pause_s: float = 0.0

    @property
    def onset(self) -> int:
        return self.spans[0][0]

    @property
    def offset(self) -> int:
        return self.spans[-1][1]


def whole(clip: Clip) -> Sound:
    return Sound(clip.name, clip.kind, clip.pcm, ((clip.onset, clip.offset),), clip.words, clip.made)


def with_pause(clip: Clip, split: int, pause_s: float) -> Sound:
    """The clip with so much silence put in at sample `split`, both edges faded over 5 ms."""
    if not clip.onset < split < clip.offset:
        raise ValueError(f"{clip.name} does not sound around sample {split}")
    pause = round(pause_s * INPUT_RATE)
    first, second = clip.pcm[:split].astype(np.float64), clip.pcm[split:].astype(np.float64)
    first[-_FADE:] *= np.linspace(1, 0, _FADE)
    second[:_FADE] *= np.linspace(0, 1, _FADE)
    pcm = np.concatenate([first, np.zeros(pause), second]).astype(np.int16)
    spans = ((clip.onset, split), (split + pause, clip.offset + pause))
    return Sound(f"{clip.name}+{pause_s:g}s", clip.kind, pcm, spans, clip.words, clip.made, pause_s)


def repeated(clip: Clip, seconds: float) -> Sound:
    """The sounding part of the clip over and over."""
    part = clip.pcm[clip.onset : clip.offset]
    count = round(seconds * INPUT_RATE)
    pcm = np.tile(part, -(-count // len(part)))[:count]
    return Sound(f"{clip.name}x{seconds:g}s", clip.kind, pcm, ((0, count),), made=clip.made)


def crowd(clips: Sequence[Clip], seconds: float, seed: int = 0) -> Sound:
    """Six people at a time, each saying one clip after the other, 18 dB below the person at the microphone."""
    count = round(seconds * INPUT_RATE)
    rng = np.random.default_rng(seed)
    mixed = np.zeros(count)
    for _ in range(_VOICES):
        at = -int(rng.integers(0, INPUT_RATE))
        while at < count:
            clip = clips[int(rng.integers(len(clips)))]
            part = clip.pcm[clip.onset : clip.offset]
            begin, end = max(0, at), min(count, at + len(part))
            if end > begin:
                mixed[begin:end] += part[begin - at : end - at]
            at += len(part) + int(rng.uniform(0.05, 0.4) * INPUT_RATE)
    level = active_level(mixed.astype(np.int16), 0, count)
    pcm = np.clip(mixed * SPEECH_LEVEL * 10 ** (_CROWD_DB / 20) / level, -32768, 32767).astype(np.int16)
    return Sound(f"crowd of {_VOICES}", "crowd", pcm, ((0, count),))
