"""A mixture of experts for one row: three kernels that read each chosen expert's weights once.

Every program finds the chosen experts itself from the router's scores: an expert's rank is how many others score
higher (of equal ones the first counts as higher), and the chosen are those of the lowest ranks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def ranks(score, EXPERTS: tl.constexpr):
    """The rank of each of a row's scores [experts]."""
    number = tl.arange(0, EXPERTS)
    other, own = score[None, :], score[:, None]
    before = (other > own) | ((other == own) & (number[None, :] < number[:, None]))
    return tl.sum(before.to(tl.int32), 1)


@triton.jit
def _score(
    x, norm, weight, gate, out, width, eps, experts, ROWS: tl.constexpr, COLS: tl.constexpr, SHARED: tl.constexpr
):
    part = tl.program_id(0)
    cols = tl.arange(0, COLS)
    inside = cols < width
    rows = part * ROWS + tl.arange(0, ROWS)
    last = SHARED and part == tl.num_programs(0) - 1
    source = weight + rows.to(tl.int64)[:, None] * width + cols[None, :]
    mask = (rows < experts)[:, None] & inside[None, :]
    if SHARED and last:
        source = gate + tl.zeros([ROWS, 1], tl.int64) + cols[None, :]
        mask = (tl.arange(0, ROWS) == 0)[:, None] & inside[None, :]
        rows = experts + tl.arange(0, ROWS)
    tile = tl.load(source, mask=mask, other=0.0)
    row = tl.load(x + cols, mask=inside, other=0.0)
    row = row * tl.rsqrt(tl.sum(row * row, 0) / width + eps)
    row = row * tl.load(norm + cols, mask=inside, other=0.0).to(tl.float32)
    made = tl.sum(tile.to(tl.float32) * row[None, :], 1)
    keep = rows < experts
    if SHARED and last:
        keep = rows == experts
    tl.store(out + rows, made, mask=keep)


@triton.jit
def _open(
    x, norm, scores, weight, shared_gate, shared_up, out, width, inner, shared_inner, eps, experts,
    ROWS: tl.constexpr, COLS: tl.constexpr, EXPERTS: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = cols < width
    number = tl.arange(0, EXPERTS)
    at = rows.to(tl.int64)[:, None] * width + cols[None, :]
    size = inner
    if slot < TOP:
        score = tl.load(scores + number, mask=number < experts, other=float("-inf"))
        expert = tl.sum(tl.where(ranks(score, EXPERTS) == slot, number, 0), 0)
        expert = tl.minimum(expert, experts - 1).to(tl.int64)
        first = weight + expert * 2 * inner * width + at
        second = first + inner.to(tl.int64) * width
    else:
        first = shared_gate + at
        second = shared_up + at
        size = shared_inner
    mask = (rows < size)[:, None] & inside[None, :]
    gate = tl.load(first, mask=mask, other=0.0)
    up = tl.load(second, mask=mask, other=0.0)
    row = tl.load(x + cols, mask=inside, other=0.0)
    row = row * tl.rsqrt(tl.sum(row * row, 0) / width + eps)
    row = row * tl.load(norm + cols, mask=inside, other=0.0).to(tl.float32)
    row = row.to(weight.dtype.element_ty).to(tl.float32)
    opened = tl.sum(gate.to(tl.float32) * row[None, :], 1)
    opened = opened * tl.sigmoid(opened) * tl.sum(up.to(tl.float32) * row[None, :], 1)
    stride = tl.maximum(inner, shared_inner)
    tl.store(out + slot * stride + rows, opened.to(out.dtype.element_ty), mask=rows < size)


@triton.jit
def _close(
    opened, scores, weight, shared, x, width, inner, shared_inner, experts,
    ROWS: tl.constexpr, COLS: tl.constexpr, SHARED_COLS: tl.constexpr, EXPERTS: tl.constexpr, TOP: tl.constexpr,
    NORMALISE: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    number = tl.arange(0, EXPERTS)
    score = tl.load(scores + number, mask=number < experts, other=float("-inf"))
    rank = ranks(score, EXPERTS)
    chance = tl.exp(score - tl.max(score, 0))
    whole = tl.sum(tl.where(rank < TOP, chance, 0.0), 0) if NORMALISE else tl.sum(chance, 0)
    stride = tl.maximum(inner, shared_inner)
    cols = tl.arange(0, COLS)
    inside = cols < inner
    made = tl.load(x + rows, mask=rows < width, other=0.0)
    for slot in tl.static_range(TOP):
        expert = tl.minimum(tl.sum(tl.where(rank == slot, number, 0), 0), experts - 1).to(tl.int64)
        at = expert * width * inner + rows.to(tl.int64)[:, None] * inner + cols[None, :]
        tile = tl.load(weight + at, mask=(rows < width)[:, None] & inside[None, :], other=0.0)
        row = tl.load(opened + slot * stride + cols, mask=inside, other=0.0).to(tl.float32)
        made += tl.sum(tl.where(rank == slot, chance, 0.0), 0) / whole * tl.sum(tile.to(tl.float32) * row[None, :], 1)
    if SHARED:
        more = tl.arange(0, SHARED_COLS)
        within = more < shared_inner
        at = rows.to(tl.int64)[:, None] * shared_inner + more[None, :]
        tile = tl.load(shared + at, mask=(rows < width)[:, None] & within[None, :], other=0.0)
        row = tl.load(opened + TOP * stride + more, mask=within, other=0.0).to(tl.float32)
        made += tl.sigmoid(tl.load(scores + experts)) * tl.sum(tile.to(tl.float32) * row[None, :], 1)
    tl.store(x + rows, made, mask=rows < width)


def mix_one(
    x: Tensor,
    norm: Tensor,
    eps: float,
    router: Tensor,
    gate_up: Tensor,
    down: Tensor,
    *,
    top: int,
    normalise: bool,
    shared: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
) -> None:
    """Adds to the row `x` float32 [1, width], in place, what its experts make of it after the norm.

    router [experts, width]; gate_up [experts, 2 * inner, width]; down [experts, width, inner]; `shared` are the gate
    [1, width], gate_proj, up_proj [shared_inner, width] and down_proj [width, shared_inner] of an expert for all rows.
    """
    experts, width, inner = down.shape
    gate, shared_gate, shared_up, shared_down = shared if shared is not None else (router, gate_up, gate_up, down)
    shared_inner = shared_down.shape[1] if shared is not None else 0
    cols, many = triton.next_power_of_2(width), triton.next_power_of_2(experts)
    scores = torch.empty(experts + 1, device=x.device, dtype=torch.float32)
    rows = max(1, min(2, 8192 // cols))
    _score[(triton.cdiv(experts, rows) + (shared is not None),)](
        x, norm, router, gate, scores, width, eps, experts, ROWS=rows, COLS=cols, SHARED=shared is not None, num_warps=4
    )
    slots = top + (shared is not None)
    opened = torch.empty(slots, max(inner, shared_inner), device=x.device, dtype=gate_up.dtype)
    rows = max(1, 8192 // cols)
    _open[(triton.cdiv(max(inner, shared_inner), rows), slots)](
        x, norm, scores, gate_up, shared_gate, shared_up, opened, width, inner, shared_inner, eps, experts,
        ROWS=rows, COLS=cols, EXPERTS=many, TOP=top, num_warps=8 if rows * cols >= 4096 else 4,
    )  # fmt: skip
    rows = 8 if width >= 1024 else 4
    _close[(triton.cdiv(width, rows),)](
        opened, scores, down, shared_down, x, width, inner, shared_inner, experts,
        ROWS=rows, COLS=triton.next_power_of_2(inner), SHARED_COLS=max(1, triton.next_power_of_2(shared_inner)),
        EXPERTS=many, TOP=top, NORMALISE=normalise, SHARED=shared is not None, num_warps=8,
    )  # fmt: skip
