"""The voice: hibari's distilled Kokoro voices, with the time of every word."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hibari import Hibari, dsp
from hibari.g2p.normalize import normalize
from hibari.tts import MAX_PHONEMES
from hibari.voices import VOICES, voice_path

from omni_rt.engine.api import OUTPUT_RATE, EngineError, Pcm
from omni_rt.engine.local.spoken import spoken_words

# The node of hibari's graph that holds how many frames each phoneme lasts.
_DURATIONS = "/Cast_32_output_0"
_FRAME = 600  # samples
_FRAME_MS = _FRAME * 1000 // OUTPUT_RATE

# How far sound may reach out of the frames of the phonemes that make it.
_LEAD_MS = 100
_DECAY_MS = 40
_FADED = 0.015
_FADE = 5 * OUTPUT_RATE // 1000
_GAIN = 1.8

# Silence after a clause, by the mark that ends it.
_PAUSES_MS = {".": 200, "!": 200, "?": 200, "…": 250, ":": 150, ";": 150, ",": 100, "—": 120}


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A spoken word: in the text it ends before index `end`, in the sound it lasts from `start_ms` to `end_ms`."""

    end: int
    start_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True)
class Speech:
    """24 kHz sound of a text, empty if there is nothing to say in it."""

    pcm: Pcm
    words: tuple[TimedWord, ...]

    @property
    def duration_ms(self) -> float:
        return len(self.pcm) * 1000 / OUTPUT_RATE


SILENT = Speech(np.zeros(0, np.int16), ())


def voices() -> tuple[str, ...]:
    """Names of the voices whose files are on this machine, the default first."""
    return tuple(name for name in VOICES if _file(name) is not None)


class Voice:
    """One voice, loaded. `speak` may be called from any thread, by one at a time."""

    def __init__(self, name: str) -> None:
        """Raises EngineError for a voice that is not on this machine."""
        path = _file(name)
        if path is None:
            raise EngineError("unknown_voice", f"there is no voice {name!r} here; there are: {', '.join(voices())}")
        try:
            self._hibari: Any = Hibari(voice=name, model=_with_durations(path.read_bytes()), threads=1)
            self._g2p = self._hibari.g2p
        except Exception as error:
            raise EngineError("voice_failed", f"cannot load the voice {name!r} from {path}: {error}") from error
        self._lock = threading.Lock()

    def speak(self, text: str) -> Speech:
        """Say a clause of at most some 30 words."""
        words = spoken_words(text)
        said = " ".join(word.text for word in words)
        with self._lock:
            phonemes = self._phonemes(said)
            ids = [(self._hibari.vocab[sign], word) for sign, word in phonemes if sign in self._hibari.vocab]
            ids = ids[:MAX_PHONEMES]
            if not ids:
                return SILENT
            sound, frames = self._synthesise([number for number, _ in ids])
        # frames[0] and frames[-1] are the silence around the phonemes
        ends = np.cumsum(frames) * _FRAME_MS
        start_ms = max(0, int(ends[0]) - _LEAD_MS)
        spans: dict[int, tuple[float, float]] = {}
        for index, (_, word) in enumerate(ids, 1):
            if word is not None:
                begin, end = float(ends[index - 1] - start_ms), float(ends[index] - start_ms)
                spans[word] = (spans.get(word, (begin, end))[0], end)
        # the last phoneme's frames may hold the silence after it too
        last_ms = min(max((end for _, end in spans.values()), default=0.0), _loud_until(sound) - start_ms)
        pcm = _shape(sound, start_ms, last_ms + _DECAY_MS, _PAUSES_MS.get(said[-1], 0))
        return Speech(pcm, _timed([word.end for word in words], spans, last_ms))

    def _phonemes(self, said: str) -> list[tuple[str, int | None]]:
        """Phoneme signs, each with the number of the word of `said` that it belongs to; None for pauses."""
        normal = normalize(said)
        to_said = _align(normal.split(), said.split())
        signs: list[tuple[str, int | None]] = []
        number = 0
        for token in self._g2p.phonemize_tokens(self._g2p.tokenize(normal)):
            word = to_said[min(number, len(to_said) - 1)]
            signs += [(sign, word if sign.isalpha() else None) for sign in token.phonemes or ""]
            if token.whitespace:
                signs.append((" ", None))
                number += 1
        return signs

    def _synthesise(self, ids: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        feed = {"ids": np.array([[0, *ids, 0]], np.int64), "speed": np.ones(1, np.float32)}
        *spectrum, frames = self._hibari.sess.run(["lh", "theta", "ln", "lr", "phi", "f0", _DURATIONS], feed)
        return dsp.synth(*(part[0] for part in spectrum), np.random.default_rng(0)), frames.reshape(-1)


def _shape(sound: npt.NDArray[np.float32], start_ms: int, length_ms: float, pause_ms: int) -> Pcm:
    """The stretch that holds the words, and a pause after it."""
    start = start_ms * OUTPUT_RATE // 1000
    voiced = sound[start : start + round(length_ms * OUTPUT_RATE / 1000)] * (_GAIN * 32767)
    fade = min(_FADE, len(voiced) // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    voiced[:fade] *= ramp
    voiced[len(voiced) - fade :] *= ramp[::-1]
    silence = np.zeros(pause_ms * OUTPUT_RATE // 1000, np.int16)
    return np.concatenate([np.clip(voiced, -32768, 32767).astype(np.int16), silence])


def _loud_until(sound: npt.NDArray[np.float32]) -> float:
    """The ms at which the sound has faded."""
    levels = np.abs(sound)
    loud = np.flatnonzero(levels > _FADED * levels.max(initial=0.0))
    return float(loud[-1] + 1) * 1000 / OUTPUT_RATE if len(loud) else 0.0


def _timed(text_ends: list[int], spans: dict[int, tuple[float, float]], last_ms: float) -> tuple[TimedWord, ...]:
    """One entry per written word; one that made no sound of its own takes no time, right after the word before it."""
    words = []
    now = 0.0
    for number, text_end in enumerate(text_ends):
        begin, end = spans.get(number, (now, now))
        now = min(end, last_ms)
        words.append(TimedWord(text_end, min(begin, now), now))
    return tuple(words)


def _align(normal: list[str], written: list[str]) -> list[int]:
    """For each word of the normalised text the number of the written word it comes from ("7:30" -> "seven thirty")."""
    numbers = [0] * max(1, len(normal))
    for _, n1, n2, w1, w2 in SequenceMatcher(a=normal, b=written, autojunk=False).get_opcodes():
        for index in range(n1, n2):
            share = (index - n1) * (w2 - w1) // (n2 - n1)
            numbers[index] = min(w1 + share, len(written) - 1) if w2 > w1 else max(w1 - 1, 0)
    return numbers


def _file(name: str) -> Path | None:
    if name not in VOICES:
        return None
    try:
        path = Path(voice_path(name, download_missing=False))
    except FileNotFoundError:
        return None
    return path if path.exists() else None


def _with_durations(model: bytes) -> bytes:
    """An ONNX model with the phonemes' durations among its outputs.

    Protocol Buffers merge what is appended: ModelProto.graph (7) . output (12) . name (1).
    """
    field = _DURATIONS.encode()
    for number in (1, 12, 7):
        key = number << 3 | 2
        field = bytes((key, len(field))) + field
    return model + field
