"""From RGB pictures to the vision encoder's patches: the size, the resampling, the order of the numbers.

A picture is resized (Pillow's bicubic, antialiased) so that its sides are multiples of 32 pixels and its area is
within bounds, scaled to -1..1 and cut into patches. Two frames share a patch; a single picture is the frame twice.
One token of the thinker stands for 32 x 32 pixels of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from omni_rt.engine.api import EngineError, Rgb
from omni_rt.engine.qwen3_omni.spec import VisionSpec

Floats = npt.NDArray[np.float32]

IMAGE_MIN_PIXELS = 3_136
IMAGE_MAX_PIXELS = 12_845_056
VIDEO_MIN_PIXELS = 131_072
VIDEO_MAX_PIXELS = 786_432
"""Areas the released preprocessor resizes images and video frames into, in pixels."""

MOST_PIXELS = 64_000_000
"""Area of a picture above which it is refused, in pixels."""

_LONGEST_SHAPE = 200
_CELL = 32
_LEAST_SHARE = 4


@dataclass(frozen=True, slots=True)
class Patches:
    """`values` float32 [pairs * h * w, channels * temporal_patch * patch²] of `pairs` temporal indices, each a grid of
    (h, w) patches in squares of merge x merge; every square becomes a token."""

    values: Floats
    grid: tuple[int, int]
    pairs: int
    merge: int

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """One grid per temporal index, as VisionEncoder.encode takes them."""
        return (self.grid,) * self.pairs

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of one temporal index."""
        return self.grid[0] // self.merge, self.grid[1] // self.merge

    @property
    def tokens(self) -> int:
        """Of all temporal indices together."""
        return self.pairs * math.prod(self.token_grid)


def check(rgb: Any, most_pixels: int = MOST_PIXELS) -> None:
    """Raises EngineError for what cannot be shown to the model: `picture_shape` (not a uint8 array of shape (height,
    width, 3), or a side more than 200 times the other), `picture_empty`, `picture_too_large`."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        got = f"a {rgb.dtype} array of shape {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise EngineError("picture_shape", f"a picture is a uint8 array of shape (height, width, 3), not {got}")
    height, width = rgb.shape[:2]
    if not rgb.size:
        raise EngineError("picture_empty", f"the picture has no pixels: {width} x {height}")
    if height * width > most_pixels:
        raise EngineError(
            "picture_too_large",
            f"the picture has {width} x {height} pixels, more than {most_pixels / 1e6:g} million; send a smaller one",
        )
    if max(height, width) > _LONGEST_SHAPE * min(height, width):
        raise EngineError(
            "picture_shape",
            f"one side of the picture ({width} x {height}) is more than {_LONGEST_SHAPE} times the other; crop it",
        )


def fit(
    height: int,
    width: int,
    min_pixels: int = IMAGE_MIN_PIXELS,
    max_pixels: int = IMAGE_MAX_PIXELS,
    cell: int = _CELL,
) -> tuple[int, int]:
    """Height and width a picture is resized to: multiples of `cell`, the nearest (halves to even) if their area is
    within bounds, otherwise the shape scaled to the bound and rounded towards it.

    A very long picture may stay above `max_pixels`, since no side is under `cell`. The rule is Qwen2-VL's.
    """
    high, wide = round(height / cell) * cell, round(width / cell) * cell
    if high * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return max(cell, math.floor(height / shrink / cell) * cell), max(cell, math.floor(width / shrink / cell) * cell)
    if high * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * grow / cell) * cell, math.ceil(width * grow / cell) * cell
    return high, wide


def patches(frames: Sequence[Rgb], size: tuple[int, int], spec: VisionSpec, most_pixels: int = MOST_PIXELS) -> Patches:
    """Patches of one picture, of a pair, or of a clip whose frames are all of one shape, resized to `size` (height,
    width, as `fit` gives). The last frame is repeated to make whole pairs. Raises EngineError as `check` does, and
    `picture_empty` for no frames, `picture_shape` for frames of different shapes."""
    if not frames:
        raise EngineError("picture_empty", "no frames were given")
    for frame in frames:
        check(frame, most_pixels)
        if frame.shape != frames[0].shape:
            raise EngineError(
                "picture_shape", f"frames of one segment differ in shape: {frames[0].shape} and {frame.shape}"
            )
    height, width = size
    rows, columns = height // spec.patch, width // spec.patch
    pairs = -(-len(frames) // spec.temporal_patch)
    pixels = np.stack([_resized(frame, height, width) for frame in frames])
    pixels = pixels[np.minimum(np.arange(pairs * spec.temporal_patch), len(frames) - 1)]
    cut = pixels.reshape(
        pairs,
        spec.temporal_patch,
        rows // spec.merge,
        spec.merge,
        spec.patch,
        columns // spec.merge,
        spec.merge,
        spec.patch,
        spec.channels,
    )
    # From (pair, frame, square row, row, y, square column, column, x, channel) to squares of patches, each patch in
    # the order of the convolution's weight.
    ordered = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(pairs * rows * columns, -1)
    return Patches(_levels()[ordered], (rows, columns), pairs, spec.merge)


def _resized(frame: Rgb, height: int, width: int) -> Rgb:
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def _levels() -> Floats:
    """The number for each of the 256 levels: (level / 255 - mean) / deviation with mean and deviation 0.5."""
    half = np.float32(0.5)
    return ((np.arange(256) * (1 / 255)).astype(np.float32) - half) / half


@dataclass(frozen=True, slots=True)
class PictureBudget:
    """Tokens that pictures may cost: `per_picture` (300: 640 x 480) and all of a turn together."""

    per_picture: int = 300
    per_turn: int = 6_000

    def size(
        self, height: int, width: int, used: int = 0, min_pixels: int = IMAGE_MIN_PIXELS
    ) -> tuple[int, int] | None:
        """Height and width for the next picture of a turn that has `used` tokens so far; None if it must be dropped.

        The last picture of a turn is shrunk to what is left, though not below a quarter of `per_picture`.
        """
        left = min(self.per_picture, self.per_turn - used)
        if left < 1:
            return None
        most = left * _CELL**2
        high, wide = fit(height, width, min(min_pixels, most), most)
        if high * wide > most:
            high, wide = fit(height, width, 1, most)
        shrunk = high * wide < math.prod(fit(height, width, 1, self.per_picture * _CELL**2))
        if high * wide > most or (shrunk and left * _LEAST_SHARE < self.per_picture):
            return None
        return high, wide

    @staticmethod
    def tokens(size: tuple[int, int]) -> int:
        """Tokens of one picture or pair of this height and width."""
        return size[0] * size[1] // _CELL**2
