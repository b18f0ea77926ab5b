"""A mixture of experts for one row: three kernels that read each chosen expert's weights once.

An expert's rank is how many others the router scores higher (of equal ones the first counts as higher); the chosen are
those of the lowest ranks. The scores are made by many programs, and the last one to finish chooses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent
from omni_rt.engine.qwen3_omni.kernels.vector import values_and_scale
from omni_rt.engine.qwen3_omni.quantised import Weight


@triton.jit
def ranks(score, EXPERTS: tl.constexpr):
    """The rank of each of a row's scores [experts]."""
    number = tl.arange(0, EXPERTS)
    other, own = score[None, :], score[:, None]
    before = (other > own) | ((other == own) & (number[None, :] < number[:, None]))
    return tl.sum(before.to(tl.int32), 1)


@triton.jit
def _score(
    x, norm, weight, gate, scores, counter, row, chosen, weights, width, eps, experts,
    ROWS: tl.constexpr, COLS: tl.constexpr, EXPERTS: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr,
    NORMALISE: tl.constexpr, SHARED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    part = tl.program_id(0)
    cols = tl.arange(0, COLS)
    inside = cols < width
    rows = part * ROWS + tl.arange(0, ROWS)
    source = weight + rows.to(tl.int64)[:, None] * width + cols[None, :]
    mask = (rows < experts)[:, None] & inside[None, :]
    keep = rows < experts
    if SHARED:
        own = rows == experts
        source = tl.where(own[:, None], gate + tl.zeros([ROWS, 1], tl.int64) + cols[None, :], source)
        mask = (rows <= experts)[:, None] & inside[None, :]
        keep = rows <= experts
    tile = tl.load(source, mask=mask, other=0.0)
    factor = tl.load(norm + cols, mask=inside, other=0.0).to(tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    normed = tl.load(x + cols, mask=inside, other=0.0)
    normed = normed * tl.rsqrt(tl.sum(normed * normed, 0) / width + eps)
    normed = normed * factor
    tl.store(scores + rows, tl.sum(tile.to(tl.float32) * normed[None, :], 1), mask=keep)
    tl.debug_barrier()
    before = tl.atomic_add(counter, 1, sem="acq_rel")
    if before == tl.num_programs(0) - 1:
        tl.store(counter, 0)
        tl.store(row + cols, normed.to(row.dtype.element_ty), mask=inside)
        number = tl.arange(0, EXPERTS)
        score = tl.load(scores + number, mask=number < experts, other=float("-inf"), cache_modifier=".cg")
        rank = ranks(score, EXPERTS)
        chance = tl.exp(score - tl.max(score, 0))
        whole = tl.sum(tl.where(rank < TOP, chance, 0.0), 0) if NORMALISE else tl.sum(chance, 0)
        slot = tl.arange(0, SLOTS)
        hit = rank[None, :] == slot[:, None]
        expert = tl.minimum(tl.sum(tl.where(hit, number[None, :], 0), 1), experts - 1)
        share = tl.sum(tl.where(hit, chance[None, :], 0.0), 1) / whole
        tl.store(chosen + slot, expert, mask=slot < TOP)
        tl.store(weights + slot, share, mask=slot < TOP)
        if SHARED:
            tl.store(weights + TOP, tl.sigmoid(tl.load(scores + experts, cache_modifier=".cg")))


@triton.jit
def _open(
    row, chosen, weight, scale, shared_gate, shared_gate_scale, shared_up, shared_up_scale, out,
    width, inner, shared_inner,
    ROWS: tl.constexpr, COLS: tl.constexpr, TOP: tl.constexpr, SCALED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()  # not before: `_close` reads what was chosen before it waits
    slot = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    if SCALED:
        cols = tl.max_contiguous(cols, 8)
    inside = cols < width
    at = rows.to(tl.int64)[:, None] * width + cols[None, :]
    size = inner
    first_scale, second_scale = scale + rows, scale + rows
    if slot < TOP:
        outputs = tl.load(chosen + slot).to(tl.int64) * 2 * inner
        first = weight + outputs * width + at
        second = first + inner.to(tl.int64) * width
        if SCALED:
            first_scale = scale + outputs + rows
            second_scale = first_scale + inner
    else:
        first = shared_gate + at
        second = shared_up + at
        size = shared_inner
        if SCALED:
            first_scale = shared_gate_scale + rows
            second_scale = shared_up_scale + rows
    mask = (rows < size)[:, None] & inside[None, :]
    gate = tl.load(first, mask=mask, other=0.0)
    up = tl.load(second, mask=mask, other=0.0)
    given = tl.load(row + cols, mask=inside, other=0.0).to(tl.float32)
    opened = tl.sum(gate.to(tl.float32) * given[None, :], 1)
    gated = tl.sum(up.to(tl.float32) * given[None, :], 1)
    if SCALED:
        opened *= tl.load(first_scale, mask=rows < size, other=0.0)
        gated *= tl.load(second_scale, mask=rows < size, other=0.0)
    opened = opened * tl.sigmoid(opened) * gated
    stride = tl.maximum(inner, shared_inner)
    tl.store(out + slot * stride + rows, opened.to(out.dtype.element_ty), mask=rows < size)


@triton.jit
def _close(
    opened, chosen, weights, weight, scale, shared, shared_scale, x, width, inner, shared_inner,
    ROWS: tl.constexpr, COLS: tl.constexpr, SHARED_COLS: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr,
    SHARED: tl.constexpr, SCALED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    stride = tl.maximum(inner, shared_inner)
    cols = tl.arange(0, COLS)
    if SCALED:
        cols = tl.max_contiguous(cols, 8)
    inside = cols < inner
    slot = tl.arange(0, SLOTS)
    outputs = tl.load(chosen + slot, mask=slot < TOP, other=0).to(tl.int64)[:, None] * width + rows[None, :]
    there = (slot < TOP)[:, None] & (rows < width)[None, :]
    at = outputs[:, :, None] * inner + cols[None, None, :]
    tile = tl.load(weight + at, mask=there[:, :, None] & inside[None, None, :], other=0.0)
    if SCALED:
        size = tl.load(scale + outputs, mask=there, other=0.0)
    if SHARED:
        more = tl.arange(0, SHARED_COLS)
        if SCALED:
            more = tl.max_contiguous(more, 8)
        within = more < shared_inner
        at = rows.to(tl.int64)[:, None] * shared_inner + more[None, :]
        own = tl.load(shared + at, mask=(rows < width)[:, None] & within[None, :], other=0.0)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    share = tl.load(weights + slot, mask=slot < TOP, other=0.0)
    given = tl.load(
        opened + slot[:, None] * stride + cols[None, :], mask=(slot < TOP)[:, None] & inside[None, :], other=0.0
    )
    given = given.to(tl.float32) * share[:, None]
    made = tl.load(x + rows, mask=rows < width, other=0.0)
    parts = tl.sum(tile.to(tl.float32) * given[:, None, :], 2)
    if SCALED:
        parts *= size
    made += tl.sum(parts, 0)
    if SHARED:
        given = tl.load(opened + TOP * stride + more, mask=within, other=0.0).to(tl.float32)
        whole = tl.sum(own.to(tl.float32) * given[None, :], 1)
        if SCALED:
            whole *= tl.load(shared_scale + rows, mask=rows < width, other=0.0)
        made += tl.load(weights + TOP) * whole
    tl.store(x + rows, made, mask=rows < width)


def mix_one(
    x: Tensor,
    norm: Tensor,
    eps: float,
    router: Tensor,
    gate_up: Weight,
    down: Weight,
    counter: Tensor,
    *,
    top: int,
    normalise: bool,
    shared: tuple[Tensor, Weight, Weight, Weight] | None = None,
) -> None:
    """Adds to the row `x` float32 [1, width], in place, what its experts make of it after the norm.

    router [experts, width]; gate_up [experts, 2 * inner, width]; down [experts, width, inner]; counter int32 [1] is 0,
    and is again afterwards; `shared` are the gate [1, width], gate_proj, up_proj [shared_inner, width] and down_proj
    [width, shared_inner] of an expert for all rows. All but router and gate are in 8 bit, or none.
    """
    experts, width, inner = down.shape
    gate, shared_gate, shared_up, shared_down = shared if shared is not None else (router, gate_up, gate_up, down)
    shared_inner = shared_down.shape[1] if shared is not None else 0
    cols, slots = triton.next_power_of_2(width), top + (shared is not None)
    device, kind, early = x.device, norm.dtype, dependent(x)
    (opening, opening_scale, scaled), (closing, closing_scale, _) = values_and_scale(gate_up), values_and_scale(down)
    (first, first_scale, _), (second, second_scale, _) = values_and_scale(shared_gate), values_and_scale(shared_up)
    last, last_scale, _ = values_and_scale(shared_down)
    scores = torch.empty(experts + 1, device=device, dtype=torch.float32)
    row = torch.empty(width, device=device, dtype=kind)
    chosen = torch.empty(top, device=device, dtype=torch.int32)
    weights = torch.empty(slots, device=device, dtype=torch.float32)
    rows = max(1, min(2, 8192 // cols))
    _score[(triton.cdiv(experts + (shared is not None), rows),)](
        x, norm, router, gate, scores, counter, row, chosen, weights, width, eps, experts,
        ROWS=rows, COLS=cols, EXPERTS=triton.next_power_of_2(experts), TOP=top, SLOTS=triton.next_power_of_2(top),
        NORMALISE=normalise, SHARED=shared is not None, num_warps=4, **early,
    )  # fmt: skip
    opened = torch.empty(slots, max(inner, shared_inner), device=device, dtype=kind)
    warps = 1 if scaled else 4  # a warp with as many bytes under way has no other to wait for
    rows = max(1, 4096 // cols)  # as in vector.py
    _open[(triton.cdiv(max(inner, shared_inner), rows), slots)](
        row, chosen, opening, opening_scale, first, first_scale, second, second_scale, opened,
        width, inner, shared_inner, ROWS=rows, COLS=cols, TOP=top, SCALED=scaled, num_warps=warps, **early,
    )  # fmt: skip
    rows, cols = 2, triton.next_power_of_2(inner)
    _close[(triton.cdiv(width, rows),)](
        opened, chosen, weights, closing, closing_scale, last, last_scale, x, width, inner, shared_inner,
        ROWS=rows, COLS=cols, SHARED_COLS=max(1, triton.next_power_of_2(shared_inner)),
        TOP=top, SLOTS=triton.next_power_of_2(top), SHARED=shared is not None, SCALED=scaled, num_warps=4, **early,
    )  # fmt: skip
