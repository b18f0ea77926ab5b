"""A mixture of experts for several rows: pairs of row and expert, sorted by expert, as grouped matrix products.

No shape depends on the routing, and the host never waits: the grids cover the most rows an expert can have (every
row once), and programs without rows end at once. Weights in 8 bit are made as wide as the rows before they are
multiplied, and scaled afterwards.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.experts_one import ranks
from omni_rt.engine.qwen3_omni.kernels.vector import values_and_scale
from omni_rt.engine.qwen3_omni.quantised import Weight


@triton.jit
def _pick(
    scores, chosen, weights, experts, EXPERTS: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr,
    NORMALISE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    number = tl.arange(0, EXPERTS)
    score = tl.load(scores + row * experts + number, mask=number < experts, other=float("-inf"))
    rank = ranks(score, EXPERTS)
    chance = tl.exp(score - tl.max(score, 0))
    whole = tl.sum(tl.where(rank < TOP, chance, 0.0), 0) if NORMALISE else tl.sum(chance, 0)
    slot = tl.arange(0, SLOTS)
    hit = rank[None, :] == slot[:, None]
    expert = tl.minimum(tl.sum(tl.where(hit, number[None, :], 0), 1), experts - 1)
    weight = tl.sum(tl.where(hit, chance[None, :], 0.0), 1) / whole
    tl.store(chosen + row * TOP + slot, expert, mask=slot < TOP)
    tl.store(weights + row * TOP + slot, weight, mask=slot < TOP)


@triton.jit(do_not_specialize=["pairs"])
def _sort(chosen, order, starts, pairs, BLOCK: tl.constexpr):
    expert = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    start = 0
    for begin in range(0, pairs, BLOCK):
        number = tl.load(chosen + begin + at, mask=begin + at < pairs, other=1 << 30)
        start += tl.sum((number < expert).to(tl.int32), 0)
    tl.store(starts + expert, start)
    place = start
    for begin in range(0, pairs, BLOCK):
        number = tl.load(chosen + begin + at, mask=begin + at < pairs, other=1 << 30)
        own = (number == expert).to(tl.int32)
        tl.store(order + place + tl.cumsum(own, 0) - 1, begin + at, mask=own > 0)
        place += tl.sum(own, 0)
    if expert == tl.num_programs(0) - 1:
        tl.store(starts + expert + 1, pairs)


@triton.jit
def _read(source, mask, KIND: tl.constexpr):
    tile = tl.load(source, mask=mask, other=0.0)
    if source.dtype.element_ty != KIND:
        # by way of float32: a Hopper GPU's direct way is one slow instruction (F2F) for each number
        tile = tile.to(tl.float32).to(KIND)
    return tile


@triton.jit(do_not_specialize=["blocks"])
def _open(
    x, weight, scale, order, starts, out, width, inner, blocks,
    TOP: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(1) // blocks
    begin = tl.load(starts + expert) + tl.program_id(1) % blocks * ROWS
    end = tl.load(starts + expert + 1)
    if begin >= end:
        return
    place = begin + tl.arange(0, ROWS)
    pair = tl.load(order + place, mask=place < end, other=0)
    outs = tl.program_id(0) * OUT + tl.arange(0, OUT)
    ins = tl.arange(0, IN)
    source = x + (pair // TOP).to(tl.int64)[:, None] * width + ins[None, :]
    first = weight + expert.to(tl.int64) * 2 * inner * width + outs.to(tl.int64)[None, :] * width + ins[:, None]
    second = first + inner.to(tl.int64) * width
    gate = tl.zeros([ROWS, OUT], tl.float32)
    up = tl.zeros([ROWS, OUT], tl.float32)
    for done in range(0, width, IN):
        inside = done + ins < width
        rows = tl.load(source + done, mask=(place < end)[:, None] & inside[None, :], other=0.0)
        mask = inside[:, None] & (outs < inner)[None, :]
        gate += tl.dot(rows, _read(first + done, mask, rows.dtype), input_precision="ieee")
        up += tl.dot(rows, _read(second + done, mask, rows.dtype), input_precision="ieee")
    if SCALED:
        own = scale + expert.to(tl.int64) * 2 * inner + outs
        gate *= tl.load(own, mask=outs < inner, other=0.0)[None, :]
        up *= tl.load(own + inner, mask=outs < inner, other=0.0)[None, :]
    opened = gate * tl.sigmoid(gate) * up
    target = out + pair.to(tl.int64)[:, None] * inner + outs[None, :]
    tl.store(target, opened.to(out.dtype.element_ty), mask=(place < end)[:, None] & (outs < inner)[None, :])


@triton.jit(do_not_specialize=["blocks"])
def _close(
    opened, weight, scale, order, starts, weights, out, width, inner, blocks,
    ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(1) // blocks
    begin = tl.load(starts + expert) + tl.program_id(1) % blocks * ROWS
    end = tl.load(starts + expert + 1)
    if begin >= end:
        return
    place = begin + tl.arange(0, ROWS)
    pair = tl.load(order + place, mask=place < end, other=0)
    outs = tl.program_id(0) * OUT + tl.arange(0, OUT)
    ins = tl.arange(0, IN)
    source = opened + pair.to(tl.int64)[:, None] * inner + ins[None, :]
    down = weight + expert.to(tl.int64) * width * inner + outs.to(tl.int64)[None, :] * inner + ins[:, None]
    made = tl.zeros([ROWS, OUT], tl.float32)
    for done in range(0, inner, IN):
        inside = done + ins < inner
        rows = tl.load(source + done, mask=(place < end)[:, None] & inside[None, :], other=0.0)
        mask = inside[:, None] & (outs < width)[None, :]
        made += tl.dot(rows, _read(down + done, mask, rows.dtype), input_precision="ieee")
    if SCALED:
        made *= tl.load(scale + expert.to(tl.int64) * width + outs, mask=outs < width, other=0.0)[None, :]
    made *= tl.load(weights + pair, mask=place < end, other=0.0)[:, None]
    target = out + pair.to(tl.int64)[:, None] * width + outs[None, :]
    tl.store(target, made, mask=(place < end)[:, None] & (outs < width)[None, :])


@triton.jit
def _gather(x, made, shared, gate, width, COLS: tl.constexpr, TOP: tl.constexpr, SHARED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = cols < width
    total = tl.load(x + row * width + cols, mask=inside, other=0.0)
    for slot in tl.static_range(TOP):
        total += tl.load(made + (row * TOP + slot) * width + cols, mask=inside, other=0.0)
    if SHARED:
        own = tl.load(shared + row * width + cols, mask=inside, other=0.0).to(tl.float32)
        total += tl.sigmoid(tl.load(gate + row).to(tl.float32)) * own
    tl.store(x + row * width + cols, total, mask=inside)


def mix_many(
    x: Tensor,
    rows: Tensor,
    scores: Tensor,
    gate_up: Weight,
    down: Weight,
    *,
    top: int,
    normalise: bool,
    shared: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Adds to `x` float32 [n, width], in place, what the experts make of `rows` [n, width] (the same, normed).

    scores float32 [n, experts]: the router's; gate_up [experts, 2 * inner, width] and down [experts, width, inner] are
    in 8 bit both, or neither is; `shared`: what an expert for all rows makes of them [n, width], and its gate before
    the sigmoid [n, 1].
    """
    n, width = x.shape
    experts, _, inner = down.shape
    device, pairs = x.device, n * top
    chosen = torch.empty(pairs, device=device, dtype=torch.int32)
    weights = torch.empty(pairs, device=device, dtype=torch.float32)
    order = torch.empty(pairs, device=device, dtype=torch.int32)
    starts = torch.empty(experts + 1, device=device, dtype=torch.int32)
    _pick[(n,)](
        scores, chosen, weights, experts,
        EXPERTS=triton.next_power_of_2(experts), TOP=top, SLOTS=triton.next_power_of_2(top), NORMALISE=normalise,
        num_warps=4,
    )  # fmt: skip
    _sort[(experts,)](chosen, order, starts, pairs, BLOCK=min(1024, triton.next_power_of_2(pairs)), num_warps=4)
    block = 16 if n <= 128 else 32 if n <= 256 else 64
    blocks = triton.cdiv(n, block)
    opened = torch.empty(pairs, inner, device=device, dtype=rows.dtype)
    made = torch.empty(pairs, width, device=device, dtype=torch.float32)
    opening, opening_scale, scaled = values_and_scale(gate_up)
    closing, closing_scale, _ = values_and_scale(down)
    outs = 32 if block < 64 else 64
    ins = 64 if block == 64 else 256 if scaled and block == 16 else 128
    tile = {"IN": ins, "num_warps": 4, "num_stages": 4 if block < 64 else 3}
    _open[(triton.cdiv(inner, outs), experts * blocks)](
        rows, opening, opening_scale, order, starts, opened, width, inner, blocks,
        TOP=top, ROWS=block, OUT=outs, SCALED=scaled, **tile,
    )  # fmt: skip
    _close[(triton.cdiv(width, 64), experts * blocks)](
        opened, closing, closing_scale, order, starts, weights, made, width, inner, blocks,
        ROWS=block, OUT=64, SCALED=scaled, **tile,
    )  # fmt: skip
    extra, gate = shared if shared is not None else (x, x)
    cols = min(1024, triton.next_power_of_2(width))
    _gather[(n, triton.cdiv(width, cols))](
        x, made, extra, gate, width, COLS=cols, TOP=top, SHARED=shared is not None, num_warps=4
    )
