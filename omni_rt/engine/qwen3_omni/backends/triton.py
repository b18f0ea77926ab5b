"""Attention by our own Triton kernel (`kernels/paged_attention.py`)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from omni_rt.engine.qwen3_omni.kernels.paged_attention import attend
from omni_rt.engine.qwen3_omni.kv_cache import PAGE
from omni_rt.engine.qwen3_omni.passes import single

if TYPE_CHECKING:
    from omni_rt.engine.qwen3_omni.attention import Attend, Plan
    from omni_rt.engine.qwen3_omni.kv_cache import KVPool
    from omni_rt.engine.qwen3_omni.passes import Bucket, Pass


class Triton:
    """Implements Backend, for any dtype. The page of a pool must be a power of two."""

    name = "triton"
    page = PAGE
    tables = False

    def eager(self, plan: Plan) -> Attend:
        return self.captured(plan.pool, *single(plan.pool, plan.spans, tables=False))

    def captured(self, pool: KVPool, bucket: Bucket, given: Pass) -> Attend:
        return partial(attend, reading=given.reading, page=pool.page, block=bucket.block, splits=bucket.splits)
