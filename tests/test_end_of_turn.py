from __future__ import annotations

import numpy as np
import pytest

from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.media.end_of_turn import SPAN_MS, SmartTurn, log_mel
from omni_rt.media.vad import WINDOW, SileroVad, VadState
from tests.support.speech import FOLDER, clip, clips, model, silence, with_noise

# features and scores that the model's own package computes for whole clips, and the frames kept of the features
REFERENCE = np.load(FOLDER.parent / "smart_turn_reference.npz")
KNOWN = ["beckett", "card1", "goforward", "lv_0880"]
PAUSE = 0.16


@pytest.fixture(scope="module")
def smart_turn() -> SmartTurn:
    return SmartTurn(model("smart-turn-v3.2"))


@pytest.mark.parametrize("name", KNOWN)
def test_features_are_the_models_own(name: str) -> None:
    features = log_mel(clip(name).pcm)
    assert features.shape == (80, SPAN_MS // 10)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[:, REFERENCE["frames"]], REFERENCE[name], atol=2e-5)


@pytest.mark.models
@pytest.mark.parametrize("name", KNOWN)
def test_score_is_the_models_own(smart_turn: SmartTurn, name: str) -> None:
    # int8 kernels differ between CPUs
    assert smart_turn.score(clip(name).pcm) == pytest.approx(float(REFERENCE[f"{name}_score"]), abs=0.1)


def test_only_the_last_eight_seconds_count() -> None:
    pcm = clip("beckett").pcm
    assert len(pcm) > 8 * INPUT_RATE
    np.testing.assert_array_equal(log_mel(pcm), log_mel(pcm[-8 * INPUT_RATE :]))


def test_short_audio_is_preceded_by_silence() -> None:
    pcm = clip("card1").pcm
    np.testing.assert_array_equal(log_mel(pcm), log_mel(np.concatenate([silence(3), pcm])))


@pytest.mark.models
@pytest.mark.parametrize("samples", [0, 1, 159, 400])
def test_hardly_any_audio_is_harmless(smart_turn: SmartTurn, samples: int) -> None:
    pcm = np.full(samples, 1000, np.int16)
    assert np.isfinite(log_mel(pcm)).all()
    assert 0 <= smart_turn.score(pcm) <= 1


@pytest.mark.models
def test_full_scale_audio_is_harmless(smart_turn: SmartTurn) -> None:
    pcm = np.tile(np.array([-32768, 32767], np.int16), 5 * INPUT_RATE)
    assert 0 <= smart_turn.score(pcm) <= 1


@pytest.mark.models
def test_whole_utterances_are_complete_and_cut_ones_score_lower(smart_turn: SmartTurn) -> None:
    vad = SileroVad(model("silero-vad-v6"), gated=False)
    whole, cut = [], []
    for spoken in clips():
        start, end = spoken_part(vad, spoken.pcm)
        whole.append(smart_turn.score(paused(spoken.pcm[:end])))
        cut.append(smart_turn.score(paused(spoken.pcm[: start + round(0.55 * (end - start))])))
    assert np.mean(np.array(whole) >= 0.5) >= 0.8
    assert np.mean(np.array(cut) < np.array(whole)) >= 0.8
    assert np.mean(cut) < np.mean(whole) - 0.2


def spoken_part(vad: SileroVad, pcm: Pcm) -> tuple[int, int]:
    state = VadState()
    speech = np.array([vad.step(state, window) for window in pcm[: len(pcm) // WINDOW * WINDOW].reshape(-1, WINDOW)])
    heard = np.flatnonzero(speech >= 0.35)
    return int(heard[0]) * WINDOW, int(heard[-1] + 1) * WINDOW


def paused(pcm: Pcm) -> Pcm:
    return np.concatenate([pcm, with_noise(silence(PAUSE), 8)])
