"""Attention by flash-attn 2: `flash_attn_with_kvcache` where every sequence has one row, `flash_attn_varlen_func` where
some have several."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.passes import single

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omni_rt.engine.qwen3_omni.attention import Attend, Plan
    from omni_rt.engine.qwen3_omni.kv_cache import KVPool
    from omni_rt.engine.qwen3_omni.passes import Bucket, Pass

PAGE = 256
"""Tokens of a page: flash-attn takes multiples of this."""
_LARGEST_HEAD = 256
_OTHERWISE = "set qwen.attention to 'auto'"


class Flash:
    """Implements Backend, in bfloat16 and float16 on a GPU. The page of a pool must be a multiple of 256."""

    name = "flash"
    page = PAGE
    tables = True

    def __init__(self, functions: Any) -> None:
        """`functions` has the two: the package `flash_attn`."""
        self._decode = functions.flash_attn_with_kvcache
        self._prefill = functions.flash_attn_varlen_func

    @classmethod
    def load(cls) -> Flash:
        """Raises EngineError `no_flash` where flash-attn is not installed, too old or cannot be loaded."""
        try:
            return cls(importlib.import_module("flash_attn"))
        except ModuleNotFoundError as error:
            if error.name != "flash_attn":
                raise _broken(error) from error
            raise EngineError(
                "no_flash",
                "qwen.attention 'flash' needs flash-attn: pip install --no-build-isolation 'omni-rt[flash]' (it is "
                f"built on this machine, which takes CUDA's nvcc), or {_OTHERWISE}",
            ) from error
        except (ImportError, AttributeError, OSError) as error:
            raise _broken(error) from error

    def eager(self, plan: Plan) -> Attend:
        return self.captured(plan.pool, *single(plan.pool, plan.spans, tables=True))

    def captured(self, pool: KVPool, bucket: Bucket, given: Pass) -> Attend:
        page, tables = pool.page, given.tables
        if page % PAGE:
            raise ValueError(f"flash-attn reads pages of a multiple of {PAGE} tokens, not of {page}")
        assert tables is not None

        def paged(store: Tensor) -> Tensor:
            return store.view(-1, page, *store.shape[1:])

        # a sequence without keys gives zeros, a row of no sequence whatever lay there
        none = (given.reading.lengths == 0)[:, None, None]

        def decode(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out: Tensor = self._decode(
                queries[:, None],
                paged(keys),
                paged(values),
                cache_seqlens=given.reading.lengths,
                block_table=tables.pages,
                causal=True,
            )
            return out[:, 0]

        def prefill(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            # the largest lengths are bounds: what is really there is read from the running sums
            out: Tensor = self._prefill(
                queries,
                paged(keys),
                paged(values),
                cu_seqlens_q=tables.rows,
                cu_seqlens_k=tables.keys,
                max_seqlen_q=bucket.rows,
                max_seqlen_k=tables.pages.shape[1] * page,
                causal=True,
                block_table=tables.pages,
            )
            return out.masked_fill_(none, 0)

        return decode if bucket.block == 1 else prefill


def check(device: torch.device, dtype: torch.dtype, head_dims: Iterable[int]) -> None:
    """Raises EngineError `no_flash` where flash-attn cannot work, installed or not."""
    if device.type != "cuda":
        raise EngineError("no_flash", f"qwen.attention 'flash' needs a GPU, not {device}; take one, or {_OTHERWISE}")
    if torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise EngineError(
            "no_flash", f"flash-attn needs a GPU of the Ampere generation or later, not {name}; {_OTHERWISE}"
        )
    if dtype not in (torch.bfloat16, torch.float16):
        kind = str(dtype).removeprefix("torch.")
        raise EngineError(
            "no_flash", f"flash-attn computes in bfloat16, not in {kind}: set qwen.dtype, or {_OTHERWISE}"
        )
    wrong = [size for size in head_dims if size > _LARGEST_HEAD or size % 8]
    if wrong:
        raise EngineError(
            "no_flash",
            f"flash-attn takes heads of up to {_LARGEST_HEAD} numbers, in multiples of 8, and these weights have "
            f"{wrong[0]}; {_OTHERWISE}",
        )


def _broken(error: Exception) -> EngineError:
    return EngineError(
        "no_flash",
        f"flash-attn is installed and does not load ({error}): build version 2.7 or later for the PyTorch that is "
        f"here, or {_OTHERWISE}",
    )
