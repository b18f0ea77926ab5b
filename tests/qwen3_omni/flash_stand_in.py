"""In the place of flash-attn, which cannot be had here: it comes as source only, is built by nvcc and runs on a GPU.

What its documentation says of two functions (versions 2.7 and 2.8), in plain PyTorch on any device: the names of the
arguments, what they must be, and what comes out. It shows that our calls mean what we want; it cannot show that the
real functions are right, fast, or fit into a CUDA graph (`tools/check_gpu.py --only fast` does, where they are).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


class FlashStandIn:
    """`dtypes` are what it takes; the real one takes 16 bits only. `calls` counts those of each function."""

    def __init__(self, dtypes: Sequence[torch.dtype] = SIXTEEN_BITS) -> None:
        self._dtypes = dtypes
        self.calls = {"with_kvcache": 0, "varlen": 0}

    def flash_attn_with_kvcache(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        *,
        cache_seqlens: Tensor,
        block_table: Tensor,
        causal: bool = False,
    ) -> Tensor:
        """q [batch, rows, heads, head_dim] -> the same."""
        self.calls["with_kvcache"] += 1
        batch, rows = q.shape[:2]
        self._check(q, k_cache, v_cache, block_table, batch)
        assert (cache_seqlens.dtype, tuple(cache_seqlens.shape)) == (torch.int32, (batch,))
        assert cache_seqlens.is_contiguous()
        assert int(cache_seqlens.max()) <= block_table.shape[1] * k_cache.shape[1]
        out = torch.full_like(q, torch.nan)
        for number in range(batch):
            k, v = (_held(cache, block_table[number], int(cache_seqlens[number])) for cache in (k_cache, v_cache))
            # alike for one row, whose mask the real one drops
            out[number] = _attend(q[number], k, v, causal=causal and rows > 1)
        return out

    def flash_attn_varlen_func(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        *,
        causal: bool = False,
        block_table: Tensor,
    ) -> Tensor:
        """q [rows, heads, head_dim] -> the same; rows of no sequence are left as memory was."""
        self.calls["varlen"] += 1
        assert cu_seqlens_q.shape == cu_seqlens_k.shape
        batch = len(cu_seqlens_q) - 1
        self._check(q, k, v, block_table, batch)
        for sums in (cu_seqlens_q, cu_seqlens_k):
            assert sums.dtype == torch.int32
            assert sums.is_contiguous()
            assert int(sums[0]) == 0
            assert bool((sums.diff() >= 0).all())
        assert isinstance(max_seqlen_q, int)
        assert isinstance(max_seqlen_k, int)
        assert max_seqlen_q > 1, "the real one then takes every sequence to have one row"
        assert int(cu_seqlens_q[-1]) <= len(q)
        assert int(cu_seqlens_q.diff().max()) <= max_seqlen_q
        assert int(cu_seqlens_k.diff().max()) <= max_seqlen_k
        out = torch.full_like(q, torch.nan)
        for number in range(batch):
            own = slice(int(cu_seqlens_q[number]), int(cu_seqlens_q[number + 1]))
            length = int(cu_seqlens_k[number + 1] - cu_seqlens_k[number])
            seen = (_held(cache, block_table[number], length) for cache in (k, v))
            out[own] = _attend(q[own], *seen, causal=causal)
        return out

    def _check(self, q: Tensor, k: Tensor, v: Tensor, block_table: Tensor, batch: int) -> None:
        heads, head_dim = q.shape[-2:]
        assert q.dtype in self._dtypes
        assert k.dtype == v.dtype == q.dtype
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        assert k.shape == v.shape
        assert k.dim() == 4, "[pages, page, kv_heads, head_dim]"
        assert k.shape[1] % 256 == 0
        assert k.shape[3] == head_dim <= 256
        assert heads % k.shape[2] == 0
        assert block_table.dtype == torch.int32
        assert block_table.dim() == 2
        assert block_table.shape[0] == batch
        assert block_table.stride(-1) == 1


def _held(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """[pages, page, kv_heads, head_dim] -> the first `length` tokens of the pages in a table."""
    used = table[: -(-length // cache.shape[1])]
    assert used.numel() == 0 or 0 <= int(used.min()) <= int(used.max()) < len(cache)
    return cache[used.long()].flatten(0, 1)[:length]


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """The mask is aligned to the bottom right corner; a row that sees nothing gives zeros."""
    rows, heads = q.shape[:2]
    k, v = (each.float().repeat_interleave(heads // each.shape[1], dim=1) for each in (k, v))
    scores = torch.einsum("nhd,thd->hnt", q.float(), k) * q.shape[-1] ** -0.5
    if causal:
        last = torch.arange(rows, device=q.device) + len(k) - rows
        scores = scores.masked_fill(torch.arange(len(k), device=q.device) > last[:, None], -torch.inf)
    weights = torch.nan_to_num(scores.softmax(-1), nan=0.0)
    return torch.einsum("hnt,thd->nhd", weights, v).to(q.dtype)
