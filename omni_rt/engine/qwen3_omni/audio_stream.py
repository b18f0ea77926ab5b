"""An utterance's sound in, the audio tokens it makes so far out.

Sound fills windows. A full window is encoded once; the open one again and again while it grows. Two kinds of stream:

- The encoder's own window (8 s): the result equals the offline one exactly. Mel cells are clamped relative to the
  loudest cell of the whole utterance, so when a louder one comes, windows with cells that it moves are encoded again.
  Nearly every window has cells quiet enough to be moved, so nothing is final before the end and the raw mel of the
  utterance stays in memory (51 kB a second).
- Shorter windows (1 or 2 s): clamped relative to the loudest cell up to the window's end, or of earlier utterances.
  A full window is final, and only the open one stays in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.audio_encoder import AudioEncoder
from omni_rt.engine.qwen3_omni.layers import upload
from omni_rt.engine.qwen3_omni.mel import HOP, RANGE, RATE, MelStream, checked, frames_in, normalise

_REVISED_PER_TOKEN = 8
"""Tokens of full windows that may be encoded again, for each token of sound, before the utterance ends: 8 s of sound
a second, whatever the length of the utterance."""


@dataclass(frozen=True, slots=True)
class AudioUpdate:
    """A change of an utterance's tokens: [0, keep) stay, all after them give way to `features` [k, output].

    The first `settled` tokens belong to full windows: their number stays, only a later louder sound may change their
    values; it is never below the `keep` of the same update. The first `final` tokens will never change at all.
    `encoded` counts the tokens this update computed.
    """

    keep: int
    features: Tensor
    settled: int
    final: int
    encoded: int


@dataclass(slots=True)
class _Window:
    """Raw mel of one window and how it was last encoded."""

    raw: Tensor
    frames: int = 0
    lowest: float = math.inf
    maximum: float = -math.inf
    """Loudest cell of the utterance up to this window's last frame."""
    encoded: int = 0
    """Frames the last encoding saw."""
    clamped: float = -math.inf
    """The maximum it was clamped by."""

    def stale(self, maximum: float) -> bool:
        """Whether encoding it again, clamped by `maximum`, would differ."""
        return self.encoded != self.frames or (self.clamped != maximum and self.lowest < maximum - RANGE)


class AudioStream:
    """State of one utterance over an encoder whose weights it shares.

    `window_s` is the window: the encoder's own (8) or a shorter one (1, 2). `every_ms` is the sound after which the
    open window is encoded again. `prior` is the loudest cell of earlier utterances, None if there are none; the
    encoder's own window ignores it.
    """

    def __init__(
        self, encoder: AudioEncoder, *, window_s: int = 1, every_ms: int = 1000, prior: float | None = None
    ) -> None:
        spec = encoder.spec
        self._window_frames = window_s * RATE // HOP
        if window_s < 1 or self._window_frames % spec.chunk_frames or self._window_frames > spec.window_frames:
            longest = spec.window_frames * HOP // RATE
            raise ValueError(f"an audio window has 1 to {longest} whole seconds, not {window_s}")
        self._encoder = encoder
        self._exact = self._window_frames == spec.window_frames
        self._every = max(1, every_ms * RATE // 1000 // HOP)
        self._mel = MelStream(spec.mel_bins)
        self._unfiled: list[Tensor] = []
        """Sound whose spectrogram can wait, since nothing is due before more of it has come: many small pieces cost
        far more than a large one."""
        self._waiting = 0
        """Samples of it."""
        self._maximum = -math.inf if self._exact or prior is None else prior
        self._windows = [self._fresh()]
        self._dropped = 0
        """Windows before the first of `_windows`, final and forgotten."""
        self._revised = 0
        self._open_tokens = encoder.proj2.weight.new_empty(0, spec.output)
        """Tokens of the open window as last encoded."""
        self._closed = False

    @property
    def samples(self) -> int:
        """Samples taken so far."""
        return self._mel.samples + self._waiting

    @property
    def maximum(self) -> float:
        """Loudest raw mel cell so far, `prior` included where it counts: the prior of the next utterance."""
        self._file()
        return self._maximum

    @property
    def kept_frames(self) -> int:
        """Raw mel frames in memory."""
        self._file()
        return sum(window.frames for window in self._windows)

    def tokens_for(self, samples: int) -> int:
        """Tokens of a whole utterance of so many samples: 13 a second; 0 below 201 samples (12.6 ms)."""
        return self._encoder.tokens(frames_in(samples))

    def append(self, samples: Tensor | np.ndarray) -> None:
        """Takes 16 kHz sound [n], int16 or floating point with full scale 1; computes the spectrogram at most.

        Raises EngineError `audio_invalid` or `audio_closed`, see `MelStream.push`.
        """
        if self._closed:
            raise EngineError("audio_closed", "the utterance has ended; start another for further sound")
        sound = checked(samples)
        if self._unfiled and self._unfiled[0].dtype != sound.dtype:
            self._file()
        self._unfiled.append(sound)
        self._waiting += len(sound)
        window = self._windows[-1]
        wanted = min(self._window_frames - window.frames, window.encoded + self._every - window.frames)
        if self._waiting >= max(wanted, 1) * HOP:
            self._file()

    @property
    def due(self) -> bool:
        """Whether `update` has something to do: a full window awaits it, or `every_ms` of the open one."""
        return not self._closed and (self._open_due() or self._unseen() < self._full())

    def update(self) -> AudioUpdate | None:
        """What changed, None if nothing is `due`. Raises EngineError `audio_closed`.

        The last 15-25 ms of sound await their frame.
        """
        if self._closed:
            raise EngineError("audio_closed", "the utterance has ended; its last update came from close()")
        return self._encode(self._open_due()) if self.due else None

    def close(self) -> AudioUpdate:
        """Ends the utterance: its tokens are final after this update, `tokens_for(samples)` in number.

        To end it on trial, close a `copy`. Raises EngineError `audio_closed`.
        """
        self._file()
        self._take(self._mel.close())
        self._closed = True
        update = self._encode(True)
        self._windows = []
        return update

    def copy(self) -> AudioStream:
        """A stream that goes on from here on its own; full windows are shared, the open one (0.4 MB) is copied."""
        other = object.__new__(AudioStream)
        self._file()
        other.__dict__.update(self.__dict__)
        other._unfiled = []
        other._mel = self._mel.copy()
        other._windows = [replace(window) for window in self._windows]
        if other._windows:
            other._windows[-1].raw = other._windows[-1].raw.clone()
        return other

    def _fresh(self) -> _Window:
        return _Window(torch.empty(self._encoder.spec.mel_bins, self._window_frames))

    def _file(self) -> None:
        """The spectrogram of all sound so far."""
        if self._unfiled:
            sound, self._unfiled, self._waiting = self._unfiled, [], 0
            self._take(self._mel.push(torch.cat(sound) if len(sound) > 1 else sound[0]))

    def _take(self, raw: Tensor) -> None:
        """Files raw frames [mel_bins, n] into windows."""
        while raw.shape[1]:
            window = self._windows[-1]
            if window.frames == self._window_frames:
                window = self._fresh()
                self._windows.append(window)
            part, raw = raw.tensor_split((self._window_frames - window.frames,), dim=1)
            window.raw[:, window.frames : window.frames + part.shape[1]] = part
            window.frames += part.shape[1]
            lowest, highest = part.aminmax()
            window.lowest = min(window.lowest, float(lowest))
            self._maximum = window.maximum = max(self._maximum, float(highest))

    def _clamp(self, window: _Window) -> float:
        return self._maximum if self._exact else window.maximum

    def _unseen(self) -> int:
        """Index of the first window that has frames no encoding saw; the number of windows if there is none."""
        unseen = len(self._windows)
        while unseen and self._windows[unseen - 1].encoded != self._windows[unseen - 1].frames:
            unseen -= 1
        return unseen

    def _open_due(self) -> bool:
        return self._windows[-1].frames - self._windows[-1].encoded >= self._every

    def _full(self) -> int:
        """Number of full windows; the one after them, if any, is open."""
        return len(self._windows) - (self._windows[-1].frames < self._window_frames)

    def _encode(self, due: bool) -> AudioUpdate:
        """Encodes full windows that need it, and the open one if it is `due` or tokens before its own change."""
        first, full = self._first(), self._full()
        open_window = self._windows[-1] if full < len(self._windows) and self._windows[-1].frames else None
        tokens, step = self._encoder.tokens, self._window_frames
        parts = []
        at_once = self._encoder.batch(step)
        for start in range(first, full, at_once):
            parts.append(self._encode_windows(self._windows[start : min(start + at_once, full)]))
        if open_window is not None and first <= full and (due or open_window.encoded):
            self._open_tokens = self._encode_windows([open_window])
        elif open_window is None or not open_window.encoded:
            self._open_tokens = self._open_tokens[:0]
        keep = tokens((self._dropped + min(first, full)) * step)
        features = torch.cat((*parts, self._open_tokens))
        encoded = features.shape[0] if first <= full else 0
        settled = tokens(self._mel.frames) if self._closed else tokens((self._dropped + full) * step)
        if not self._exact:
            self._dropped += full
            self._windows = self._windows[full:] or [self._fresh()]
        return AudioUpdate(keep, features, settled, 0 if self._exact and not self._closed else settled, encoded)

    def _first(self) -> int:
        """Index of the first window to encode. Seen ones that a louder cell moved count too: always at the end of the
        utterance, before it as far as `_REVISED_PER_TOKEN` allows."""
        unseen = self._unseen()
        if not self._exact:
            return unseen
        moved = next((i for i, window in enumerate(self._windows[:unseen]) if window.stale(self._maximum)), unseen)
        cost = self._encoder.tokens((unseen - moved) * self._window_frames)
        allowed = _REVISED_PER_TOKEN * self._encoder.tokens(self._mel.frames)
        if not self._closed and self._revised + cost > allowed:
            return unseen
        self._revised += cost
        return moved

    def _encode_windows(self, windows: list[_Window]) -> Tensor:
        """Windows of equal length, one after the other, to tokens [n, output]."""
        frames = windows[0].frames
        mel = torch.stack([normalise(window.raw[:, :frames], self._clamp(window)) for window in windows])
        for window in windows:
            window.encoded, window.clamped = frames, self._clamp(window)
        rows = upload(mel.numpy(), self._encoder.proj2.weight.device)
        tokens: Tensor = self._encoder(rows, pad_tail=self._mel.frames >= self._encoder.spec.chunk_frames)
        return tokens.flatten(0, 1)
