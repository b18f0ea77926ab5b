"""Between the query, key and value projections and the attention: norm of the heads, rotation, writing to the cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent


@triton.jit(do_not_specialize=["rows"])
def _angles(positions, frequencies, axis, cos, sin, rows, half, HALF: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, HALF)
    inside = at < half
    place = tl.load(positions + tl.load(axis + at, mask=inside, other=0) * rows + row, mask=inside, other=0.0)
    angle = place * tl.load(frequencies + at, mask=inside, other=0.0)
    tl.store(cos + row * half + at, tl.cos(angle), mask=inside)
    tl.store(sin + row * half + at, tl.sin(angle), mask=inside)


def angles(positions: Tensor, frequencies: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine float32 [n, head_dim / 2] of positions float32 [axes, n]; frequency i turns with `axis` i."""
    rows, half = positions.shape[1], len(frequencies)
    cos, sin = (torch.empty(rows, half, device=positions.device) for _ in range(2))
    _angles[(rows,)](positions, frequencies, axis, cos, sin, rows, half, HALF=triton.next_power_of_2(half), num_warps=1)
    return cos, sin


@triton.jit
def _prepare(
    mixed, query_norm, key_norm, cos, sin, slots, queries, keys, values, eps,
    HEADS: tl.constexpr, KV: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0)
    head = tl.program_id(1)
    half = DIM // 2
    at = tl.arange(0, HALF)
    inside = at < half
    weight = query_norm if head < HEADS else key_norm
    first = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(weight + half + at, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + row * half + at, mask=inside, other=0.0)
    s = tl.load(sin + row * half + at, mask=inside, other=0.0)
    slot = tl.load(slots + row).to(tl.int64)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    source = mixed + (row.to(tl.int64) * (HEADS + 2 * KV) + head) * DIM + at
    left = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    kind = mixed.dtype.element_ty
    if head < HEADS + KV:
        scale = tl.rsqrt((tl.sum(left * left, 0) + tl.sum(right * right, 0)) / DIM + eps)
        left = (left * scale * first).to(kind).to(tl.float32)
        right = (right * scale * second).to(kind).to(tl.float32)
        left, right = left * c - right * s, right * c + left * s
    if head < HEADS:
        target = queries + (row.to(tl.int64) * HEADS + head) * DIM + at
    elif head < HEADS + KV:
        target = keys + (slot * KV + head - HEADS) * DIM + at
    else:
        target = values + (slot * KV + head - HEADS - KV) * DIM + at
    tl.store(target, left.to(kind), mask=inside)
    tl.store(target + half, right.to(kind), mask=inside)


def prepare(
    mixed: Tensor,
    query_norm: Tensor,
    key_norm: Tensor,
    eps: float,
    turn: tuple[Tensor, Tensor],
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """From `mixed` [n, (heads + 2 * kv_heads) * head_dim] (queries, keys, values): the queries, normed and rotated,
    [n, heads, head_dim]. Keys (likewise) and values go to `slots` int32 [n] of `keys` and `values` [slots, kv_heads,
    head_dim]. `turn` comes from `angles`."""
    kv, dim = keys.shape[-2:]
    heads = mixed.shape[1] // dim - 2 * kv
    queries = torch.empty(mixed.shape[0], heads, dim, device=mixed.device, dtype=mixed.dtype)
    _prepare[(mixed.shape[0], heads + 2 * kv)](
        mixed, query_norm, key_norm, *turn, slots, queries, keys, values, eps,
        HEADS=heads, KV=kv, DIM=dim, HALF=triton.next_power_of_2(dim // 2), num_warps=1,
        **dependent(mixed),
    )  # fmt: skip
    return queries
