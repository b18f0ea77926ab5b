"""Positions are Hugging Face's, however the conversation comes in."""

import numpy as np
import pytest
import torch

from omni_rt.engine.qwen3_omni.positions import Interleave, Piece, PositionCounter
from tools.exact.draw import draw
from tools.exact.lines import failures
from tools.exact.positions import lines


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_hugging_face(seed: int) -> None:
    assert not failures(lines(seed))


def test_text_counts_on_all_axes() -> None:
    counter = PositionCounter(13)
    assert counter.next == 0
    assert counter.text(3).tolist() == [[0, 1, 2]] * 3
    assert counter.text(0).shape == (3, 0)
    assert counter.next == 3


def test_an_image_moves_on_by_its_longer_side() -> None:
    counter = PositionCounter(13)
    counter.text(5)
    assert counter.image(2, 3).tolist() == [[5] * 6, [5, 5, 5, 6, 6, 6], [5, 6, 7] * 2]
    assert counter.next == 8


def test_a_video_may_stand_between_whole_positions() -> None:
    counter = PositionCounter(13)
    counter.text(1)
    first = counter.video(1, 1, 1, 0.5)
    second = counter.video(1, 1, 1, 0.5, at=1)
    assert (first[0, 0], second[0, 0]) == (1, 7.5)
    assert counter.text(1)[0, 0] == 8.5


def test_after_audio_in_video_only_the_last_piece_counts() -> None:
    counter = PositionCounter(13)
    counter.text(2)
    counter.audio_in_video()
    counter.video(1, 9, 9, 1.0)
    counter.audio(3)
    assert counter.next == 5  # not 11, where the picture ends


def test_fractions_are_rounded_where_hugging_face_rounds_them() -> None:
    """The closing markers end just below 32, so that the text's start is rounded, and its 300 tokens are once more."""
    drawn, rng = draw(0), np.random.default_rng(0)
    tokens = drawn.spec.tokens
    opening, closing = (tokens.vision_start, tokens.audio_start), (tokens.audio_end, tokens.vision_end)
    ids = torch.tensor([[77] * 5 + [*opening, tokens.video, tokens.audio, tokens.video, *closing] + [77] * 300])
    for _ in range(60):
        seconds = rng.uniform(22, 23) / 13
        theirs, _ = drawn.reference.thinker.model.get_rope_index(
            ids,
            None,
            torch.tensor([[2, 2, 2]]),
            torch.ones_like(ids),
            True,
            torch.tensor([8]),
            torch.tensor([seconds]),
        )
        counter = PositionCounter(13)
        parts = [counter.text(7)]
        counter.audio_in_video()
        parts += [counter.video(1, 1, 1, seconds), counter.audio(1), counter.video(1, 1, 1, seconds, at=1)]
        parts += [counter.text(1), counter.text(101), counter.text(200)]
        assert np.array_equal(np.concatenate(parts, axis=1), theirs[:, 0])


def test_a_copy_goes_its_own_way() -> None:
    counter = PositionCounter(13)
    counter.text(1)
    counter.audio(4)
    twin = counter.copy()
    assert twin.audio(2).tolist() == [[5, 6]] * 3
    assert counter.next == 5
    assert np.array_equal(counter.audio(2), [[5, 6]] * 3)


def test_blocks_without_markers_between_are_refused() -> None:
    counter = PositionCounter(13)
    counter.text(1)
    counter.audio(4)
    with pytest.raises(ValueError, match="audio is open"):
        counter.video(1, 2, 2, 1.0)
    with pytest.raises(ValueError, match="marker"):
        counter.image(2, 2)
    with pytest.raises(ValueError, match="markers"):
        counter.audio_in_video()


def test_a_pair_out_of_turn_is_refused() -> None:
    counter = PositionCounter(13)
    counter.text(1)
    counter.video(2, 2, 2, 1.0)
    with pytest.raises(ValueError, match="pair 2 of this video is next, not 1"):
        counter.video(1, 2, 2, 1.0, at=1)


def test_audio_waits_for_the_pair_of_its_time() -> None:
    order = Interleave(1.0, 13)
    assert order.take(0, 5) == []
    assert order.take(1, 5) == [Piece("video", 1), Piece("audio", 5)]
    assert order.take(1, 20) == [Piece("audio", 8)]
    assert order.take(2, 20) == [Piece("video", 1), Piece("audio", 7)]
    assert order.take(4, 20) == []  # the third pair comes at token 26, and there may be audio before it
    assert order.take(4, 20, closed=True) == [Piece("video", 1), Piece("video", 1)]


def test_a_closed_segment_gives_the_rest_of_the_audio() -> None:
    order = Interleave(1.0, 13)
    order.take(1, 0)
    assert order.take(1, 40, closed=True) == [Piece("audio", 40)]
