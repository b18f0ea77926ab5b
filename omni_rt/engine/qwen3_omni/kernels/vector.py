"""Products of one row with a weight matrix, for steps of a single session: all that counts is reading the weights once.

A program reads whole rows of the weights in one go, so that everything it needs is under way before it computes. What
is in 8 bit is made wide in registers and scaled when a row has been summed up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent
from omni_rt.engine.qwen3_omni.quantised import Quantised, Weight

# Bytes of a weight tile that a program holds, and from how many numbers of a weight on it has fewer warps; tried out
# on an H100 at the shapes of the model in bfloat16, where anything from half to twice as much is within 10 %. In 8 bit
# it is the instructions that count: fewer warps, and in large weights more rows, take fewer for each number.
_TILE_BYTES = 8192
_LARGE = 10_000_000


@triton.jit
def _product(
    x, weight, scale, norm, residual, out, inner, outer, eps,
    ROWS: tl.constexpr, COLS: tl.constexpr, NORM: tl.constexpr, PAIR: tl.constexpr,
    RESIDUAL: tl.constexpr, SCALED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    if SCALED:
        cols = tl.max_contiguous(cols, 8)
    inside = cols < inner
    mask = (rows < outer)[:, None] & inside[None, :]
    at = rows.to(tl.int64)[:, None] * inner + cols[None, :]
    tile = tl.load(weight + at, mask=mask, other=0.0)
    if PAIR:
        second = tl.load(weight + at + outer.to(tl.int64) * inner, mask=mask, other=0.0)
    if NORM:
        factor = tl.load(norm + cols, mask=inside, other=0.0).to(tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    row = tl.load(x + cols, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        before = tl.load(residual + rows, mask=rows < outer, other=0.0)
    if NORM:
        row = row * tl.rsqrt(tl.sum(row * row, 0) / inner + eps)
        row = row * factor
        row = row.to(norm.dtype.element_ty).to(tl.float32)
    made = tl.sum(tile.to(tl.float32) * row[None, :], 1)
    if SCALED:
        made *= tl.load(scale + rows, mask=rows < outer, other=0.0)
    if PAIR:
        up = tl.sum(second.to(tl.float32) * row[None, :], 1)
        if SCALED:
            up *= tl.load(scale + outer + rows, mask=rows < outer, other=0.0)
        made = made * tl.sigmoid(made) * up
    if RESIDUAL:
        made += before
    tl.store(out + rows, made.to(out.dtype.element_ty), mask=rows < outer)


def values_and_scale(weight: Weight) -> tuple[Tensor, Tensor, bool]:
    """What a kernel is given of a weight: what it reads, the scales (anything where there are none), if there are."""
    if isinstance(weight, Quantised):
        return weight.values, weight.scale, True
    return weight, weight, False


def product(
    x: Tensor,
    weight: Weight,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    pair: bool = False,
    out: Tensor,
) -> Tensor:
    """`weight` [outer, inner] times the row `x` [1, inner] into `out` [1, outer].

    `norm` [inner]: the row is root-mean-square normed first, in float32, and rounded to the norm's dtype; without, it
    is rounded already. `residual` float32 [1, outer] is added; it may be `out`. `pair`: the
    first half of the weight's rows are a gate and the second what it gates, silu(gate) * up.
    """
    outer, inner = weight.shape
    outer //= 1 + pair
    values, scale, scaled = values_and_scale(weight)
    cols = triton.next_power_of_2(inner)
    large = values.numel() >= _LARGE
    rows = max(2, _TILE_BYTES * (1 + (scaled and large)) // values.itemsize // cols // (1 + pair))
    _product[(triton.cdiv(outer, rows),)](
        x, values, scale, x if norm is None else norm, out if residual is None else residual, out, inner, outer, eps,
        ROWS=rows, COLS=cols, NORM=norm is not None, PAIR=pair, RESIDUAL=residual is not None, SCALED=scaled,
        num_warps=4 if pair or large or scaled else 8, **dependent(x),
    )  # fmt: skip
    return out


def empty(like: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """A row for the result of a product."""
    return torch.empty(like.shape[0], width, device=like.device, dtype=dtype or like.dtype)
