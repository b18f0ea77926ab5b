"""Code2Wav's transformer on the kernels: a frame of each reply, whose memory is a slot of a shared state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni.code2wav import Code2Wav
from omni_rt.engine.qwen3_omni.fast_decoder import Layer, joined
from omni_rt.engine.qwen3_omni.kernels.norm import norm
from omni_rt.engine.qwen3_omni.kernels.window import attend_window


class FastWindow:
    """Shares most weights; what is added to the residual is scaled beforehand, in the weights."""

    def __init__(self, code2wav: Code2Wav) -> None:
        transformer, spec = code2wav.pre_transformer, code2wav.spec
        if spec.kv_heads != spec.heads:
            raise ValueError("Code2Wav's transformer has as many key heads as query heads")
        self._layers = []
        for each in transformer.layers:
            layer: Any = each
            attention, mlp = layer.self_attn, layer.mlp
            self._layers.append(
                Layer(
                    eps=spec.eps,
                    before=layer.input_layernorm.weight,
                    mixed=joined(attention.q_proj, attention.k_proj, attention.v_proj),
                    query_norm=layer.input_layernorm.weight,  # there are none: they are not used
                    key_norm=layer.input_layernorm.weight,
                    merge=_scaled(attention.o_proj.weight, layer.self_attn_layer_scale.scale),
                    between=layer.post_attention_layernorm.weight,
                    mixture=None,
                    gate_up=joined(mlp.gate_proj, mlp.up_proj),
                    down=_scaled(mlp.down_proj.weight, layer.mlp_layer_scale.scale),
                )
            )
        self._norm, self._eps = transformer.norm.weight, spec.eps
        exponent = torch.arange(0, spec.head_dim, 2, device=self._norm.device).float() / spec.head_dim
        self._frequencies = 1.0 / (spec.rope_theta**exponent)

    def __call__(self, rows: Tensor, keys: Tensor, values: Tensor, slots: Tensor, frames: Tensor) -> Tensor:
        """Rows [B, hidden] of one frame each -> [B, hidden]; `slots` int64 [B] are their rows of `keys` and `values`,
        as in `Code2WavState`, which move on; `frames` int64 [B] are those before."""
        x = rows.to(torch.float32, copy=True)
        for number, layer in enumerate(self._layers):
            attended = attend_window(layer.project(x), self._frequencies, slots, frames, keys, values, number)
            layer.finish(x, attended)
        return norm(x, self._norm, self._eps)[0]


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight.float() * scale.float()[:, None]).to(weight.dtype)
