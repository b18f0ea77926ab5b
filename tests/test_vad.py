from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.media.vad import WINDOW, WINDOW_MS, SileroVad, VadState
from tests.support.speech import Clip, clip, clips, model, silence, with_noise

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def gated() -> SileroVad:
    return SileroVad(model("silero-vad-v6"))


@pytest.fixture(scope="module")
def ungated() -> SileroVad:
    return SileroVad(model("silero-vad-v6"), gated=False)


def windows(pcm: Pcm) -> Iterator[Pcm]:
    return iter(pcm[: len(pcm) // WINDOW * WINDOW].reshape(-1, WINDOW))


def judge(vad: SileroVad, pcm: Pcm, state: VadState | None = None) -> np.ndarray:
    state = state or VadState()
    return np.array([vad.step(state, window) for window in windows(pcm)])


def level(pcm: Pcm) -> np.ndarray:
    return np.array([np.sqrt(np.mean(window.astype(np.float64) ** 2)) for window in windows(pcm)])


def onsets(speech: np.ndarray) -> list[int]:
    """Windows at which three in a row are speech, after at least ten that are not."""
    found: list[int] = []
    run, pause = 0, 10
    for index, is_speech in enumerate(speech >= 0.5):
        run, pause = (run + 1, pause) if is_speech else (0, pause + 1)
        if run == 3:
            if pause >= 10:
                found.append(index)
            pause = 0
    return found


def test_speech_is_heard_and_silence_is_not(ungated: SileroVad) -> None:
    hits: list[bool] = []
    for spoken in clips():
        pcm = np.concatenate([silence(2), spoken.pcm])
        speech, loud = judge(ungated, pcm), level(pcm)
        peak = np.sort(loud)[-10]
        hits.extend(speech[loud > 0.1 * peak] >= 0.5)
        assert (speech[: 2000 // WINDOW_MS - 1] < 0.1).all(), spoken.name
    assert np.mean(hits) > 0.93


@pytest.mark.parametrize("kind", ["white", "hum", "clicks", "tone", "digital silence"])
def test_noise_is_not_speech(ungated: SileroVad, gated: SileroVad, kind: str) -> None:
    t = np.arange(20 * INPUT_RATE) / INPUT_RATE
    sound = {
        "white": np.random.default_rng(3).normal(0, 1000, len(t)),
        "hum": 3000 * np.sin(2 * np.pi * 50 * t),
        "clicks": 20000.0 * (np.arange(len(t)) % (INPUT_RATE // 2) < 16),
        "tone": 3000 * np.sin(2 * np.pi * 1000 * t),
        "digital silence": np.zeros(len(t)),
    }[kind].astype(np.int16)
    for vad in (ungated, gated):
        assert np.mean(judge(vad, sound) >= 0.5) < 0.02


def test_onset_is_where_the_sound_begins(ungated: SileroVad) -> None:
    lags = []
    for spoken in clips():
        pcm = np.concatenate([silence(1.5), spoken.pcm])
        loud = level(pcm)
        first_loud = int(np.flatnonzero(loud > 0.1 * np.sort(loud)[-10])[0])
        first_speech = int(np.flatnonzero(judge(ungated, pcm) >= 0.5)[0])
        lags.append(first_speech - first_loud)
    assert abs(np.median(lags)) <= 2
    assert max(lags) <= 9, "a soft first syllable may be late, by no more than the pre-roll"


@pytest.mark.parametrize("snr", [None, 20, 5])
def test_gate_neither_misses_nor_delays_an_onset(gated: SileroVad, ungated: SileroVad, snr: int | None) -> None:
    for spoken in clips():
        pcm = in_life(spoken, snr)
        with_gate, without = onsets(judge(gated, pcm)), onsets(judge(ungated, pcm))
        assert len(with_gate) == len(without), spoken.name
        # earlier is allowed: long silence makes the model that hears all of it a little deaf
        assert all(a <= b + 1 for a, b in zip(with_gate, without, strict=True)), (spoken.name, with_gate, without)


def test_gated_speech_ends_where_ungated_speech_ends(gated: SileroVad, ungated: SileroVad) -> None:
    for spoken in clips():
        pcm = in_life(spoken, 20)
        last = [np.flatnonzero(judge(vad, pcm) >= 0.35)[-1] for vad in (gated, ungated)]
        assert abs(last[0] - last[1]) <= 1, spoken.name


def in_life(spoken: Clip, snr: int | None) -> Pcm:
    """Said twice with long pauses, in white noise that many dB below it (None: a quiet room)."""
    pcm = np.concatenate([silence(8), spoken.pcm, silence(6), spoken.pcm, silence(2)])
    loudness = np.sqrt(np.mean(spoken.pcm.astype(np.float64) ** 2))
    return with_noise(pcm, 3 if snr is None else loudness / 10 ** (snr / 20))


@pytest.mark.parametrize("room", [0, 3, 100])
def test_the_model_sleeps_in_a_quiet_room(gated: SileroVad, room: int) -> None:
    state = VadState()
    heard = judge(gated, with_noise(silence(120), room), state)
    assert (heard < 0.5).all()
    assert state.evaluated < 0.03 * len(heard)


def test_the_model_never_sleeps_while_somebody_speaks(gated: SileroVad) -> None:
    state = VadState()
    pcm = clip("lv_0870").pcm
    heard = judge(gated, pcm, state)
    assert state.evaluated == len(heard)


def test_on_waking_the_windows_slept_through_are_heard(gated: SileroVad) -> None:
    state = VadState()
    judge(gated, silence(10), state)
    before = state.evaluated
    assert before < 10_000 // WINDOW_MS
    spoken = clip("lv_0870").pcm[INPUT_RATE : INPUT_RATE + WINDOW]
    assert gated.step(state, spoken) > 0
    assert state.evaluated == before + 9


def test_streams_do_not_mix(gated: SileroVad) -> None:
    a, b = clip("lv_0920").pcm, clip("card5").pcm
    alone = judge(gated, a), judge(gated, b)
    states = VadState(), VadState()
    together: tuple[list[float], list[float]] = [], []
    for pair in zip(windows(a), windows(b), strict=False):
        for state, out, window in zip(states, together, pair, strict=True):
            out.append(gated.step(state, window))
    for mixed, single in zip(together, alone, strict=True):
        assert mixed == list(single[: len(mixed)])
