"""Time-scaling: the length changes as asked, the pitch and the loudness do not, and pieces make no difference."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from omni_rt.media.tempo import Tempo


def _tone(seconds: float, hz: float = 440.0) -> Pcm:
    t = np.arange(round(seconds * OUTPUT_RATE)) / OUTPUT_RATE
    return (8000 * np.sin(2 * np.pi * hz * t)).astype(np.int16)


def _scaled(pcm: Pcm, speed: float, piece: int) -> Pcm:
    tempo = Tempo(OUTPUT_RATE, speed)
    pieces = [tempo.feed(pcm[start : start + piece]) for start in range(0, len(pcm), piece)]
    return np.concatenate([*pieces, tempo.flush()])


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.5, 0.75, 1.2, 1.5])
def test_length_pitch_and_loudness(speed: float) -> None:
    out = _scaled(_tone(2.0), speed, 4800)
    assert len(out) / OUTPUT_RATE == pytest.approx(2.0 / speed, rel=0.03)
    middle = out[len(out) // 4 : -len(out) // 4].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * OUTPUT_RATE / len(middle) == pytest.approx(440, abs=4)
    assert np.sqrt((middle**2).mean()) == pytest.approx(8000 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("speed", [0.25, 0.75, 1.5])
def test_pieces_make_no_difference(speed: float) -> None:
    assert np.array_equal(_scaled(_tone(1.0), speed, 777), _scaled(_tone(1.0), speed, OUTPUT_RATE))


def test_what_is_held_back_is_short() -> None:
    out = Tempo(OUTPUT_RATE, 1.5).feed(_tone(1.0))
    assert len(out) / OUTPUT_RATE > 1 / 1.5 - 0.1


def test_at_speed_one_nothing_is_touched() -> None:
    pcm = _tone(0.1)
    tempo = Tempo(OUTPUT_RATE, 1.0)
    assert tempo.feed(pcm) is pcm
    assert not len(tempo.flush())


def test_nothing_in_gives_nothing_out() -> None:
    assert not len(Tempo(OUTPUT_RATE, 1.5).flush())


@pytest.mark.parametrize("speed", [0.2, 1.6, float("nan")])
def test_other_speeds_are_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"0\.25 to 1\.5"):
        Tempo(OUTPUT_RATE, speed)
