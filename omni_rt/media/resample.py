"""Changing the sample rate of mono int16 audio, by libswresample."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from omni_rt.engine.api import Pcm


class Resampler:
    """Streaming: feed chunks of any length, take what has come out so far."""

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self._rate_in = rate_in
        self._rate_out = rate_out
        self._pts = 0
        self._swr = av.AudioResampler(format="s16", layout="mono", rate=rate_out)

    def feed(self, pcm: Pcm) -> Pcm:
        """Resampled audio that is ready; a few samples stay inside."""
        if self._rate_in == self._rate_out or not len(pcm):
            return pcm
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm, np.int16)[None, :], format="s16", layout="mono")
        frame.sample_rate = self._rate_in
        frame.pts = self._pts
        frame.time_base = Fraction(1, self._rate_in)
        self._pts += len(pcm)
        return _join(self._swr.resample(frame))

    def flush(self) -> Pcm:
        """What stayed inside; the resampler is spent after this."""
        return np.zeros(0, np.int16) if self._rate_in == self._rate_out else _join(self._swr.resample(None))


def _join(frames: list[av.AudioFrame]) -> Pcm:
    if not frames:
        return np.zeros(0, np.int16)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.int16, copy=False)


def resample(pcm: Pcm, rate_in: int, rate_out: int) -> Pcm:
    """A whole clip."""
    if rate_in == rate_out or not len(pcm):
        return pcm
    resampler = Resampler(rate_in, rate_out)
    return np.concatenate([resampler.feed(pcm), resampler.flush()])
