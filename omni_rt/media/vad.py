"""Whether somebody speaks: Silero VAD v6, left asleep through silence that WebRTC's far cheaper detector guards."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import webrtcvad

from omni_rt.core.timeline import RATE
from omni_rt.engine.api import Pcm

WINDOW = 512
WINDOW_MS = WINDOW * 1000 // RATE

_CONTEXT = 64
PEEK = _CONTEXT + WINDOW
_GATE_FRAME = RATE // 100
_GATE_MODE = 0  # the mode that misses least

_QUIET_WINDOWS = 10  # how long the gate must be shut before the model sleeps
_CALM_WINDOWS = 62  # Silero's memory settles over two seconds of non-speech; asleep earlier, it wakes a little deaf
_CALM = 0.1
_REPLAY_WINDOWS = 8  # heard again on waking: the gate may open a little late, the model needs the run-up


def _gate() -> webrtcvad.Vad:
    return webrtcvad.Vad(_GATE_MODE)


@dataclass(slots=True)
class VadState:
    """What the detector remembers of one stream; `evaluated` counts the windows Silero has looked at."""

    samples: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, _CONTEXT + WINDOW), np.float32))
    memory: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((2, 1, 128), np.float32))
    gate: webrtcvad.Vad = field(default_factory=_gate)
    quiet: int = 0
    calm: int = 0
    slept: deque[Pcm] = field(default_factory=lambda: deque(maxlen=_REPLAY_WINDOWS))
    evaluated: int = 0


class SileroVad:
    """The model, shared by all streams; thread-safe as long as each stream's state is used by one thread at a time.

    Without `gated` Silero looks at every window.
    """

    def __init__(self, model: Path, gated: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._rate = np.array(RATE, np.int64)
        self._gated = gated

    def step(self, state: VadState, window: Pcm) -> float:
        """Probability that the stream's next 512 samples (16 kHz, 32 ms) are speech; 0 while the model sleeps."""
        if self._gated:
            state.quiet = 0 if _sounds(state.gate, window) else state.quiet + 1
            if state.quiet >= _QUIET_WINDOWS and state.calm >= _CALM_WINDOWS:
                state.slept.append(window)
                return 0.0
            while state.slept:
                self._evaluate(state, state.slept.popleft())
        speech = self._evaluate(state, window)
        state.calm = state.calm + 1 if speech < _CALM else 0
        return speech

    def peek(self, state: VadState, latest: Pcm) -> float:
        """The same of the latest `PEEK` samples, of which `step` may have taken some. Nothing is remembered, and a
        model that sleeps sleeps on."""
        return self._run(state, np.multiply(latest[None], np.float32(1 / 32768), dtype=np.float32))[0]

    def _evaluate(self, state: VadState, window: Pcm) -> float:
        samples = state.samples
        samples[0, :_CONTEXT] = samples[0, WINDOW:]
        np.multiply(window, np.float32(1 / 32768), out=samples[0, _CONTEXT:])
        speech, state.memory = self._run(state, samples)
        state.evaluated += 1
        return speech

    def _run(self, state: VadState, samples: npt.NDArray[np.float32]) -> tuple[float, npt.NDArray[np.float32]]:
        speech, memory = self._session.run(None, {"input": samples, "state": state.memory, "sr": self._rate})
        return float(speech[0, 0]), memory


def _sounds(gate: webrtcvad.Vad, window: Pcm) -> bool:
    # three whole frames of 10 ms; the gate adapts to the noise, so it hears all of them whatever the first one says
    frames = window[WINDOW % _GATE_FRAME :].reshape(-1, _GATE_FRAME)
    heard = [gate.is_speech(frame.tobytes(), RATE) for frame in frames]
    return any(heard)
