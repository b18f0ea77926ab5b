"""Pictures and camera frames: our sizes, patches and vision encoder against Hugging Face's."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from transformers import Qwen2VLImageProcessorPil

from omni_rt.engine.api import Rgb
from omni_rt.engine.qwen3_omni.pictures import IMAGE_MIN_PIXELS, VIDEO_MIN_PIXELS, Patches, fit, patches
from omni_rt.engine.qwen3_omni.vision_encoder import VisionEncoder, VisionFeatures
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line

BOUND = 1e-5


def lines(seed: int) -> list[Line]:
    """Everything is drawn from the seed: sizes, numbers of pairs, pixels."""
    drawn = draw(seed)
    with torch.inference_mode():
        return [*_encoder(drawn), *_preprocessing(drawn)]


def ours(drawn: Draw) -> VisionEncoder:
    """Our encoder with the weights of Hugging Face's."""
    encoder = VisionEncoder(drawn.spec.vision)
    encoder.load_state_dict(_theirs(drawn).state_dict())
    return encoder.eval()


def picture(rng: np.random.Generator, height: int, width: int) -> Rgb:
    """Waves of color with some noise: smooth enough to tell resampling apart, rough enough to tell patches apart."""
    y, x = np.mgrid[:height, :width] / 40
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-4, 4, (3, 3))]
    noisy = 127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 20, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def _encoder(drawn: Draw) -> list[Line]:
    rng, spec = drawn.rng("vision"), drawn.spec.vision
    encoder = ours(drawn)
    clips: list[Patches] = []
    for most_cells in (6, 6, 40):  # the last may have more rows than there are learned positions
        size = (32 * int(rng.integers(1, most_cells + 1)), 32 * int(rng.integers(1, 5)))
        frames = [picture(rng, *size) for _ in range(int(rng.integers(1, 8)))]
        clips.append(patches(frames, size, spec))
    whole = [_hf(drawn, [clip]) for clip in clips]
    numbers = sum(features.tokens.numel() + features.deepstack.numel() for features in whole)
    note = "pairs x patches " + ", ".join(f"{clip.pairs} x {clip.grid[0]}*{clip.grid[1]}" for clip in clips)
    alone = [_one_by_one(encoder, clip) for clip in clips]
    batched = [encoder.encode(torch.from_numpy(clip.values), clip.grids) for clip in clips]
    mixed = encoder.encode(
        torch.from_numpy(np.concatenate([clip.values for clip in clips])),
        [grid for clip in clips for grid in clip.grids],
    )
    return [
        Line("vision, frame by frame = whole clip", BOUND, _error(alone, whole), numbers, note),
        Line("vision, pairs as a batch = one by one", BOUND, _error(batched, alone), numbers),
        Line("vision, mixed sizes in one call = whole clips", BOUND, _error([mixed], [_hf(drawn, clips)]), numbers),
    ]


def _preprocessing(drawn: Draw) -> list[Line]:
    rng, spec = drawn.rng("pictures"), drawn.spec.vision
    wrong, error, numbers, shapes = 0, 0.0, 0, []
    for _ in range(6):
        height, width = (int(2 ** rng.uniform(0, 9.5)) for _ in range(2))
        least = int(rng.choice([IMAGE_MIN_PIXELS, VIDEO_MIN_PIXELS]))
        most = least + int(rng.integers(0, 100)) * 1024
        if max(height, width) > 200 * min(height, width):
            continue
        frames = [picture(rng, height, width) for _ in range(spec.temporal_patch)]
        made = patches(frames, fit(height, width, least, most), spec)
        separate = [processed(drawn, frame, least, most) for frame in frames]
        wrong += sum(made.grid != grid for _, grid in separate)
        if made.grid == separate[0][1]:
            expected = of_a_pair([values for values, _ in separate], drawn)
            error = float(np.max([error, np.abs(made.values - expected).max()]))
        numbers += made.values.size
        shapes.append(f"{width}x{height}")
    note = "pictures of " + ", ".join(shapes)
    return [
        Line("picture sizes = Hugging Face's", None, float(wrong), len(shapes), note),
        Line("patches of pairs = Hugging Face's image processor", None, error, numbers),
    ]


def processed(drawn: Draw, frame: Rgb, least: int, most: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Patches and grid of one picture by Hugging Face's Pillow image processor with the released settings."""
    spec = drawn.spec.vision
    processor = Qwen2VLImageProcessorPil(
        patch_size=spec.patch,
        temporal_patch_size=spec.temporal_patch,
        merge_size=spec.merge,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": least, "longest_edge": most},
    )
    made = processor(frame, return_tensors="np", input_data_format="channels_last")
    _, rows, columns = made["image_grid_thw"][0].tolist()
    return made["pixel_values"], (rows, columns)


def of_a_pair(single: list[np.ndarray], drawn: Draw) -> np.ndarray:
    """Patches of a pair from those of its frames, each of which Hugging Face made as a picture seen twice."""
    spec = drawn.spec.vision
    shape = (-1, spec.channels, spec.temporal_patch, spec.patch**2)
    frames = [values.reshape(shape)[:, :, number] for number, values in enumerate(single)]
    return np.stack(frames, axis=2).reshape(len(single[0]), -1)


def _theirs(drawn: Draw) -> nn.Module:
    thinker = drawn.reference.thinker
    visual: nn.Module = getattr(thinker, "model", thinker).visual
    return visual


def _hf(drawn: Draw, clips: list[Patches]) -> VisionFeatures:
    values = torch.from_numpy(np.concatenate([clip.values for clip in clips]))
    seen = _theirs(drawn)(values, grid_thw=torch.tensor([[clip.pairs, *clip.grid] for clip in clips]))
    return VisionFeatures(seen.pooler_output, torch.stack(seen.deepstack_features))


def _one_by_one(encoder: VisionEncoder, clip: Patches) -> VisionFeatures:
    parts = [
        encoder.encode(torch.from_numpy(values), [clip.grid]) for values in np.split(clip.values, clip.pairs, axis=0)
    ]
    return VisionFeatures(
        torch.cat([part.tokens for part in parts]), torch.cat([part.deepstack for part in parts], dim=1)
    )


def _error(left: list[VisionFeatures], right: list[VisionFeatures]) -> float:
    errors = [
        float((a - b).abs().max()) if a.shape == b.shape else math.inf
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return float(np.max(errors))  # not a number where any of them is
