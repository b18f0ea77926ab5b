"""The layers of Code2Wav, each of which takes up where its last call ended.

Convolutions keep the input columns they look back at in a slot of the state; the slots are handed out by `Columns` when
the layers are made, and reach a layer's call in a `Decoding`. Columns before the beginning of a reply are zero there,
and stay zero through `Snake`, since snake(0) = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.spec import Code2WavSpec


@dataclass(slots=True)
class Columns:
    """Hands out the slots: (channels, columns) of each."""

    shapes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, channels: int, columns: int) -> int:
        self.shapes.append((channels, columns))
        return len(self.shapes) - 1


@dataclass(frozen=True, slots=True)
class Decoding:
    """One call's view of the state. `begun` bool [B, 1, 1] tells rows with frames from fresh ones, None if all have
    some; `closing` means that no column will come after these."""

    columns: tuple[Tensor, ...]
    begun: Tensor | None
    closing: bool = False

    def extended(self, slot: int, x: Tensor) -> Tensor:
        """`x` [B, C, n] behind the columns of the slot, which then holds the last ones."""
        past = self.columns[slot]
        joined = torch.cat([past, x], -1)
        past.copy_(joined[..., joined.shape[-1] - past.shape[-1] :])
        return joined

    def silence(self, x: Tensor, columns: int) -> Tensor:
        """Zero in the first `columns` columns of fresh rows, which lie before the beginning."""
        if self.begun is None:
            return x
        return torch.cat([x[..., :columns] * self.begun, x[..., columns:]], -1)


class Causal(nn.Module):
    """A convolution over a column and those before it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, slots: Columns, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, groups=groups)
        self._slot = slots.add(inputs, (kernel - 1) * dilation) if kernel > 1 else None

    def forward(self, x: Tensor, decoding: Decoding) -> Tensor:
        """[B, inputs, n] -> [B, outputs, n]"""
        out: Tensor = self.conv(x if self._slot is None else decoding.extended(self._slot, x))
        return out


class Transposed(nn.Module):
    """A transposed convolution of kernel 2 * rate and stride `rate`, without the `rate` columns on either side.

    A column of the input makes `rate` of the output together with the column after it, so it comes out one call late.
    """

    def __init__(self, inputs: int, outputs: int, rate: int, slots: Columns) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(inputs, outputs, 2 * rate, stride=rate, padding=rate)
        self._slot = slots.add(inputs, 1)

    def forward(self, x: Tensor, decoding: Decoding) -> Tensor:
        """[B, inputs, n] -> [B, outputs, n * rate]; closing: (n + 1) * rate, the last column's with zero after it"""
        joined = decoding.extended(self._slot, x)
        out: Tensor = self.conv(F.pad(joined, (0, 1)) if decoding.closing else joined)
        return out


class Snake(nn.Module):
    """x + sin(e^alpha x)^2 / e^beta for each channel (Ziyin et al., 2020, with an amplitude of its own).

    The sine is taken in float32: rounded to bfloat16, its argument would be wrong by up to 0.4 %.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, n] -> the same"""
        if x.is_cuda:
            from omni_rt.engine.qwen3_omni.kernels.snake import snake  # Triton comes with PyTorch for CUDA

            return snake(x, self.alpha, self.beta)
        wide = x.float()
        alpha, beta = self.alpha.float().exp()[:, None], self.beta.float().exp()[:, None]
        return (wide + (wide * alpha).sin().square() / (beta + 1e-9)).to(x.dtype)


class ConvNeXt(nn.Module):
    """Depthwise convolution, then an MLP on each column, beside the input (Liu et al., 2022)."""

    def __init__(self, channels: int, slots: Columns) -> None:
        super().__init__()
        self.dwconv = Causal(channels, channels, 7, slots, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, decoding: Decoding) -> Tensor:
        """[B, channels, n] -> the same"""
        rows: Tensor = self.norm(self.dwconv(x, decoding).transpose(1, 2))
        rows = self.gamma * self.pwconv2(F.gelu(self.pwconv1(rows)))
        return x + rows.transpose(1, 2)


class Transformer(nn.Module):
    """Causal layers over a sliding window of `spec.window` frames, the present one included."""

    def __init__(self, spec: Code2WavSpec) -> None:
        super().__init__()
        self._spec = spec
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.layers))
        self.norm = _Norm(spec.hidden, spec.eps)

    def forward(self, rows: Tensor, frames: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Rows [B, n, hidden] of n further frames after `frames` int64 [B] -> [B, n, hidden].

        `keys` and `values` [B, layers, kv heads, window - 1, head_dim] move on by n frames, in place.
        """
        count = rows.shape[1]
        past = self._spec.window - 1
        cos, sin = self._rotation(frames, count, rows.dtype)
        # key j lies at frame `frames - past + j`, query i at `frames + i`
        query = torch.arange(count, device=rows.device)[:, None]
        key = torch.arange(past + count, device=rows.device)
        near = (key >= query) & (key <= query + past)
        mask = (near & (key >= past - frames[:, None, None]))[:, None]
        for index, layer in enumerate(self.layers):
            rows = layer(rows, cos, sin, mask, keys[:, index], values[:, index])
        out: Tensor = self.norm(rows)
        return out

    def _rotation(self, frames: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, 1, count, head_dim]."""
        size = self._spec.head_dim
        device = frames.device
        exponent = torch.arange(0, size, 2, device=device).float() / size
        frequency = 1.0 / (self._spec.rope_theta**exponent)
        position = (frames[:, None] + torch.arange(count, device=device)).float()
        angle = (position[..., None] * frequency).repeat(1, 1, 2)[:, None]
        return angle.cos().to(dtype), angle.sin().to(dtype)


class _Layer(nn.Module):
    def __init__(self, spec: Code2WavSpec) -> None:
        super().__init__()
        self.self_attn = _Attention(spec)
        self.mlp = _Mlp(spec)
        self.input_layernorm = _Norm(spec.hidden, spec.eps)
        self.post_attention_layernorm = _Norm(spec.hidden, spec.eps)
        self.self_attn_layer_scale = _Scale(spec.hidden)
        self.mlp_layer_scale = _Scale(spec.hidden)

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attended = self.self_attn(self.input_layernorm(rows), cos, sin, mask, keys, values)
        rows = rows + self.self_attn_layer_scale(attended)
        out: Tensor = rows + self.mlp_layer_scale(self.mlp(self.post_attention_layernorm(rows)))
        return out


class _Attention(nn.Module):
    def __init__(self, spec: Code2WavSpec) -> None:
        super().__init__()
        self._size = spec.head_dim
        self._grouped = spec.kv_heads != spec.heads
        self.q_proj = nn.Linear(spec.hidden, spec.heads * spec.head_dim, bias=False)
        self.k_proj = nn.Linear(spec.hidden, spec.kv_heads * spec.head_dim, bias=False)
        self.v_proj = nn.Linear(spec.hidden, spec.kv_heads * spec.head_dim, bias=False)
        self.o_proj = nn.Linear(spec.heads * spec.head_dim, spec.hidden, bias=False)

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`keys` and `values` [B, kv heads, window - 1, head_dim] move on, in place."""
        query = _rotated(self._heads(self.q_proj(rows)), cos, sin)
        all_keys = torch.cat([keys, _rotated(self._heads(self.k_proj(rows)), cos, sin)], 2)
        all_values = torch.cat([values, self._heads(self.v_proj(rows))], 2)
        keys.copy_(all_keys[:, :, rows.shape[1] :])
        values.copy_(all_values[:, :, rows.shape[1] :])
        seen = F.scaled_dot_product_attention(query, all_keys, all_values, attn_mask=mask, enable_gqa=self._grouped)
        out: Tensor = self.o_proj(seen.transpose(1, 2).flatten(2))
        return out

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:-1], -1, self._size).transpose(1, 2)


class _Mlp(nn.Module):
    def __init__(self, spec: Code2WavSpec) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden, spec.mlp, bias=False)
        self.up_proj = nn.Linear(spec.hidden, spec.mlp, bias=False)
        self.down_proj = nn.Linear(spec.mlp, spec.hidden, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(rows)) * self.up_proj(rows))
        return out


class _Norm(nn.Module):
    """Root-mean-square norm, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self._eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps)
        return self.weight * wide.to(rows.dtype)


class _Scale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, rows: Tensor) -> Tensor:
        return self.scale * rows


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [B, heads, n, head_dim] that pairs index i with i + head_dim / 2 (Su et al., 2021)."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
