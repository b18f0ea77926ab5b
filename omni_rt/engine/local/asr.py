"""Speech to text: Moonshine tiny (English), run on onnxruntime from its two graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import webrtcvad

from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm

Samples = npt.NDArray[np.float32]

_START, _END = 1, 2
_FIRST_WORD = 3  # the tokens before it are marks
_TOKENS_PER_S = 6.5
_LOOP = 4  # so many repetitions of a phrase are a loop
_LONGEST_PHRASE = 8

# Below it the model guesses; speech with as much noise as voice stays above.
_SURE = -0.9
# A crowd in the background stays below this; one voice, cut anywhere, above.
_SURE_OF_CLIP = -0.7
# Silence around a clip. Without it a short word is heard several times over; with more, noise becomes words.
_AROUND_CLIP = INPUT_RATE // 10
# What the model makes of noise. Nobody says just this.
_FROM_NOISE = frozenset(("you", "♪", "thank you for watching", "© transcript emily beynon"))

_VAD_FRAME = INPUT_RATE // 50
_VAD_MODE = 3
# Mode 3 calls any click speech for 80 ms.
_SPEECH_FRAMES = 6
_SPEECH_PEAK = 0.5
_MOST_GAIN = 30.0


class Recogniser:
    """The loaded model. `transcribe` may be called from several threads at once."""

    def __init__(self, encoder: Path, decoder: Path, tokenizer: Path, threads: int) -> None:
        """Raises EngineError when a file is not what it should be."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._encoder = onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
            self._decoder = onnxruntime.InferenceSession(decoder, options, providers=["CPUExecutionProvider"])
            self._words = _read_words(tokenizer.read_bytes())
        except Exception as error:
            raise EngineError(
                "speech_model_failed",
                f"cannot load the speech model {encoder}, {decoder}, {tokenizer}: {error}; "
                "remove the files and fetch them again: omni-rt doctor --fetch",
            ) from error
        caches = [item for item in self._decoder.get_inputs() if item.name.startswith("past_key_values.")]
        self._empty = {item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32) for item in caches}
        self._present = ["logits", *(name.replace("past_key_values", "present") for name in self._empty)]
        self._grown = [name for name in self._present if ".encoder." not in name]

    def transcribe(self, pcm: Pcm) -> str:
        """The words in at most some 30 s of 16 kHz audio; empty if nobody speaks in it."""
        return self._words_of(_samples(pcm), 0, _SURE)

    def overhear(self, pcm: Pcm) -> str:
        """The words of a clip of at most some seconds; empty if there are none, or a crowd's."""
        return self._words_of(_samples(pcm), _AROUND_CLIP, _SURE_OF_CLIP)

    def warm_up(self) -> None:
        self._decode(np.zeros(INPUT_RATE, np.float32))

    def _words_of(self, samples: Samples, around: int, least: float) -> str:
        """The words if the model is sure of them; `around`: samples of silence to put at both ends."""
        if not has_speech(samples):
            return ""
        text, sure = self._decode(np.pad(samples, around))
        letters = [character for character in text if character.isalpha()]
        foreign = sum(not character.isascii() and character > "ɏ" for character in letters)
        if sure < least or 2 * foreign > len(letters) or text.strip(" .!?").lower() in _FROM_NOISE:
            return ""
        return text if any(character.isalnum() for character in text) else ""

    def _decode(self, samples: Samples) -> tuple[str, float]:
        """Text and the mean log-probability of its tokens."""
        encoded = self._encoder.run(
            None, {"input_values": samples[None], "attention_mask": np.ones((1, len(samples)), np.int64)}
        )[0]
        feeds: dict[str, Any] = {
            **self._empty,
            # despite its name this mask counts samples; it is strided down inside the graph
            "encoder_attention_mask": np.ones((1, len(samples)), np.int64),
            "encoder_hidden_states": encoded,
            "input_ids": np.array([[_START]]),
            "use_cache_branch": np.array([False]),
        }
        wanted = self._present
        tokens: list[int] = []
        sureness: list[float] = []
        for _ in range(int(len(samples) / INPUT_RATE * _TOKENS_PER_S) + 4):
            logits, *caches = self._decoder.run(wanted, feeds)
            row = logits[0, -1]
            token = int(row.argmax())
            sureness.append(-float(np.log(np.exp(row - row[token]).sum())))
            if token == _END:
                break
            tokens.append(token)
            if loop := _loop(tokens):
                del tokens[-loop * (_LOOP - 1) :]
                break
            for name, cache in zip(wanted[1:], caches, strict=True):
                feeds[name.replace("present", "past_key_values")] = cache
            feeds["input_ids"] = np.array([[token]])
            feeds["use_cache_branch"] = np.array([True])
            wanted = self._grown
        spelled = b"".join(self._words[token] for token in tokens if token >= _FIRST_WORD)
        text = spelled.decode(errors="replace").replace("▁", " ").replace('"', "")
        return text.strip(" '"), float(np.mean(sureness))


def _samples(pcm: Pcm) -> Samples:
    return pcm.astype(np.float32) / np.float32(32768)


def has_speech(samples: Samples) -> bool:
    """Whether somebody speaks in 16 kHz audio, at whatever level."""
    peak = float(np.abs(samples).max(initial=0.0))
    if not peak:
        return False
    gain = min(_SPEECH_PEAK / peak, _MOST_GAIN)
    loud = (samples * (gain * 32767)).astype(np.int16)
    vad = webrtcvad.Vad(_VAD_MODE)
    run = 0
    for start in range(0, len(loud) - _VAD_FRAME + 1, _VAD_FRAME):
        run = run + 1 if vad.is_speech(loud[start : start + _VAD_FRAME].tobytes(), INPUT_RATE) else 0
        if run >= _SPEECH_FRAMES:
            return True
    return False


def _loop(tokens: list[int]) -> int:
    """Length of the phrase that the tokens end in again and again, 0 if they do not."""
    for length in range(1, min(_LONGEST_PHRASE, len(tokens) // _LOOP) + 1):
        phrase = tokens[-length:]
        if tokens[-length * _LOOP :] == phrase * _LOOP:
            return length
    return 0


def _read_words(data: bytes) -> list[bytes]:
    """The vocabulary: each entry is its length (one byte, or two if the first is over 127) and its bytes."""
    words = []
    at = 0
    while at < len(data):
        size = data[at]
        at += 1
        if size > 127:
            size += data[at] * 128 - 128
            at += 1
        words.append(data[at : at + size])
        at += size
    return words
