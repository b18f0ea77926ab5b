"""A small Qwen3-Omni drawn from a seed: its configuration and Hugging Face's model of it with lively random weights."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

from omni_rt.engine.qwen3_omni.spec import OmniSpec

_IDS = {
    "audio_token_id": 151675,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "audio_start_token_id": 151669,
    "vision_start_token_id": 151652,
    "position_id_per_seconds": 13,
}


@dataclass(frozen=True)
class Draw:
    """Everything a check needs of one seed; two draws of a seed are equal."""

    seed: int
    config: Qwen3OmniMoeConfig
    spec: OmniSpec

    def rng(self, name: str) -> np.random.Generator:
        """A generator of its own for each name, so that one check's draws do not move another's."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    @cached_property
    def reference(self) -> Qwen3OmniMoeForConditionalGeneration:
        """Hugging Face's model, float32 on the CPU, for inference. Shared: whoever changes a weight changes it back."""
        return _reference(self.config, self.seed)


@lru_cache(maxsize=2)
def draw(seed: int) -> Draw:
    """The model of a seed; vocabularies, windows, code groups and upsampling are as released, the rest is drawn."""
    rng = np.random.default_rng([seed, 3])
    config = _config(rng)
    return Draw(seed=seed, config=config, spec=OmniSpec.from_config(config.to_dict()))


def _config(rng: np.random.Generator) -> Qwen3OmniMoeConfig:
    hidden, talker_hidden = _width(rng), _width(rng)
    layers = _between(rng, 3, 5)
    depth = _between(rng, 3, 4)
    text = _decoder(rng, hidden=hidden, layers=layers, vocab=152064, context=65536) | _experts(rng)
    talker = _decoder(rng, hidden=talker_hidden, layers=_between(rng, 2, 4), vocab=3072, context=65536)
    talker |= _experts(rng) | {
        "intermediate_size": _width(rng),
        "shared_expert_intermediate_size": 8 * _between(rng, 3, 8),
    }
    predictor = _decoder(rng, hidden=talker_hidden, layers=_between(rng, 1, 3), vocab=2048, context=64, sections=False)
    predictor |= {"intermediate_size": _width(rng), "num_code_groups": 16}
    return Qwen3OmniMoeConfig(
        thinker_config={
            "text_config": text,
            "audio_config": _audio(rng, hidden),
            "vision_config": _vision(rng, hidden, depth),
            "user_token_id": 872,
            "audio_end_token_id": 151670,
            "vision_end_token_id": 151653,
            **_IDS,
        },
        talker_config={
            "text_config": talker,
            "code_predictor_config": predictor,
            "num_code_groups": 16,
            "thinker_hidden_size": hidden,
            # not the last: Hugging Face would give that one after the final norm
            "accept_hidden_layer": _between(rng, 1, layers - 1),
            "codec_eos_token_id": 2150,
            "codec_nothink_id": 2155,
            "codec_think_bos_id": 2156,
            "codec_think_eos_id": 2157,
            "codec_pad_id": 2148,
            "codec_bos_id": 2149,
            "spatial_merge_size": 2,
            "speaker_id": {"chelsie": 2301, "ethan": 2302, "aiden": 2303},
            **_IDS,
        },
        code2wav_config=_code2wav(rng),
        enable_audio_output=True,
    )


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(rng.integers(low, high + 1))


def _width(rng: np.random.Generator) -> int:
    return 16 * _between(rng, 3, 6)


def _theta(rng: np.random.Generator) -> float:
    return float(10 ** _between(rng, 4, 6))


def _decoder(
    rng: np.random.Generator, *, hidden: int, layers: int, vocab: int, context: int, sections: bool = True
) -> dict[str, Any]:
    head_dim = 2 * _between(rng, 6, 12)
    kv_heads = _between(rng, 1, 2)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _theta(rng)}
    if sections:
        # height and width take every third frequency, so each may have at most a third of them
        side = _between(rng, 1, head_dim // 6)
        rope |= {"interleaved": True, "mrope_section": [head_dim // 2 - 2 * side, side, side]}
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": kv_heads * _between(rng, 1, 3),
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": float(rng.choice([1e-6, 1e-5])),
        "max_position_embeddings": context,
        "rope_parameters": rope,
    }


def _experts(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "num_experts": _between(rng, 4, 12),
        "num_experts_per_tok": _between(rng, 2, 3),
        "moe_intermediate_size": 8 * _between(rng, 2, 6),
        "norm_topk_prob": True,
    }


def _audio(rng: np.random.Generator, output: int) -> dict[str, Any]:
    heads = _between(rng, 2, 4)
    return {
        "d_model": heads * 2 * _between(rng, 4, 8),
        "encoder_layers": _between(rng, 1, 3),
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": _width(rng),
        "downsample_hidden_size": 4 * _between(rng, 2, 5),
        "output_dim": output,
        "num_mel_bins": 128,
        "max_source_positions": 1500,
        "n_window": 50,
        "n_window_infer": 800,
    }


def _vision(rng: np.random.Generator, output: int, depth: int) -> dict[str, Any]:
    heads = _between(rng, 2, 4)
    return {
        "depth": depth,
        "hidden_size": heads * 4 * _between(rng, 2, 4),
        "num_heads": heads,
        "intermediate_size": _width(rng),
        "out_hidden_size": output,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": _between(rng, 12, 48) ** 2,
        "deepstack_visual_indexes": sorted(int(i) for i in rng.choice(depth, 3, replace=False)),
    }


def _code2wav(rng: np.random.Generator) -> dict[str, Any]:
    kv_heads = _between(rng, 1, 2)
    heads = kv_heads * _between(rng, 1, 2)
    return {
        "hidden_size": heads * 4 * _between(rng, 4, 8),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": _width(rng),
        "num_hidden_layers": _between(rng, 1, 4),
        "sliding_window": 72,
        "rms_norm_eps": 1e-5,
        "decoder_dim": 16 * _between(rng, 2, 5),
        "codebook_size": 2048,
        "num_quantizers": 16,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "rope_parameters": {"rope_type": "default", "rope_theta": _theta(rng)},
    }


def _reference(config: Qwen3OmniMoeConfig, seed: int) -> Qwen3OmniMoeForConditionalGeneration:
    model = Qwen3OmniMoeForConditionalGeneration(config)
    model.train(False).requires_grad_(False)
    # transformers 5.23: the talker's get_rope_index reads audio_config of a configuration that lacks it
    model.talker.config.audio_config = cast(Any, config.thinker_config).audio_config
    generator = torch.Generator().manual_seed(seed)
    for place, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            weight.normal_(0.0, _spread(place, module, weight), generator=generator)
            if name in ("scale", "gamma"):
                weight.add_(0.5)
            elif name == "weight" and weight.dim() == 1:  # a norm
                weight.add_(1.0)
    return model


def _spread(place: str, module: nn.Module, weight: torch.Tensor) -> float:
    """A standard deviation that keeps activations near 1 and still tells each norm and bias from its neighbours."""
    if weight.dim() == 1:
        return 0.1 if weight.numel() > 1 else 0.01
    fan_in = weight[0].numel() if weight.dim() != 3 or isinstance(module, nn.Conv1d) else weight.shape[-1]
    if isinstance(module, nn.Embedding):
        fan_in = 4
    elif isinstance(module, nn.ConvTranspose1d):
        fan_in = weight.shape[0] * module.kernel_size[0] // module.stride[0]
    gain = 1.0
    if (place.endswith("lm_head") and place.startswith("thinker")) or place.endswith("codec_head"):
        gain = 2.0
    elif place.startswith("code2wav.decoder."):
        gain = 0.6 if weight.shape[0] > 1 else 0.3  # the samples stay below the clamp at 1
    return float(gain * fan_in**-0.5)
