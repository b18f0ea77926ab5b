"""Attention of packed rows over a paged cache: causal, grouped queries, the keys split among programs.

Rows are worked on in blocks of rows that follow one another in one sequence. A split reads a part of the keys and
leaves a partial result, the sum of weights and the largest score; `_combine` puts the splits together (Dao et al.,
"Flash-Decoding", 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent
from omni_rt.engine.qwen3_omni.passes import Reading


@triton.jit
def _page(
    keys, values, table, number, head, length, written, dims, KV: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr
):
    """Where a page's keys and values lie, and the first `written` of all `length` that are in it."""
    within = tl.arange(0, PAGE)
    there = (number * PAGE + within < written)[:, None] & (dims < DIM)[None, :]
    slots = tl.load(table + number, mask=number * PAGE < length, other=0).to(tl.int64) * PAGE + within
    read = (slots[:, None] * KV + head) * DIM + dims[None, :]
    return read, tl.load(keys + read, mask=there, other=0.0), tl.load(values + read, mask=there, other=0.0)


@triton.jit
def _seen(query, key, value, place, begin, own, scale, top, total, made):
    """Adds a page's keys, at the places `place`, to what the rows `own` saw before."""
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    score = tl.where(place[None, :] < (begin + own)[:, None], score, float("-inf"))
    higher = tl.maximum(top, tl.max(score, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    weight = tl.exp(score - base[:, None])
    fade = tl.exp(top - base)
    total = total * fade + tl.sum(weight, 1)
    made = made * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
    return higher, total, made


@triton.jit(do_not_specialize=["splits"])
def _attend(
    queries, keys, values, first, counts, begins, starts, pages, partial, largest, sums, scale, splits,
    HEADS: tl.constexpr, KV: tl.constexpr, DIM: tl.constexpr, DIMS: tl.constexpr, GROUP: tl.constexpr,
    TILE: tl.constexpr, PAGE: tl.constexpr, ONE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    block = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    count = tl.load(counts + block)
    if count == 0:
        if EARLY:
            tl.extra.cuda.gdc_wait()
        return
    row = tl.load(first + block)
    begin = tl.load(begins + block)
    table = pages + tl.load(starts + block)
    length = begin + count - 1
    each = tl.cdiv(tl.cdiv(length, PAGE), splits)

    at = tl.arange(0, TILE)
    own = at // GROUP
    query_head = head * GROUP + at % GROUP
    dims = tl.arange(0, DIMS)
    live = own < count
    target = ((row + own).to(tl.int64) * HEADS + query_head) * DIM
    mask = live[:, None] & (dims < DIM)[None, :]
    number = split * each
    end = tl.minimum(number + each, tl.cdiv(length, PAGE))
    if ONE:  # all keys but the newest, which this pass writes, can be fetched before the wait
        read, key, value = _page(keys, values, table, number, head, length, length - 1, dims, KV, DIM, PAGE)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    query = tl.load(queries + target[:, None] + dims[None, :], mask=mask, other=0.0)

    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    made = tl.zeros([TILE, DIMS], tl.float32)
    within = tl.arange(0, PAGE)
    if ONE:
        newest = (number * PAGE + within == length - 1)[:, None] & (dims < DIM)[None, :]
        key = tl.where(newest, tl.load(keys + read, mask=newest, other=0.0), key)
        value = tl.where(newest, tl.load(values + read, mask=newest, other=0.0), value)
        place = number * PAGE + within
        top, total, made = _seen(query, key, value, place, begin, own, scale, top, total, made)
        number += 1
    for later in range(number, end):
        read, key, value = _page(keys, values, table, later, head, length, length, dims, KV, DIM, PAGE)
        place = later * PAGE + within
        top, total, made = _seen(query, key, value, place, begin, own, scale, top, total, made)

    spot = ((row + own).to(tl.int64) * HEADS + query_head) * splits + split
    tl.store(largest + spot, top, mask=live)
    tl.store(sums + spot, total, mask=live)
    tl.store(partial + spot[:, None] * DIM + dims[None, :], made, mask=mask)


@triton.jit
def _combine(
    partial, largest, sums, lengths, out, HEADS: tl.constexpr, DIM: tl.constexpr, DIMS: tl.constexpr,
    SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0)
    head = tl.program_id(1)
    dims = tl.arange(0, DIMS)
    splits = tl.arange(0, SPLITS)
    spot = row.to(tl.int64) * HEADS + head
    live = tl.load(lengths + row + splits * 0) > 0
    if EARLY:
        tl.extra.cuda.gdc_wait()
    top = tl.load(largest + spot * SPLITS + splits, mask=live, other=0.0)
    total = tl.load(sums + spot * SPLITS + splits, mask=live, other=1.0)
    share = tl.exp(top - tl.max(top, 0))
    read = (spot * SPLITS + splits)[:, None] * DIM + dims[None, :]
    part = tl.load(partial + read, mask=live[:, None] & (dims < DIM)[None, :], other=0.0)
    made = tl.sum(part * share[:, None], 0) / tl.sum(total * share, 0)
    tl.store(out + spot * DIM + dims, made.to(out.dtype.element_ty), mask=dims < DIM)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, reading: Reading, *, page: int, block: int, splits: int
) -> Tensor:
    """queries [n, heads, head_dim], keys and values of a pool [slots, kv_heads, head_dim] -> [n, heads, head_dim].

    The rows' own keys must be in the pool. Blocks hold up to `block` rows; `splits` is a power of two. A row that is
    none gives zeros.
    """
    n, heads, dim = queries.shape
    kv = keys.shape[1]
    group = heads // kv
    tile = max(16, triton.next_power_of_2(block * group))
    shape = (n, heads, splits)
    partial = torch.empty(*shape, dim, device=queries.device, dtype=torch.float32)
    largest, sums = (torch.empty(shape, device=queries.device, dtype=torch.float32) for _ in range(2))
    out = torch.empty_like(queries)
    dims = max(16, triton.next_power_of_2(dim))
    _attend[(len(reading.first), kv, splits)](
        queries, keys, values, reading.first, reading.counts, reading.begins, reading.starts, reading.pages,
        partial, largest, sums, dim**-0.5, splits,
        HEADS=heads, KV=kv, DIM=dim, DIMS=dims, GROUP=group, TILE=tile, PAGE=page, ONE=block == 1,
        num_warps=4 if tile <= 64 else 8, num_stages=3 if tile <= 64 else 2,
        **dependent(queries),
    )  # fmt: skip
    _combine[(n, heads)](
        partial,
        largest,
        sums,
        reading.lengths,
        out,
        HEADS=heads,
        DIM=dim,
        DIMS=dims,
        SPLITS=splits,
        num_warps=4,
        **dependent(queries),
    )
    return out
