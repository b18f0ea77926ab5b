"""Attention by PyTorch's `scaled_dot_product_attention` over pages that are gathered first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from omni_rt.engine.qwen3_omni.kv_cache import PAGE
from omni_rt.engine.qwen3_omni.layers import attention, upload

if TYPE_CHECKING:
    from omni_rt.engine.qwen3_omni.attention import Attend, Plan
    from omni_rt.engine.qwen3_omni.kv_cache import KVPool
    from omni_rt.engine.qwen3_omni.passes import Bucket, Pass

# Keys and values that a captured step gathers at a time.
_GATHERED_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Reach:
    """What one span's rows see: `length` keys, of which the last `rows` are their own.

    `pages` int64 [p]; `mask` [rows, length] is added to the scores: None where plain causal or no masking is right.
    """

    rows: int
    length: int
    pages: Tensor
    mask: Tensor | None


class Sdpa:
    """Implements Backend, for any dtype and device.

    A pass that is run once gathers what its sequences hold. A captured one gathers, for every block of rows, as many
    pages as a sequence can have: right whatever is held, and slow where that is little.
    """

    name = "sdpa"
    page = PAGE
    tables = False

    def eager(self, plan: Plan) -> Attend:
        page, reaches = plan.pool.page, reach(plan)

        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out = []
            start = 0
            for each in reaches:
                own = queries[None, start : start + each.rows]
                start += each.rows
                k, v = (
                    _paged(store, page).index_select(0, each.pages).flatten(0, 1)[None, : each.length]
                    for store in (keys, values)
                )
                out.append(attention(own, k, v, mask=each.mask, causal=each.mask is None and each.rows > 1)[0])
            return torch.cat(out) if len(out) > 1 else out[0]

        return attend

    def captured(self, pool: KVPool, bucket: Bucket, given: Pass) -> Attend:
        reading, page, n = given.reading, pool.page, bucket.rows
        device, width = pool.keys.device, pool.most_pages
        steps, places = torch.arange(bucket.block, device=device), torch.arange(width * page, device=device)
        live = steps < reading.counts[:, None]
        rows = reading.first[:, None].long() + steps
        source, target = torch.where(live, rows, 0), torch.where(live, rows, n)
        length = torch.where(reading.counts > 0, reading.begins + reading.counts - 1, 0)
        at = reading.starts[:, None].long() + torch.arange(width, device=device)
        held = places[::page] < length[:, None]
        pages = torch.where(held, reading.pages[at.clamp(max=len(reading.pages) - 1)], 0).long()
        # a row that is none sees a key, too: of nothing there is no mean
        limit = (reading.begins[:, None] + steps).clamp(min=1)

        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            heads, (kv, dim) = queries.shape[1], keys.shape[1:]
            group = heads // kv
            out = torch.zeros(n + 1, *queries.shape[1:], device=device, dtype=queries.dtype)
            each = max(1, _GATHERED_BYTES // (2 * width * page * kv * dim * keys.element_size()))
            for start in range(0, bucket.blocks, each):
                part = slice(start, start + each)
                beyond = (places >= length[part, None])[..., None, None]
                k, v = (
                    _paged(store, page)[pages[part]].flatten(1, 2).masked_fill_(beyond, 0).transpose(1, 2)
                    for store in (keys, values)
                )
                # [blocks, kv_heads, rows * group, head_dim]: the heads of a group are rows of their key head
                q = queries[source[part]].reshape(-1, bucket.block, kv, group, dim).transpose(1, 2).flatten(2, 3)
                seen = places < limit[part, :, None, None]
                mask = seen.expand(-1, -1, group, -1).flatten(1, 2)[:, None]
                made = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
                made = made.reshape(-1, kv, bucket.block, group, dim).transpose(1, 2)
                out[target[part].flatten()] = made.reshape(-1, heads, dim)
            return out[:n]

        return attend


def reach(plan: Plan) -> tuple[Reach, ...]:
    """Of each span, in their order."""
    device, dtype = plan.pool.keys.device, plan.pool.keys.dtype
    pages = [np.asarray(span.cache.pages, dtype=np.int64) for span in plan.spans]
    tables = torch.split(upload(np.concatenate(pages), device), [len(each) for each in pages])
    reaches = []
    for span, table in zip(plan.spans, tables, strict=True):
        before, rows = span.cache.length, span.rows
        mask = None
        if before and rows > 1:
            mask = torch.full((rows, before + rows), -torch.inf, device=device, dtype=dtype).triu_(before + 1)
        reaches.append(Reach(rows=rows, length=before + rows, pages=table, mask=mask))
    return tuple(reaches)


def _paged(store: Tensor, page: int) -> Tensor:
    """[slots, kv_heads, head_dim] -> [pages, page, kv_heads, head_dim]."""
    return store.view(-1, page, *store.shape[1:])
