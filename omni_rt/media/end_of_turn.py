"""Whether a pause is the end of what somebody wanted to say: smart-turn v3.2 on Whisper's log-mel features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from omni_rt.core.timeline import RATE
from omni_rt.engine.api import Pcm

SPAN_MS = 8000

_SPAN = SPAN_MS * RATE // 1000
_FFT = 400
_HOP = 160
_MELS = 80

Mel = npt.NDArray[np.float32]


class SmartTurn:
    """The model, shared by all sessions and thread-safe."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        # a second thread gains a sixth and holds up the engine, which is at work then
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # without it, processors that lack VNNI saturate the 8-bit products: scores are then off by 0.09 on average
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def score(self, pcm: Pcm) -> float:
        """Probability, 0 to 1, that the user has finished: 16 kHz audio of the turn, its last 8 s, pause included."""
        (probability,) = self._session.run(None, {"input_features": log_mel(pcm)[None]})
        return float(probability[0, 0])


def log_mel(pcm: Pcm) -> Mel:
    """Features (80 mels, 800 frames of 10 ms) of the last 8 s of 16 kHz audio, shorter audio preceded by silence."""
    samples = np.zeros(_SPAN, np.float32)
    tail = pcm[-_SPAN:]
    samples[_SPAN - len(tail) :] = tail
    samples /= 32768
    samples -= samples.mean()
    samples /= np.sqrt(samples.var() + 1e-7)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, _FFT // 2, mode="reflect"), _FFT)[:-1:_HOP]
    spectrum = np.fft.rfft(frames * _HANN)
    power = spectrum.real**2 + spectrum.imag**2
    mel = np.log10(np.maximum(power @ _FILTERS, 1e-10)).T
    return np.ascontiguousarray((np.maximum(mel, mel.max() - 8) + 4) / 4, np.float32)


def _mel_filters() -> npt.NDArray[np.float32]:
    """Slaney's triangles of unit area, (201 bins, 80 mels): even steps up to 1 kHz, even ratios above."""
    linear_hz, linear_mels, ratio = 1000.0, 15.0, np.log(6.4) / 27
    highest = linear_mels + np.log(RATE / 2 / linear_hz) / ratio
    mels = np.linspace(0, highest, _MELS + 2)
    hz = np.where(mels < linear_mels, mels * linear_hz / linear_mels, linear_hz * np.exp((mels - linear_mels) * ratio))
    bins = np.linspace(0, RATE / 2, _FFT // 2 + 1)
    triangles = [
        np.interp(bins, (low, peak, high), (0, 2 / (high - low), 0))
        for low, peak, high in zip(hz, hz[1:], hz[2:], strict=False)
    ]
    return np.stack(triangles, axis=1).astype(np.float32)


_FILTERS = _mel_filters()
_HANN = np.hanning(_FFT + 1)[:-1].astype(np.float32)
