"""Attention of packed rows over paged caches: what is prepared once for a pass, and what every layer does with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.layers import attention, upload


@dataclass(frozen=True, slots=True)
class Span:
    """The next `rows` rows of a pass continue this cache's sequence."""

    cache: KVCache
    rows: int


@dataclass(frozen=True, slots=True)
class Reach:
    """What one span's rows see: `length` keys, of which the last `rows` are their own.

    `pages` int64 [p]; `mask` [rows, length] is added to the scores: None where plain causal or no masking is right.
    """

    rows: int
    length: int
    pages: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a pass writes its keys (`slots` int64 [n], in the order of the rows) and what each span reads."""

    pool: KVPool
    slots: Tensor
    reaches: tuple[Reach, ...]


@contextmanager
def planned(spans: Sequence[Span]) -> Iterator[Plan]:
    """Room for a pass over these spans; when the block ends their caches hold the rows.

    If anything fails inside, or there is no room (CacheFull), every cache is as long as before. A cache may appear
    once, and all caches are of one pool.
    """
    if not spans or any(span.rows < 1 for span in spans):
        raise ValueError("a pass needs at least one span, and every span at least one row")
    if len({id(span.cache) for span in spans}) < len(spans):
        raise ValueError("a cache may appear in a pass only once")
    pool = spans[0].cache.pool
    if any(span.cache.pool is not pool for span in spans):
        raise ValueError("the caches of a pass must be of one pool")
    try:
        for span in spans:
            span.cache.reserve(span.rows)
        yield _plan(pool, spans)
    except BaseException:
        for span in spans:
            span.cache.truncate(span.cache.length)  # gives reserved pages back
        raise
    for span in spans:
        span.cache.commit(span.rows)


def attend(plan: Plan, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Writes the rows' keys and values to the pool and attends every span to its own sequence.

    q [n, heads, head_dim], k and v [n, kv_heads, head_dim] -> [n, heads, head_dim].
    """
    keys, values = plan.pool.keys[layer], plan.pool.values[layer]
    keys.index_copy_(0, plan.slots, k)
    values.index_copy_(0, plan.slots, v)
    out = []
    start = 0
    for reach in plan.reaches:
        own = slice(start, start + reach.rows)
        start += reach.rows
        causal = reach.mask is None and reach.rows > 1
        if causal:  # nothing lies before the span
            seen_k, seen_v = k[own], v[own]
        else:
            seen_k, seen_v = (_gather(store, reach, plan.pool.page) for store in (keys, values))
        out.append(attention(q[None, own], seen_k[None], seen_v[None], mask=reach.mask, causal=causal)[0])
    return torch.cat(out) if len(out) > 1 else out[0]


def _gather(store: Tensor, reach: Reach, page: int) -> Tensor:
    """[slots, kv_heads, head_dim] -> the sequence's [length, kv_heads, head_dim]."""
    return store.view(-1, page, *store.shape[1:]).index_select(0, reach.pages).flatten(0, 1)[: reach.length]


def _plan(pool: KVPool, spans: Sequence[Span]) -> Plan:
    device, dtype = pool.keys.device, pool.keys.dtype
    slots = [span.cache.slots(span.rows) for span in spans]
    pages = [np.asarray(span.cache.pages, dtype=np.int64) for span in spans]
    numbers = upload(np.concatenate([*slots, *pages]), device)  # one transfer a pass
    rows = sum(span.rows for span in spans)
    tables = torch.split(numbers[rows:], [len(each) for each in pages])
    reaches = []
    for span, table in zip(spans, tables, strict=True):
        before = span.cache.length
        mask = None
        if before and span.rows > 1:
            mask = torch.full((span.rows, before + span.rows), -torch.inf, device=device, dtype=dtype).triu_(before + 1)
        reaches.append(Reach(rows=span.rows, length=before + span.rows, pages=table, mask=mask))
    return Plan(pool=pool, slots=numbers[:rows], reaches=tuple(reaches))
