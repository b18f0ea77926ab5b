"""Passes of packed rows over paged caches: the room they take, and the keys and values they leave there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.layers import upload

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [n, heads, head_dim] of a pass to their own sequences: (queries, keys, values) -> [n, heads, head_dim]. Keys
and values [slots, kv_heads, head_dim] are a layer's in the pool, those of the pass's rows among them."""


@dataclass(frozen=True, slots=True)
class Span:
    """The next `rows` rows of a pass continue this cache's sequence."""

    cache: KVCache
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A pass over `spans`, whose room is reserved; its keys go to `slots` int64 [n], in the order of the rows."""

    pool: KVPool
    slots: Tensor
    spans: tuple[Span, ...]


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
        slots = np.concatenate([span.cache.slots(span.rows) for span in spans])
        yield Plan(pool, upload(slots, pool.keys.device), tuple(spans))
    except BaseException:
        for span in spans:
            span.cache.truncate(span.cache.length)  # gives reserved pages back
        raise
    for span in spans:
        span.cache.commit(span.rows)


def write(plan: Plan, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Puts the rows' keys and values [n, kv_heads, head_dim] in the pool; returns the layer's there, all of them."""
    keys, values = plan.pool.keys[layer], plan.pool.values[layer]
    keys.index_copy_(0, plan.slots, k)
    values.index_copy_(0, plan.slots, v)
    return keys, values
