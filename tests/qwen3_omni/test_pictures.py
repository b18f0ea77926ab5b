"""Pictures: their size, their patches, what they may cost, and what is no picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omni_rt.engine.api import EngineError, Rgb
from omni_rt.engine.qwen3_omni.pictures import (
    IMAGE_MIN_PIXELS,
    VIDEO_MAX_PIXELS,
    VIDEO_MIN_PIXELS,
    PictureBudget,
    check,
    fit,
    patches,
)
from tools.exact.draw import draw
from tools.exact.vision import of_a_pair, picture, processed

DRAWN = draw(0)
SPEC = DRAWN.spec.vision


def noise(height: int, width: int, seed: int = 0) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slow_patches(frames: list[Rgb]) -> np.ndarray:
    """Number by number, from the facts of the processor, for frames whose sides are multiples of 32."""
    if len(frames) % 2:
        frames = [*frames, frames[-1]]
    height, width = frames[0].shape[:2]
    rows = []
    for first in range(0, len(frames), 2):
        for top in range(0, height, 32):
            for left in range(0, width, 32):
                for y, x in ((0, 0), (0, 16), (16, 0), (16, 16)):
                    patch = [
                        frame[top + y : top + y + 16, left + x : left + x + 16, channel].ravel()
                        for channel in range(3)
                        for frame in frames[first : first + 2]
                    ]
                    rows.append(np.concatenate(patch) / 127.5 - 1)
    return np.array(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_patches_of_a_clip_are_those_of_the_slow_way(count: int) -> None:
    frames = [noise(64, 96, seed) for seed in range(count)]
    made = patches(frames, (64, 96), SPEC)
    assert made.values.dtype == np.float32
    assert made.grid == (4, 6)
    assert made.pairs == (count + 1) // 2
    assert made.grids == ((4, 6),) * made.pairs
    assert made.token_grid == (2, 3)
    assert made.tokens == 6 * made.pairs
    np.testing.assert_allclose(made.values, slow_patches(frames), atol=1e-6, rtol=0)


def test_a_single_picture_is_the_frame_twice() -> None:
    frame = noise(50, 70)
    once, twice = patches([frame], (64, 64), SPEC), patches([frame, frame], (64, 64), SPEC)
    assert np.array_equal(once.values, twice.values)
    assert once.grids == twice.grids


@pytest.mark.parametrize("shape", [(1, 1), (480, 640), (97, 1023), (1, 200), (200, 1), (33, 31)])
def test_a_pair_is_what_the_image_processor_makes_of_its_frames(shape: tuple[int, int]) -> None:
    frames = [picture(np.random.default_rng(seed), *shape) for seed in range(2)]
    size = fit(*shape, IMAGE_MIN_PIXELS, 300 * 1024)
    made = patches(frames, size, SPEC)
    theirs = [processed(DRAWN, frame, IMAGE_MIN_PIXELS, 300 * 1024) for frame in frames]
    assert made.grid == theirs[0][1]
    assert np.array_equal(made.values, of_a_pair([values for values, _ in theirs], DRAWN))


def test_a_view_of_a_picture_is_a_picture() -> None:
    frame = noise(80, 120)
    view, copy = frame[::-1, ::2], np.ascontiguousarray(frame[::-1, ::2])
    assert np.array_equal(patches([view], (64, 64), SPEC).values, patches([copy], (64, 64), SPEC).values)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (480, 640, (480, 640)),
        (360, 640, (352, 640)),  # 11.25 cells
        (48, 80, (64, 64)),  # 1.5 and 2.5 cells: halves go to the even one
        (1, 1, (64, 64)),
        (1080, 1920, (1088, 1920)),
    ],
)
def test_sides_are_multiples_of_32(height: int, width: int, size: tuple[int, int]) -> None:
    assert fit(height, width) == size


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [(240, 320, 140), (448, 448, 196), (360, 640, 220), (480, 640, 300), (540, 960, 510), (1080, 1920, 720)],
)
def test_a_pair_costs_the_tokens_of_the_released_video_sizes(height: int, width: int, tokens: int) -> None:
    assert PictureBudget.tokens(fit(height, width, VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS)) == tokens


def refused(rgb: Any, most_pixels: int = 1_000_000) -> str:
    with pytest.raises(EngineError) as caught:
        check(rgb, most_pixels)
    return caught.value.code


def test_what_is_no_picture_is_refused_by_name() -> None:
    assert refused(None) == "picture_shape"
    assert refused(noise(4, 4).astype(np.float32)) == "picture_shape"
    assert refused(noise(4, 4)[:, :, 0]) == "picture_shape"
    assert refused(noise(4, 4)[None]) == "picture_shape"
    assert refused(np.zeros((4, 4, 4), np.uint8)) == "picture_shape"
    assert refused(noise(1, 201)) == "picture_shape"
    assert refused(noise(201, 1)) == "picture_shape"
    assert refused(np.zeros((0, 4, 3), np.uint8)) == "picture_empty"
    assert refused(np.zeros((4, 0, 3), np.uint8)) == "picture_empty"
    check(noise(1, 200))
    check(noise(1, 1))


def test_a_hundred_megapixels_are_too_many_and_the_limit_can_be_set() -> None:
    hundred = np.broadcast_to(np.zeros(3, np.uint8), (10_000, 10_000, 3))
    with pytest.raises(EngineError) as caught:
        patches([hundred], (64, 64), SPEC)
    assert caught.value.code == "picture_too_large"
    assert refused(noise(11, 10), most_pixels=109) == "picture_too_large"
    check(noise(11, 10), most_pixels=110)


def test_frames_of_one_segment_have_one_shape() -> None:
    with pytest.raises(EngineError) as caught:
        patches([noise(32, 32), noise(32, 64)], (64, 64), SPEC)
    assert caught.value.code == "picture_shape"
    with pytest.raises(EngineError) as caught:
        patches([], (64, 64), SPEC)
    assert caught.value.code == "picture_empty"


def test_a_picture_larger_than_its_budget_is_shrunk() -> None:
    budget = PictureBudget(per_picture=300, per_turn=1000)
    assert budget.size(480, 640) == (480, 640)
    size = budget.size(1080, 1920)
    assert size == (384, 736)
    assert budget.tokens(size) <= 300
    assert budget.size(64, 96) == (64, 96)


def test_what_is_left_of_a_turn_shrinks_a_picture_and_then_drops_it() -> None:
    budget = PictureBudget(per_picture=300, per_turn=1000)
    used, seen = 0, []
    while (size := budget.size(480, 640, used)) is not None:
        seen.append(budget.tokens(size))
        used += seen[-1]
    assert seen[:3] == [300, 300, 300]
    assert used <= 1000
    assert seen[3:] == [88]
    assert budget.size(64, 64, used) == (64, 64)  # small enough as it is
    assert budget.size(64, 64, 1000) is None
    assert budget.size(480, 640, used) is None


def test_the_floor_of_video_sizes_yields_to_the_budget() -> None:
    assert PictureBudget(per_picture=300).size(240, 320, 0, VIDEO_MIN_PIXELS) == (320, 448)
    assert PictureBudget(per_picture=128).size(240, 320, 0, VIDEO_MIN_PIXELS) == (256, 320)
    assert PictureBudget(per_picture=100).size(240, 320, 0, VIDEO_MIN_PIXELS) == (256, 320)


def test_the_budget_is_never_exceeded() -> None:
    rng = np.random.default_rng(5)
    for _ in range(2000):
        per_picture, per_turn, used = (int(rng.integers(1, high)) for high in (400, 2000, 2000))
        height, width = (int(2 ** rng.uniform(0, 11)) for _ in range(2))
        floor = int(rng.choice([IMAGE_MIN_PIXELS, VIDEO_MIN_PIXELS]))
        budget = PictureBudget(per_picture, per_turn)
        size = budget.size(height, width, used, floor)
        if size is not None:
            assert budget.tokens(size) <= min(per_picture, per_turn - used)
            assert min(size) >= 32
            assert size[0] % 32 == size[1] % 32 == 0
