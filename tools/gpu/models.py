"""Hugging Face's model and ours over the same tensors, with random weights, and a prompt for both."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.positions import PositionCounter
from omni_rt.engine.qwen3_omni.random_weights import fill_randomly
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from omni_rt.engine.qwen3_omni.weights import name_in_memory

_SHARED = (
    "audio_token_id",
    "image_token_id",
    "video_token_id",
    "audio_start_token_id",
    "vision_start_token_id",
    "position_id_per_seconds",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models that share every parameter: what is written to one is read by the other."""

    spec: OmniSpec
    ours: Omni
    theirs: Any

    @property
    def device(self) -> torch.device:
        return self.ours.device

    @property
    def dtype(self) -> torch.dtype:
        return self.ours.dtype

    @property
    def language_model(self) -> Any:
        """Hugging Face's text model; transformers 5.17 has it where later releases have a wrapper."""
        return getattr(self.theirs.thinker.model, "language_model", self.theirs.thinker.model)

    @property
    def audio_tower(self) -> Any:
        return self._encoder("audio_tower")

    @property
    def visual(self) -> Any:
        return self._encoder("visual")

    def _encoder(self, name: str) -> Any:
        thinker = self.theirs.thinker
        return getattr(thinker, name) if name in dict(thinker.named_children()) else getattr(thinker.model, name)


def build(
    preset: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    layers: int | None = None,
    seed: int = 0,
    router_gain: float = 1.0,
) -> Pair:
    """Shapes of a preset, its thinker cut to `layers` layers if that is given; weights as in `random:PRESET:SEED`.

    Random routers hardly prefer one expert to the next, so rounding alone sends rows elsewhere; `router_gain` times
    their weights they are as decided as trained ones.
    """
    config = _config(preset, layers)
    spec = OmniSpec.from_config(config)
    reference: Any = Qwen3OmniMoeConfig(**copy.deepcopy(config))
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            theirs: Any = Qwen3OmniMoeForConditionalGeneration(reference)
    finally:
        torch.set_default_dtype(torch.float32)
    theirs.eval().requires_grad_(False)
    # the talker's positions read audio_config from a configuration that lacks it
    theirs.talker.config.audio_config = reference.thinker_config.audio_config
    with torch.device("meta"):
        ours = Omni(spec).eval()
    ours.load_state_dict({name_in_memory(k): v for k, v in theirs.state_dict().items()}, assign=True, strict=True)
    ours.requires_grad_(False)
    fill_randomly(ours, seed)
    for name, weight in ours.named_parameters():
        if name.endswith("mlp.gate.weight"):
            weight.mul_(router_gain)
    return Pair(spec, ours, theirs)


def _config(preset: str, layers: int | None) -> dict[str, Any]:
    folder = resources.files("omni_rt.engine.qwen3_omni") / "presets"
    config: dict[str, Any] = json.loads((folder / f"{preset}.json").read_text(encoding="utf-8"))
    thinker, talker = config["thinker_config"], config["talker_config"]
    for key in _SHARED:
        talker.setdefault(key, thinker[key])
    talker.setdefault("spatial_merge_size", thinker["vision_config"]["spatial_merge_size"])
    talker["code_predictor_config"].setdefault("num_code_groups", talker["num_code_groups"])
    if layers:
        thinker["text_config"]["num_hidden_layers"] = layers
        talker["accept_hidden_layer"] = min(talker["accept_hidden_layer"], layers - 1)
    return config


def widened(module: Any) -> Any:
    """A copy in float32."""
    return copy.deepcopy(module).float()


@contextmanager
def experts(pair: Pair, implementation: str) -> Iterator[None]:
    """Hugging Face's thinker with another of its implementations of the experts."""
    config = pair.language_model.config
    before = config._experts_implementation
    config._experts_implementation = implementation
    try:
        yield
    finally:
        config._experts_implementation = before


@contextmanager
def listening(modules: list[nn.Module], take: Any) -> Iterator[None]:
    """`take(number, output)` hears what each of the modules returns."""
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, number=number: take(number, out))
        for number, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question with a picture and sound. `mel` float32 [bands, frames], `patches` float32 [n, 1536] of the `grid`
    (rows, columns of patches); `user` are the rows that the talker hears."""

    ids: list[int]
    positions: NDArray[np.float32]
    talker_positions: NDArray[np.float32]
    user: slice
    image: slice
    audio: slice
    mel: Tensor
    patches: Tensor
    grid: tuple[int, int]

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """As Hugging Face's processor would give it."""
        ids = torch.tensor([self.ids], device=device)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "input_features": self.mel[None].to(device),
            "feature_attention_mask": torch.ones(1, self.mel.shape[1], dtype=torch.long, device=device),
            "pixel_values": self.patches.to(device),
            "image_grid_thw": torch.tensor([[1, *self.grid]], device=device),
        }


def question(pair: Pair, *, frames: int, grid: tuple[int, int], seed: int = 1) -> Prompt:
    """A system turn, and a user turn of a picture of `grid` patches, `frames` mel frames of sound and words."""
    rng, spec = np.random.default_rng(seed), pair.spec
    tokens, merge = spec.tokens, spec.vision.merge
    rows, cols = grid[0] // merge, grid[1] // merge
    sound = pair.ours.thinker.model.audio_tower.tokens(frames)
    counter, heard = (PositionCounter(spec.positions_per_second) for _ in range(2))
    ids: list[int] = []
    places: list[NDArray[np.float32]] = []
    talker: list[NDArray[np.float32]] = []

    def text(new: list[int], *, user: bool) -> None:
        ids.extend(new)
        places.append(counter.text(len(new)))
        if user:
            talker.append(heard.text(len(new)))

    def words(count: int) -> list[int]:
        return [int(word) for word in rng.integers(1000, 140_000, count)]

    text([tokens.im_start, tokens.system, tokens.newline, *words(24), tokens.im_end, tokens.newline], user=False)
    start = len(ids)
    text([tokens.im_start, tokens.user, tokens.newline, tokens.vision_start], user=True)
    image = slice(len(ids), len(ids) + rows * cols)
    ids += [tokens.image] * (rows * cols)
    places.append(counter.image(rows, cols))
    talker.append(heard.image(rows, cols))
    text([tokens.vision_end, *words(5), tokens.audio_start], user=True)
    audio = slice(len(ids), len(ids) + sound)
    ids += [tokens.audio] * sound
    places.append(counter.audio(sound))
    talker.append(heard.audio(sound))
    text([tokens.audio_end, tokens.im_end, tokens.newline], user=True)
    end = len(ids)
    text([tokens.im_start, tokens.assistant, tokens.newline], user=False)
    vision = spec.vision
    width = vision.channels * vision.temporal_patch * vision.patch**2
    return Prompt(
        ids=ids,
        positions=np.concatenate(places, axis=1),
        talker_positions=np.concatenate(talker, axis=1),
        user=slice(start, end),
        image=image,
        audio=audio,
        mel=torch.from_numpy(rng.normal(0, 0.5, (spec.audio.mel_bins, frames)).astype(np.float32)),
        patches=torch.from_numpy(rng.normal(0, 0.5, (grid[0] * grid[1], width)).astype(np.float32)),
        grid=grid,
    )
