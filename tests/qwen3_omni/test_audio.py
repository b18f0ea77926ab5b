"""Audio tokens while the sound comes: equal to Hugging Face's, bounded in memory and cost, kept apart by copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.audio_encoder import AudioEncoder
from omni_rt.engine.qwen3_omni.audio_stream import AudioStream
from tools.exact import audio
from tools.exact.audio import Replay
from tools.exact.draw import draw
from tools.exact.lines import failures

SPEC = replace(draw(0).spec.audio, d_model=8, layers=1, heads=1, ffn=8, conv_channels=2, output=4)
SECOND = 16_000


@pytest.fixture(autouse=True)
def _inference() -> object:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def tiny() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(SPEC).requires_grad_(False)


def noise(samples: int, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).uniform(-1, 1, samples)).astype(np.float32)


def replayed(stream: AudioStream, clip: np.ndarray, step: int = SECOND // 4) -> Replay:
    heard = Replay()
    for start in range(0, len(clip), step):
        stream.append(clip[start : start + step])
        heard.take(stream.update())
    heard.take(stream.close())
    return heard


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_lines_of_the_table_hold(seed: int) -> None:
    assert failures(audio.lines(seed)) == []


@pytest.mark.parametrize("samples", [0, 1, 200])
def test_sound_too_short_for_a_frame_has_no_tokens(tiny: AudioEncoder, samples: int) -> None:
    for window_s in (1, 2, 8):
        stream = AudioStream(tiny, window_s=window_s)
        stream.append(noise(samples))
        assert stream.update() is None
        update = stream.close()
        assert (update.keep, update.features.shape, update.final) == (0, (0, 4), 0)
        assert stream.tokens_for(samples) == 0


def test_a_late_loud_sound_changes_quiet_windows(tiny: AudioEncoder) -> None:
    stream = AudioStream(tiny, window_s=8)
    # the first window has cells far below those of the second, which has its last frame 200 samples later
    stream.append(np.concatenate((noise(8 * SECOND, 1e-4), noise(8 * SECOND + 200, 0.1))))
    first = stream.update()
    assert first is not None
    assert (first.keep, first.settled, first.final) == (0, 208, 0)
    stream.append(noise(SECOND, 0.01))
    grown = stream.update()
    assert grown is not None
    assert grown.keep == 208
    stream.append(noise(SECOND, 1.0))
    risen = stream.update()
    assert risen is not None
    assert risen.keep == 0
    assert not torch.allclose(risen.features[:104], first.features[:104], atol=1e-3)


def test_revisions_before_the_end_are_bounded(tiny: AudioEncoder) -> None:
    seconds = 120
    levels = np.repeat(10 ** np.linspace(-4, 0, seconds), SECOND).astype(np.float32)
    heard = replayed(AudioStream(tiny, window_s=8), noise(seconds * SECOND, 1.0) * levels, step=SECOND)
    # the open window, at most 8 s of revisions for each second, and the whole once more at the end
    assert heard.encoded <= seconds * (104 + 8 * 13) + seconds * 13
    assert heard.encoded > seconds * 104 // 2


def test_the_open_second_is_all_that_is_left_at_the_end(tiny: AudioEncoder) -> None:
    stream = AudioStream(tiny, window_s=1)
    clip = noise(5 * SECOND + 9000)
    for start in range(0, len(clip), 320):
        stream.append(clip[start : start + 320])
        stream.update()
    last = stream.close()
    assert last.encoded == len(last.features) == stream.tokens_for(len(clip)) - 65
    assert last.final == last.settled == stream.tokens_for(len(clip))


def test_update_waits_for_its_time(tiny: AudioEncoder) -> None:
    stream = AudioStream(tiny, window_s=8, every_ms=500)
    stream.append(noise(SECOND // 2))
    assert not stream.due
    assert stream.update() is None
    stream.append(noise(200))
    assert stream.due
    update = stream.update()
    assert update is not None
    assert len(update.features) == 7
    assert stream.update() is None


def test_nothing_is_encoded_twice_when_nothing_came(tiny: AudioEncoder) -> None:
    stream = AudioStream(tiny, window_s=8, every_ms=100)
    stream.append(noise(SECOND + 100))
    update = stream.update()
    assert update is not None
    last = stream.close()
    assert (last.encoded, last.final) == (0, 13)
    assert torch.equal(last.features, update.features)


@pytest.mark.parametrize("window_s", [1, 8])
def test_a_copy_that_ends_leaves_the_stream_as_it_was(tiny: AudioEncoder, window_s: int) -> None:
    clip = noise(11 * SECOND + 777)
    alone = replayed(AudioStream(tiny, window_s=window_s), clip).tokens
    stream, heard = AudioStream(tiny, window_s=window_s), Replay()
    for start in range(0, len(clip), SECOND // 4):
        stream.append(clip[start : start + SECOND // 4])
        copy = stream.copy()
        copy.append(noise(3000, 1.0, seed=start))
        copy.close()
        heard.take(stream.update())
    heard.take(stream.close())
    assert alone is not None
    assert heard.tokens is not None
    assert torch.allclose(heard.tokens, alone, atol=1e-6)


@pytest.mark.parametrize("window_s", [1, 8])
def test_half_an_hour(tiny: AudioEncoder, window_s: int) -> None:
    stream = AudioStream(tiny, window_s=window_s, every_ms=8000 if window_s == 8 else 1000)
    block = noise(10 * SECOND)
    tokens, kept, encoded = 0, 0, []
    for _ in range(180):
        stream.append(block)
        kept = max(kept, stream.kept_frames)
        update = stream.update()
        assert update is not None
        tokens = update.keep + len(update.features)
        encoded.append(update.encoded)
    last = stream.close()
    assert last.final == last.keep + len(last.features) == stream.tokens_for(1800 * SECOND) == 23_400
    assert tokens >= 23_400 - 104
    # what one block of 10 s leaves unencoded, and the whole where a later sound may change it
    assert kept <= (1100 if window_s == 1 else 180_000)
    assert max(encoded[20:]) <= 2 * 130


def test_after_the_end_nothing_is_taken(tiny: AudioEncoder) -> None:
    stream = AudioStream(tiny)
    stream.close()
    assert not stream.due
    for late in (stream.close, stream.update, lambda: stream.append(noise(1))):
        with pytest.raises(EngineError) as refused:
            late()
        assert refused.value.code == "audio_closed"


def test_the_loudest_cell_is_the_next_utterances_prior(tiny: AudioEncoder) -> None:
    loud = AudioStream(tiny)
    loud.append(noise(SECOND, 1.0))
    quiet = noise(SECOND, 1e-4)
    after, alone = AudioStream(tiny, prior=loud.maximum), AudioStream(tiny)
    for stream in (after, alone):
        stream.append(quiet)
    assert after.maximum == loud.maximum > alone.maximum
    assert not torch.allclose(after.close().features, alone.close().features, atol=1e-3)


@pytest.mark.parametrize("window_s", [0, -1, 9])
def test_a_window_the_encoder_does_not_have_is_refused(tiny: AudioEncoder, window_s: int) -> None:
    with pytest.raises(ValueError, match="1 to 8 whole seconds"):
        AudioStream(tiny, window_s=window_s)


def test_windows_of_a_batch_are_apart(tiny: AudioEncoder) -> None:
    mel = torch.randn(3, 128, 200)
    together = tiny(mel)
    assert together.shape == (3, 26, 4)
    for window, tokens in zip(mel, together, strict=True):
        assert torch.allclose(tiny.encode_window(window, pad_tail=True), tokens, atol=1e-6)


def test_an_encoder_built_without_storage_knows_its_positions() -> None:
    expected = AudioEncoder(SPEC)
    with torch.device("meta"):
        built = AudioEncoder(SPEC)
    built.to_empty(device="cpu").load_state_dict(expected.state_dict())
    mel = torch.randn(1, 128, 150)
    assert torch.equal(built(mel), expected(mel))
