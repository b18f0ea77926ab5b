"""Random weights of real or tiny shapes: for trying, testing and timing the engine without a checkpoint."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor, nn

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from omni_rt.engine.qwen3_omni.weights import Progress, filling, scale_of

_PREFIX = "random:"
_PRESETS = resources.files("omni_rt.engine.qwen3_omni") / "presets"
_EMBEDDINGS = ("embed_tokens", "codec_embedding", "code_embedding", "pos_embed")
_HEADS = ("lm_head", "codec_head")
_RESIDUAL = ("o_proj", "out_proj", "down_proj", "fc2", "linear_fc2", "proj")


@dataclass(frozen=True, slots=True)
class RandomSource:
    """`random:PRESET[:SEED]`: the configuration of a preset, and a seed (0 if none is given)."""

    preset: str
    seed: int

    @classmethod
    def parse(cls, source: str) -> RandomSource | None:
        """None for what does not begin with `random:`. Raises EngineError `unknown_weights` for a wrong rest."""
        if not source.startswith(_PREFIX):
            return None
        preset, colon, seed = source.removeprefix(_PREFIX).partition(":")
        if preset not in presets() or (colon and not (seed.isascii() and seed.isdigit())):
            names = ", ".join(f"{_PREFIX}{name}[:SEED]" for name in presets())
            raise EngineError("unknown_weights", f"{source!r} is none of {names}, SEED being a whole number")
        return cls(preset, int(seed or 0))

    def spec(self) -> OmniSpec:
        """The shapes of the preset."""
        return OmniSpec.from_config(json.loads((_PRESETS / f"{self.preset}.json").read_text(encoding="utf-8")))


def presets() -> tuple[str, ...]:
    """Names of the shapes that random weights can have."""
    return tuple(sorted(path.name.removesuffix(".json") for path in _PRESETS.iterdir() if path.name.endswith(".json")))


def fill_randomly(model: nn.Module, seed: int, progress: Progress | None = None) -> None:
    """Draw every parameter where it lies; a parameter's values depend on its name, its shape, its dtype, the seed and
    the kind of device alone. In 8 bit those of the model's dtype are drawn and quantised."""
    held = dict(model.named_parameters())
    scales = {id(scale) for name in held if (scale := scale_of(name, held)) is not None}
    parameters = [(name, parameter) for name, parameter in held.items() if id(parameter) not in scales]
    total, done = sum(parameter.nbytes for _, parameter in parameters), 0
    first = parameters[0][1]
    generator = torch.Generator(first.device)
    depth = max(int(part) for name, _ in parameters if ".layers." in name for part in name.split(".") if part.isdigit())
    with torch.no_grad():
        for name, parameter in parameters:
            generator.manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
            with filling(parameter, scale_of(name, held), first.dtype) as weight:
                _draw(name, weight, generator, depth + 1)
            done += parameter.nbytes
            if progress is not None:
                progress(done, total)


def _draw(name: str, weight: Tensor, generator: torch.Generator, depth: int) -> None:
    """Norms 1, biases and snakes 0; the rest normal so that a layer's output is about as large as its input, and what
    is added to a residual stream `depth` layers deep leaves it about as large as it was."""
    *stem, last = name.split(".")
    if weight.dim() < 2:
        weight.fill_(0.1 if last in ("scale", "gamma") else 1.0 if last == "weight" else 0.0)
        return
    gain = 1.0
    if last in ("gate_up_proj", "down_proj"):  # stacked experts
        fan_in, kind = weight.shape[-1], last
    else:
        fan_in, kind = weight[0].numel(), next(part for part in reversed(stem) if not part.isdigit())
    if kind in _EMBEDDINGS:
        fan_in = 4
    elif kind in _HEADS:
        gain = 2.0
    elif stem[0] == "code2wav" and kind == "conv":
        gain, fan_in = _convolution(stem, weight)
    elif kind in _RESIDUAL and "patch_embed" not in stem:
        gain = 1 / math.sqrt(2 * depth)
    weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)


def _convolution(stem: list[str], weight: Tensor) -> tuple[float, int]:
    """Gain and inputs per output of a convolution of Code2Wav; the samples stay off the clamp at 1.

    `upsample.N.0.conv` and `decoder.N.block.1.conv` are transposed, [in, out, kernel]: one or two inputs meet in an
    output column.
    """
    if stem[1] == "upsample" and stem[3] == "0":
        return 1.0, weight.shape[0]
    if stem[1] == "decoder" and stem[3:5] == ["block", "1"]:
        return 0.6, 2 * weight.shape[0]
    gain = 1.0 if stem[1] == "upsample" else 0.3 if weight.shape[0] == 1 else 0.6
    return gain, weight[0].numel()
