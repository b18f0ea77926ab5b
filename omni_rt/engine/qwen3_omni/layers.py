"""The parts every decoder here is made of: norm, rotary positions, gated MLP, grouped-query attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.spec import DecoderSpec, RopeSpec


def upload(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; the host does not wait for a GPU to have received it."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def numbers(values: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers on the device, int64 [n], likewise."""
    return upload(np.asarray(values, dtype=np.int64), device)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32 and rounded once, to the weight's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x).to(self.weight.dtype)

    def wide(self, x: Tensor) -> Tensor:
        """The same before it is rounded, float32."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale)


class LayerNorm(nn.LayerNorm):
    """Computed in float32 whatever the dtype of input and weights, and rounded once, to the weights' dtype."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosine and sine of every row's rotary angles: [n, head_dim] each, in the dtype of what is rotated."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotates [..., n, heads, head_dim]; dimension i turns together with dimension i + head_dim / 2."""
        left, right = x.chunk(2, dim=-1)
        return x * self.cos[:, None] + torch.cat((-right, left), dim=-1) * self.sin[:, None]


class Rotary:
    """Rotary position embedding in one dimension, or in three (time, height, width) with interleaved frequencies.

    Of the head_dim / 2 frequencies, number i takes the height where i % 3 == 1 and the width where i % 3 == 2, for the
    first `sections[1]` and `sections[2]` such i, and the time everywhere else (Qwen3-Omni's interleaved M-RoPE).
    """

    def __init__(self, head_dim: int, rope: RopeSpec) -> None:
        # real numbers also where the module around is built on the meta device
        steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
        self._frequencies = 1.0 / rope.theta**steps
        self.axes = 3 if rope.sections else 1
        axis = np.zeros(head_dim // 2, dtype=np.int64)
        for number in range(1, self.axes):
            axis[number : 3 * rope.sections[number] : 3] = number
        self._axis = torch.from_numpy(axis)

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Of positions float32 [n] (one axis) or [3, n] (three), fractions allowed. Angles are taken in float32."""
        if self._frequencies.device != positions.device:
            self._frequencies = self._frequencies.to(positions.device)
            self._axis = self._axis.to(positions.device)
        places = positions.float().reshape(self.axes, -1).index_select(0, self._axis).T
        angles = torch.cat((places, places), dim=-1) * torch.cat((self._frequencies, self._frequencies))
        return Rotation(cos=angles.cos().to(dtype), sin=angles.sin().to(dtype))


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = linear(width, inner)
        self.up_proj = linear(width, inner)
        self.down_proj = linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.gate_proj.weight.dtype)
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Attention(nn.Module):
    """The projections around grouped-query attention, with a norm on every query and key head.

    What is attended to (a paged cache, a small static one) is the caller's: `project`, attend, `merge`.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.q_proj = linear(spec.hidden, spec.heads * spec.head_dim)
        self.k_proj = linear(spec.hidden, spec.kv_heads * spec.head_dim)
        self.v_proj = linear(spec.hidden, spec.kv_heads * spec.head_dim)
        self.o_proj = linear(spec.heads * spec.head_dim, spec.hidden)
        self.q_norm = RMSNorm(spec.head_dim, spec.eps)
        self.k_norm = RMSNorm(spec.head_dim, spec.eps)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """[..., n, hidden] -> queries [..., n, heads, head_dim], keys and values [..., n, kv_heads, head_dim]."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        queries = rotation(self.q_norm(self.q_proj(x).view(shape)))
        keys = rotation(self.k_norm(self.k_proj(x).view(shape)))
        return queries, keys, self.v_proj(x).view(shape)

    def merge(self, attended: Tensor) -> Tensor:
        """[..., n, heads, head_dim] -> [..., n, hidden]."""
        out: Tensor = self.o_proj(attended.flatten(-2))
        return out


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Grouped-query attention, scaled by head_dim ** -0.5.

    q [batch, n, heads, head_dim], k and v [batch, t, kv_heads, head_dim] -> [batch, n, heads, head_dim]. Head h reads
    key head h // (heads / kv_heads). `mask` is added to the scores and broadcasts to [batch * kv_heads, groups, n, t];
    `causal` (n == t only) lets row i see keys 0..i.
    """
    batch, rows, heads, head_dim = q.shape
    keys, kv_heads = k.shape[1], k.shape[2]
    groups = heads // kv_heads
    # groups as heads over one expanded key head: the keys of a group are never copied
    q = q.transpose(1, 2).reshape(batch * kv_heads, groups, rows, head_dim)
    k = k.transpose(1, 2).reshape(batch * kv_heads, 1, keys, head_dim).expand(-1, groups, -1, -1)
    v = v.transpose(1, 2).reshape(batch * kv_heads, 1, keys, head_dim).expand(-1, groups, -1, -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.reshape(batch, heads, rows, head_dim).transpose(1, 2)


def linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
