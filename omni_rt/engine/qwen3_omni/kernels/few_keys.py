"""The code predictor's attention: one row of each frame over at most sixteen keys of its own.

Norm and rotation of the heads, writing the row's key and value, and the attention are one kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent


@triton.jit
def _turned(source, first, second, c, s, at, inside, eps, DIM: tl.constexpr):
    """A head after norm, by the two halves of its weight, and rotation, as its two halves."""
    half = DIM // 2
    kind = source.dtype.element_ty
    left = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + half + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt((tl.sum(left * left, 0) + tl.sum(right * right, 0)) / DIM + eps)
    left = (left * scale * first).to(kind).to(tl.float32)
    right = (right * scale * second).to(kind).to(tl.float32)
    return (left * c - right * s).to(kind).to(tl.float32), (right * c + left * s).to(kind).to(tl.float32)


@triton.jit(do_not_specialize=["position"])
def _attend(
    mixed, query_norm, key_norm, cos, sin, keys, values, out, position, eps, scale,
    HEADS: tl.constexpr, KV: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr,
    SLOTS: tl.constexpr, SLOT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half = DIM // 2
    at = tl.arange(0, HALF)
    inside = at < half
    source = mixed + row * (HEADS + 2 * KV) * DIM
    kind = mixed.dtype.element_ty
    c = tl.load(cos + position * half + at, mask=inside, other=0.0)
    s = tl.load(sin + position * half + at, mask=inside, other=0.0)
    key_first = tl.load(key_norm + at, mask=inside, other=0.0).to(tl.float32)
    key_second = tl.load(key_norm + half + at, mask=inside, other=0.0).to(tl.float32)
    query_first = tl.load(query_norm + at, mask=inside, other=0.0).to(tl.float32)
    query_second = tl.load(query_norm + half + at, mask=inside, other=0.0).to(tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    key_left, key_right = _turned(source + (HEADS + head) * DIM, key_first, key_second, c, s, at, inside, eps, DIM)
    own = source + (HEADS + KV + head) * DIM + at
    value_left = tl.load(own, mask=inside, other=0.0).to(tl.float32)
    value_right = tl.load(own + half, mask=inside, other=0.0).to(tl.float32)
    memory = (row * KV + head) * SLOTS * DIM
    new = memory + position * DIM + at
    tl.store(keys + new, key_left.to(kind), mask=inside)
    tl.store(keys + new + half, key_right.to(kind), mask=inside)
    tl.store(values + new, value_left.to(kind), mask=inside)
    tl.store(values + new + half, value_right.to(kind), mask=inside)

    slot = tl.arange(0, SLOT)
    earlier = slot < position
    read = memory + slot[:, None] * DIM + at[None, :]
    mask = earlier[:, None] & inside[None, :]
    past_left = tl.load(keys + read, mask=mask, other=0.0).to(tl.float32)
    past_right = tl.load(keys + read + half, mask=mask, other=0.0).to(tl.float32)
    seen_left = tl.load(values + read, mask=mask, other=0.0).to(tl.float32)
    seen_right = tl.load(values + read + half, mask=mask, other=0.0).to(tl.float32)
    for number in tl.static_range(GROUP):
        query = head * GROUP + number
        left, right = _turned(source + query * DIM, query_first, query_second, c, s, at, inside, eps, DIM)
        self = (tl.sum(left * key_left, 0) + tl.sum(right * key_right, 0)) * scale
        score = (tl.sum(past_left * left[None, :], 1) + tl.sum(past_right * right[None, :], 1)) * scale
        score = tl.where(earlier, score, float("-inf"))
        top = tl.maximum(tl.max(score, 0), self)
        weight = tl.exp(score - top)
        mine = tl.exp(self - top)
        whole = tl.sum(weight, 0) + mine
        made_left = (tl.sum(seen_left * weight[:, None], 0) + value_left * mine) / whole
        made_right = (tl.sum(seen_right * weight[:, None], 0) + value_right * mine) / whole
        target = out + (row * HEADS + query) * DIM + at
        tl.store(target, made_left.to(kind), mask=inside)
        tl.store(target + half, made_right.to(kind), mask=inside)


def attend_few(
    mixed: Tensor,
    query_norm: Tensor,
    key_norm: Tensor,
    eps: float,
    turn: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    position: int,
) -> Tensor:
    """`mixed` [B, (heads + 2 * kv_heads) * head_dim] of the row at `position` -> [B, heads * head_dim].

    keys, values [B, kv_heads, slots, head_dim] hold the rows before and get this one; `turn` are the cosine and sine
    float32 [slots, head_dim / 2] of all positions.
    """
    kv, slots, dim = keys.shape[1:]
    heads = mixed.shape[1] // dim - 2 * kv
    out = torch.empty(mixed.shape[0], heads * dim, device=mixed.device, dtype=mixed.dtype)
    _attend[(mixed.shape[0], kv)](
        mixed, query_norm, key_norm, *turn, keys, values, out, position, eps, dim**-0.5,
        HEADS=heads, KV=kv, DIM=dim, HALF=triton.next_power_of_2(dim // 2), GROUP=heads // kv,
        SLOTS=slots, SLOT=triton.next_power_of_2(slots), num_warps=2, **dependent(mixed),
    )  # fmt: skip
    return out
