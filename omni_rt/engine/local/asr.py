"""Speech to text: Moonshine tiny (English), run on onnxruntime from its two graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import webrtcvad

from omni_rt.core.overheard import classify
from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm
from omni_rt.engine.local.spotting import Spotted, Spotter, Tokens

Samples = npt.NDArray[np.float32]

_START, _END = 1, 2
_FIRST_WORD = 3  # the tokens before it are marks
_TOKENS_PER_S = 6.5
_LOOP = 4  # so many repetitions of a phrase are a loop
_LONGEST_PHRASE = 8

# Below it the model guesses; speech with as much noise as voice stays above.
_SURE = -0.9
# A crowd in the background stays below this; one voice, cut anywhere, above. Words that stand apart from murmurs (see
# spotting.py) are a voice's down to the other.
_SURE_OF_CLIP, _SURE_APART = -0.7, -1.0
# Silence around a clip. With less of it a short word is heard several times over, or not at all; with more, noise
# becomes words. What asks for quiet is looked for with more of it, too.
_AROUND_CLIP, _MORE_AROUND = INPUT_RATE * 3 // 20, INPUT_RATE // 4
# In a clip that is not longer, of whose words the model is less sure than that, or that are so few, what is often said
# over a reply is looked for.
_SPOTTED, _DOUBTLESS, _FEW_WORDS = INPUT_RATE * 7 // 4, -0.5, 4
# What the model makes of noise. Nobody says just this.
_FROM_NOISE = frozenset(("you", "♪", "thank you for watching", "© transcript emily beynon"))

_VAD_FRAME = INPUT_RATE // 50
_VAD_MODE = 3
# Mode 3 calls any click speech for 80 ms.
_SPEECH_FRAMES = 6
_SPEECH_PEAK = 0.5
_MOST_GAIN = 30.0


@dataclass(frozen=True, slots=True)
class Recognised:
    """The words, and the tokens that the model wrote, whether or not they count as words."""

    text: str
    tokens: tuple[int, ...]


class Recogniser:
    """The loaded model. Its methods may be called from several threads at once."""

    def __init__(self, encoder: Path, decoder: Path, tokenizer: Path, threads: int) -> None:
        """Raises EngineError when a file is not what it should be."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._encoder = onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
            self._decoder = onnxruntime.InferenceSession(decoder, options, providers=["CPUExecutionProvider"])
            self._words = _read_words(tokenizer.read_bytes())
            self._spotter = Spotter(self._words)
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
        return self.recognise(pcm).text

    def recognise(self, pcm: Pcm, draft: Sequence[int] = ()) -> Recognised:
        """The same, sooner the more of `draft`, the tokens of an earlier result, are in this one too: they are read in
        one step, and hold as far as the model would have written them."""
        samples = _samples(pcm)
        if not has_speech(samples):
            return Recognised("", ())
        written = self._write(self._listen(samples), draft)
        return Recognised(self._believed(written, _SURE), tuple(written.tokens))

    def overhear(self, pcm: Pcm, *, spotting: bool = True) -> str:
        """The words of a clip of at most some seconds, or (`spotting`) what is often said over a reply and sounds like
        them; empty if there are none, or a crowd's."""
        samples = _samples(pcm)
        if not has_speech(samples):
            return ""
        sound = self._listen(np.pad(samples, _AROUND_CLIP))
        written = self._write(sound)
        text = self._believed(written, _SURE_OF_CLIP)
        if not spotting or len(samples) > _SPOTTED:
            return text
        text = self._spotted(text, sound, written)
        # a murmur too, however sure: whoever is not obeyed is worse off than whoever is obeyed for nothing
        if classify(text, "en") not in ("nothing", "backchannel"):
            return text
        sound = self._listen(np.pad(samples, _MORE_AROUND))
        return self._spot(sound, self._write(sound)).phrase or text

    def _spotted(self, text: str, sound: _Sound, written: _Written) -> str:
        few = classify(text, "en") == "words" and len(text.split()) <= _FEW_WORDS
        doubtful = written.sure < _DOUBTLESS
        if not (few or doubtful):
            return text
        found = self._spot(sound, written)
        if few and found.murmur:
            return found.murmur
        if found.phrase and doubtful:
            return found.phrase
        return text or (self._believed(written, _SURE_APART) if found.apart else "")

    def _spot(self, sound: _Sound, written: _Written) -> Spotted:
        if not written.whole:
            return Spotted()
        return self._spotter.spot(written.first, sum(written.sureness), lambda each: self._likelihoods(sound, each))

    def warm_up(self) -> None:
        self._write(self._listen(np.zeros(INPUT_RATE, np.float32)))

    def _believed(self, written: _Written, least: float) -> str:
        spelled = b"".join(self._words[token] for token in written.tokens if token >= _FIRST_WORD)
        text = spelled.decode(errors="replace").replace("▁", " ").replace('"', "").strip(" '")
        letters = [character for character in text if character.isalpha()]
        foreign = sum(not character.isascii() and character > "ɏ" for character in letters)
        if written.sure < least or 2 * foreign > len(letters) or text.strip(" .!?").lower() in _FROM_NOISE:
            return ""
        return text if any(character.isalnum() for character in text) else ""

    def _listen(self, samples: Samples) -> _Sound:
        encoded = self._encoder.run(
            None, {"input_values": samples[None], "attention_mask": np.ones((1, len(samples)), np.int64)}
        )[0]
        return _Sound(len(samples), encoded)

    def _write(self, sound: _Sound, draft: Sequence[int] = ()) -> _Written:
        """The likeliest tokens, one after the other."""
        feeds = self._feeds(sound, [[_START, *draft]])
        wanted = self._present
        written = _Written(int(sound.length / INPUT_RATE * _TOKENS_PER_S) + 4)
        while True:
            logits, *caches = self._decoder.run(wanted, feeds)
            taken = written.take(logits[0], draft)
            if written.ended:
                return written
            for name, cache in zip(wanted[1:], caches, strict=True):
                if draft and ".encoder." not in name:
                    cache = np.ascontiguousarray(cache[:, :, : 1 + taken])
                feeds[name.replace("present", "past_key_values")] = cache
            draft = ()
            feeds["input_ids"] = np.array([[written.tokens[-1]]])
            feeds["use_cache_branch"] = np.array([True])
            wanted = self._grown

    def _likelihoods(self, sound: _Sound, phrases: Sequence[Tokens]) -> list[float]:
        """The log-probability of each phrase to be written of a sound, with the mark of its end."""
        ended = [[*tokens, _END] for tokens in phrases]
        longest = max(map(len, ended))
        read = [[_START, *tokens[:-1], *[_END] * (longest - len(tokens))] for tokens in ended]
        logits = self._decoder.run(self._present[:1], self._feeds(sound, read))[0]
        return [
            sum(float(_log_probabilities(row)[token]) for row, token in zip(rows, tokens, strict=False))
            for rows, tokens in zip(logits, ended, strict=True)
        ]

    def _feeds(self, sound: _Sound, tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
        count = len(tokens)
        return {
            **{name: np.repeat(empty, count, axis=0) for name, empty in self._empty.items()},
            # despite its name this mask counts samples; it is strided down inside the graph
            "encoder_attention_mask": np.ones((count, sound.length), np.int64),
            "encoder_hidden_states": np.repeat(sound.encoded, count, axis=0),
            "input_ids": np.array(tokens),
            "use_cache_branch": np.array([False]),
        }


@dataclass(frozen=True, slots=True)
class _Sound:
    """So many samples as the encoder heard them."""

    length: int
    encoded: Samples


class _Written:
    """What a decoder has written, at most `most` tokens with the mark of its end; `first` are the log-probabilities
    of what it begins with, `sureness` those of what was written."""

    first: Samples

    def __init__(self, most: int) -> None:
        self.tokens: list[int] = []
        self.sureness: list[float] = []
        self.ended = False
        self._most = most

    @property
    def whole(self) -> bool:
        """It ended by itself, not as a loop or for its length."""
        return len(self.sureness) == len(self.tokens) + 1

    @property
    def sure(self) -> float:
        """Mean log-probability of a token."""
        return float(np.mean(self.sureness))

    def take(self, logits: Samples, draft: Sequence[int]) -> int:
        """Write what follows each of the tokens read, the last one and those of `draft` (logits: tokens x vocabulary);
        how many of `draft` were what would have been written."""
        index = 0
        if not self.sureness:
            self.first = _log_probabilities(logits[0])
        for index, row in enumerate(logits):
            token = int(row.argmax())
            self.sureness.append(float(_log_probabilities(row)[token]))
            self.ended = token == _END
            if not self.ended:
                self.tokens.append(token)
                if loop := _loop(self.tokens):
                    del self.tokens[-loop * (_LOOP - 1) :]
                    self.ended = True
            self.ended = self.ended or len(self.sureness) >= self._most
            if self.ended or index == len(draft) or draft[index] != token:
                break
        return index


def _log_probabilities(logits: Samples) -> Samples:
    top = logits.max()
    return np.asarray(logits - top - np.log(np.exp(logits - top).sum()), np.float32)


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
