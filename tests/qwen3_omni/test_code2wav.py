from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni.code2wav import Code2Wav, Code2WavState
from tools.exact import code2wav as exact
from tools.exact.draw import draw
from tools.exact.lines import failures


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def ours() -> Code2Wav:
    return exact.decoder(draw(0))


def codes(frames: int, rows: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(0, 2048, (rows, 16, frames), generator=torch.Generator().manual_seed(seed))


def copied(state: Code2WavState) -> list[Tensor]:
    return [state.frames.clone(), state.keys.clone(), state.values.clone(), *(each.clone() for each in state.columns)]


@pytest.mark.parametrize("seed", [0, 1])
def test_pieces_equal_the_whole(seed: int) -> None:
    assert failures(exact.lines(seed)) == []


def test_the_first_frame_is_short_and_the_flush_makes_up_for_it(ours: Code2Wav) -> None:
    state = ours.state()
    lengths = [ours.step(codes(1), state).shape[1] for _ in range(3)]
    assert [*lengths, ours.flush(state).shape[1]] == [1365, 1920, 1920, 555]


def test_nothing_said_has_no_end(ours: Code2Wav) -> None:
    assert ours.flush(ours.state(2)).shape == (2, 0)


def test_a_flush_leaves_the_reply_as_it_was(ours: Code2Wav) -> None:
    state = ours.state()
    ours.step(codes(5), state)
    before = copied(state)
    first, second = ours.flush(state), ours.flush(state)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, copied(state), strict=True))


def test_the_end_is_no_louder_than_the_speech_and_joins_it(ours: Code2Wav) -> None:
    state = ours.state()
    spoken = ours.step(codes(20), state)
    end = ours.flush(state)
    steps = spoken.diff(dim=-1).abs().max()
    assert end.abs().max() <= 1.5 * spoken.abs().max()
    assert (end[:, 0] - spoken[:, -1]).abs().max() <= steps


def test_a_reset_state_is_a_fresh_one(ours: Code2Wav) -> None:
    state = ours.state()
    ours.step(codes(80, seed=1), state)
    state.reset()
    assert torch.equal(ours.step(codes(3), state), ours.step(codes(3), ours.state()))


def test_a_fork_and_its_origin_do_not_touch_each_other(ours: Code2Wav) -> None:
    state, twin = ours.state(), ours.state()
    for each in (state, twin):
        ours.step(codes(4), each)
    fork = state.clone()
    ours.step(codes(4, seed=1), fork)
    assert torch.equal(ours.step(codes(2, seed=2), state), ours.step(codes(2, seed=2), twin))


def test_no_tensor_of_the_state_is_replaced_or_changes_shape(ours: Code2Wav) -> None:
    state = ours.state()

    def tensors() -> list[tuple[int, torch.Size]]:
        return [(t.data_ptr(), t.shape) for t in (state.frames, state.keys, state.values, *state.columns)]

    before = tensors()
    for frames in (1, 100, 1):
        ours.step(codes(frames), state)
    assert tensors() == before
    assert state.frames.tolist() == [102]


def test_rows_before_their_beginning_are_silent(ours: Code2Wav) -> None:
    old = ours.state()
    ours.step(codes(2), old)
    both = Code2WavState.stack([old, ours.state()])
    with pytest.raises(ValueError, match="some of the rows"):
        ours.step(codes(1, rows=2), both)
    out = ours.push(codes(1, rows=2), both)
    assert out.shape == (2, 1920)
    assert out[1, :555].count_nonzero() == 0
    assert out[0, :555].count_nonzero() > 500
    assert both.fresh == (False, False)


def test_only_codes_of_the_right_shape_are_taken(ours: Code2Wav) -> None:
    for wrong in (codes(0), codes(1, rows=2), codes(1)[:, :15], codes(1)[0]):
        with pytest.raises(ValueError, match=r"codes must be \[1, 16, n\]"):
            ours.step(wrong, ours.state())


def test_a_reply_far_on_sounds_like_an_early_one(ours: Code2Wav) -> None:
    """Attention sees how far apart frames are, not how far from the beginning: after 10 hours sound is as at first."""
    late, early = ours.state(), ours.state()
    for state in (late, early):
        ours.step(codes(100), state)
    late.frames += 450_000
    warm = codes(300, seed=1)
    ours.step(warm, early)
    ours.step(warm, late)
    a, b = ours.step(codes(2), early), ours.step(codes(2), late)
    assert (a - b).norm() <= 0.02 * a.norm()


def test_samples_stay_within_full_scale(ours: Code2Wav) -> None:
    loud = exact.decoder(draw(0))
    loud.decoder[-1].conv.weight.mul_(100)
    out = loud.step(codes(3), loud.state())
    assert out.abs().max() == 1


def test_bfloat16_decodes_the_same_speech_to_float32(ours: Code2Wav) -> None:
    half = exact.decoder(draw(0)).to(torch.bfloat16)
    state = half.state()
    assert state.keys.dtype == torch.bfloat16
    out = torch.cat([half.step(piece, state) for piece in codes(20).split(1, -1)], -1)
    whole = ours.step(codes(20), ours.state())
    assert out.dtype == torch.float32
    assert (out - whole).norm() <= 0.1 * whole.norm()


def test_a_look_ahead_of_a_whole_frame_is_refused(ours: Code2Wav) -> None:
    with pytest.raises(ValueError, match="longer than a frame"):
        Code2Wav(dataclasses.replace(ours.spec, upsampling_ratios=()))
