"""What the fast machine takes beside weights and caches, by the shapes of a model."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import nn

from omni_rt.engine.qwen3_omni.code2wav import Code2Wav
from omni_rt.engine.qwen3_omni.code2wav_layers import Transformer
from omni_rt.engine.qwen3_omni.experts import MixtureOfExperts
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.scheduler import MOST_ROWS, TOGETHER
from omni_rt.engine.qwen3_omni.spec import DecoderSpec

# Tensors of Code2Wav's last and widest layers that live at a time.
_WIDE = 6
# The driver's kernels and graphs, and what its libraries work in; no shape says it.
_DRIVER = 500_000_000


@dataclass(frozen=True, slots=True)
class FastNeeds:
    """Bytes of: weights that are there twice or in float32, what the replies that are spoken at a time remember, the
    passes' memory, and what the driver keeps, which is an allowance."""

    copies: int
    replies: int
    passes: int
    driver: int = _DRIVER

    @property
    def bytes(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def fast_needs(model: Omni, dtype: torch.dtype, lines: int) -> FastNeeds:
    """Of a `FastMachine` for `lines` replies. `model` may be on the meta device; numbers would be of `dtype`."""
    return FastNeeds(_copies(model, dtype.itemsize), _replies(model, dtype.itemsize, lines), _passes(model, dtype))


def _copies(model: Omni, size: int) -> int:
    """Joined weights are copies of what was loaded, in whose place come those of the decoders after it."""
    decoders: list[nn.Module] = [model.thinker.model.language_model]
    if model.talker is not None:
        decoders += [model.talker.model, model.talker.code_predictor.model]
    if model.code2wav is not None:
        decoders.append(model.code2wav.pre_transformer)
    taken = free = 0
    for decoder in decoders:
        replaced = joined(decoder) * size
        made = replaced + routers(decoder) * torch.float32.itemsize
        if isinstance(decoder, Transformer):
            made += scaled(decoder) * size
        taken += max(0, made - free)
        free = max(0, free - made) + replaced
    if model.code2wav is not None:
        taken += max(0, convolutions(model.code2wav) * size - free)
    return taken


def joined(decoder: nn.Module) -> int:
    """Numbers in the weights of a decoder that the machine lays under one another."""
    return _numbers(decoder, "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def convolutions(code2wav: Code2Wav) -> int:
    """Numbers in the weights of Code2Wav that the machine has in another layout, or a few more."""
    return sum(each.numel() for part in (code2wav.upsample, code2wav.decoder) for each in part.parameters())


def scaled(window: Transformer) -> int:
    """Numbers in the weights of Code2Wav's transformer that the machine has a scaled copy of."""
    return _numbers(window, "o_proj", "down_proj")


def routers(decoder: nn.Module) -> int:
    """Numbers in the weights of a decoder's routers, which the machine also has in float32."""
    return sum(each.gate.weight.numel() for each in decoder.modules() if isinstance(each, MixtureOfExperts))


def _numbers(module: nn.Module, *names: str) -> int:
    """Those in the weights of all linear layers of these names."""
    found = (each for name, each in module.named_modules() if name.rpartition(".")[2] in names)
    return sum(each.weight.numel() for each in found if isinstance(each, nn.Linear))


def _replies(model: Omni, size: int, lines: int) -> int:
    """One more than are spoken: rows of a step that are none write there."""
    if model.talker is None or model.code2wav is None:
        return 0
    with torch.device("meta"):
        state = model.code2wav.state(1)
    sound = sum(tensor.numel() * size for tensor in (state.keys, state.values, *state.columns))
    sums = model.talker.model.spec.hidden * torch.float32.itemsize
    return (lines + 1) * (sound + state.frames.itemsize + sums + model.talker.vocab)


def _passes(model: Omni, dtype: torch.dtype) -> int:
    spec, size, wide = model.spec, dtype.itemsize, torch.float32.itemsize
    kept = (4 + len(spec.vision.deepstack)) * MOST_ROWS * spec.text.hidden * size
    choosing = TOGETHER * spec.text.vocab * (size + 2 * wide + 1)
    reading = MOST_ROWS * _row(spec.text, size)
    if model.talker is None or model.code2wav is None:
        return kept + max(choosing, reading)
    talker, sound = model.talker.model.spec, model.code2wav
    # its passes hold the rows of a pass of the thinker and the beginnings of lines
    listening = 2 * MOST_ROWS * _row(talker, size)
    width = sound.spec.decoder_dim >> len(sound.spec.upsample_rates)
    sounding = _WIDE * TOGETHER * width * sound.samples_per_frame * size
    of = model.talker.code_predictor.model.spec
    kept += 2 * TOGETHER * of.layers * of.kv_heads * model.talker.code_predictor.model.groups * of.head_dim * size
    return kept + choosing + max(reading, listening) + sounding


def _row(spec: DecoderSpec, size: int) -> int:
    """Of a row on its way through a layer: the residual, its norms, the heads, the experts that were picked."""
    wide = torch.float32.itemsize
    heads = (2 * spec.heads + 2 * spec.kv_heads) * spec.head_dim
    experts = max(1, spec.top_k) * (3 * spec.mlp * size + spec.hidden * wide)
    return spec.hidden * (2 * wide + size) + heads * (size + wide) + experts
