"""Code2Wav's attention: one frame of each reply over a window of earlier ones, which moves on by that frame."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent


@triton.jit
def _attend(
    mixed, frequencies, slots, frames, keys, values, out, slot_stride, layer_at, scale,
    HEADS: tl.constexpr, PAST: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if EARLY:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    head = tl.program_id(1)
    half = DIM // 2
    at = tl.arange(0, HALF)
    inside = at < half
    slot = tl.load(slots + row).to(tl.int64)
    frame = tl.load(frames + row)
    angle = frame.to(tl.float32) * tl.load(frequencies + at, mask=inside, other=0.0)
    kind = mixed.dtype.element_ty
    # cosine and sine are rounded as the plain module's are
    c = tl.cos(angle).to(kind).to(tl.float32)
    s = tl.sin(angle).to(kind).to(tl.float32)
    own = mixed + row.to(tl.int64) * 3 * HEADS * DIM + head * DIM + at
    left = tl.load(own, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(own + half, mask=inside, other=0.0).to(tl.float32)
    query_left, query_right = left * c - right * s, right * c + left * s
    left = tl.load(own + HEADS * DIM, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(own + HEADS * DIM + half, mask=inside, other=0.0).to(tl.float32)
    key_left, key_right = (left * c - right * s).to(kind), (right * c + left * s).to(kind)
    value_left = tl.load(own + 2 * HEADS * DIM, mask=inside, other=0.0)
    value_right = tl.load(own + 2 * HEADS * DIM + half, mask=inside, other=0.0)

    number = tl.arange(0, KEYS)
    memory = slot * slot_stride + layer_at + head * PAST * DIM
    read = memory + number[:, None] * DIM + at[None, :]
    mask = (number < PAST)[:, None] & inside[None, :]
    past_left = tl.load(keys + read, mask=mask, other=0.0)
    past_right = tl.load(keys + read + half, mask=mask, other=0.0)
    seen_left = tl.load(values + read, mask=mask, other=0.0)
    seen_right = tl.load(values + read + half, mask=mask, other=0.0)
    tl.debug_barrier()  # everything is read before it moves on
    moved = (number > 0)[:, None] & mask
    tl.store(keys + read - DIM, past_left, mask=moved)
    tl.store(keys + read - DIM + half, past_right, mask=moved)
    tl.store(values + read - DIM, seen_left, mask=moved)
    tl.store(values + read - DIM + half, seen_right, mask=moved)
    newest = memory + (PAST - 1) * DIM + at
    tl.store(keys + newest, key_left, mask=inside)
    tl.store(keys + newest + half, key_right, mask=inside)
    tl.store(values + newest, value_left, mask=inside)
    tl.store(values + newest + half, value_right, mask=inside)

    score = tl.sum(past_left.to(tl.float32) * query_left[None, :], 1)
    score = (score + tl.sum(past_right.to(tl.float32) * query_right[None, :], 1)) * scale
    score = tl.where((number < PAST) & (number >= PAST - frame), score, float("-inf"))
    mine = tl.sum(key_left.to(tl.float32) * query_left, 0) + tl.sum(key_right.to(tl.float32) * query_right, 0)
    mine = mine * scale
    top = tl.maximum(tl.max(score, 0), mine)
    weight = tl.exp(score - top)
    mine = tl.exp(mine - top)
    whole = tl.sum(weight, 0) + mine
    made_left = tl.sum(seen_left.to(tl.float32) * weight[:, None], 0) + value_left.to(tl.float32) * mine
    made_right = tl.sum(seen_right.to(tl.float32) * weight[:, None], 0) + value_right.to(tl.float32) * mine
    target = out + (row.to(tl.int64) * HEADS + head) * DIM + at
    tl.store(target, (made_left / whole).to(kind), mask=inside)
    tl.store(target + half, (made_right / whole).to(kind), mask=inside)


def attend_window(
    mixed: Tensor, frequencies: Tensor, slots: Tensor, frames: Tensor, keys: Tensor, values: Tensor, layer: int
) -> Tensor:
    """`mixed` [B, 3 * heads * head_dim] (queries, keys, values) of one frame each -> [B, heads * head_dim].

    Row b's past frames are row `slots`[b] (int64 [B]) of `keys` and `values` [slots, layers, heads, past, head_dim];
    they move on by this frame, in place. `frames` int64 [B] counts those before it; frequencies float32 [head_dim / 2].
    """
    heads, past, dim = keys.shape[2:]
    out = torch.empty(mixed.shape[0], heads * dim, device=mixed.device, dtype=mixed.dtype)
    _attend[(mixed.shape[0], heads)](
        mixed, frequencies, slots, frames, keys, values, out, keys.stride(0), layer * keys.stride(1), dim**-0.5,
        HEADS=heads, PAST=past, KEYS=triton.next_power_of_2(past), DIM=dim, HALF=triton.next_power_of_2(dim // 2),
        num_warps=4, **dependent(mixed),
    )  # fmt: skip
    return out
