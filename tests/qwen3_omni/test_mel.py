"""The streamed spectrogram: equal to Hugging Face's in any pieces; short and bad sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.mel import SHORTEST, MelStream, frames_in, mel_filters, normalise
from tools.exact import mel
from tools.exact.lines import failures


def whole(samples: np.ndarray | torch.Tensor) -> torch.Tensor:
    stream = MelStream()
    return torch.cat((stream.push(samples), stream.close()), dim=1)


def assert_same(streamed: torch.Tensor, other: torch.Tensor) -> None:
    """Up to rounding: what a matrix product rounds may depend on how many columns it has."""
    torch.testing.assert_close(streamed, other, rtol=0, atol=1e-5)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_lines_of_the_table_hold(seed: int) -> None:
    assert failures(mel.lines(seed)) == []


def test_every_length_of_a_short_clip_sample_by_sample() -> None:
    for samples in (*range(SHORTEST, 220), *range(315, 365), 480, 519, 520, 521):
        clip = noise(samples)
        stream = MelStream()
        raw = torch.cat([*(stream.push(clip[i : i + 1]) for i in range(samples)), stream.close()], dim=1)
        expected = mel.reference_mel(clip)
        assert raw.shape == expected.shape
        assert float((normalise(raw, float(raw.max())) - expected).abs().max()) <= 1e-5


def test_a_frame_comes_as_soon_as_its_samples_are_there() -> None:
    stream, clip = MelStream(), noise(2000)
    for sample in clip:
        stream.push(np.array([sample]))
        expected = (stream.samples - 200) // 160 + 1 if stream.samples >= SHORTEST else 0
        assert stream.frames == expected


@pytest.mark.parametrize("samples", [0, 1, 160, SHORTEST - 1])
def test_a_clip_too_short_to_reflect_has_no_frames(samples: int) -> None:
    assert whole(noise(samples)).shape == (128, 0)
    assert frames_in(samples) == 0


def test_int16_is_sound_of_full_scale_one() -> None:
    pcm = (noise(3000) * 32768).astype(np.int16)
    pcm.flags.writeable = False
    assert torch.equal(whole(pcm), whole(pcm.astype(np.float32) / 32768))


@pytest.mark.parametrize(
    "bad",
    [
        np.array([0.1, np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.array([12_000.0], np.float32),
        np.zeros((2, 100), np.float32),
        np.zeros(100, np.int32),
    ],
    ids=["nan", "infinite", "unscaled", "stereo", "int32"],
)
def test_bad_sound_is_refused_and_changes_nothing(bad: np.ndarray) -> None:
    clip, stream = noise(2000), MelStream()
    first = stream.push(clip[:700])
    with pytest.raises(EngineError) as refused:
        stream.push(bad)
    assert refused.value.code == "audio_invalid"
    assert_same(torch.cat((first, stream.push(clip[700:]), stream.close()), dim=1), whole(clip))


def test_after_the_end_nothing_is_taken() -> None:
    stream = MelStream()
    stream.close()
    for late in (stream.close, lambda: stream.push(noise(1))):
        with pytest.raises(EngineError) as refused:
            late()
        assert refused.value.code == "audio_closed"


def test_a_copy_goes_on_by_itself() -> None:
    clip, other_end, stream = noise(2000), noise(900, seed=1), MelStream()
    first = stream.push(clip[:1000])
    copy = stream.copy()
    copied = torch.cat((first, copy.push(other_end), copy.close()), dim=1)
    assert_same(copied, whole(np.concatenate((clip[:1000], other_end))))
    assert_same(torch.cat((first, stream.push(clip[1000:]), stream.close()), dim=1), whole(clip))


def test_filters_are_those_of_the_reference_extractor() -> None:
    from transformers import WhisperFeatureExtractor

    for bands in (80, 128):
        expected = torch.from_numpy(WhisperFeatureExtractor(feature_size=bands).mel_filters.T)
        assert float((mel_filters(bands) - expected).abs().max()) <= 1e-8
