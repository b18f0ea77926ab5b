"""The backend that a setting names, for a machine and its weights."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Literal

import torch

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni import kv_cache
from omni_rt.engine.qwen3_omni.backends import flash
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.flash import Flash
from omni_rt.engine.qwen3_omni.backends.sdpa import Sdpa

Name = Literal["auto", "triton", "flash", "sdpa"]


def page_of(name: Name) -> int:
    """Tokens of a page of the caches, known before a machine is built."""
    return flash.PAGE if name == "flash" else kv_cache.PAGE


def choose(name: Name, *, fast: bool, device: torch.device, dtype: torch.dtype, head_dims: Iterable[int]) -> Backend:
    """`fast` says which machine it is for. Raises EngineError `no_triton` or `no_flash`."""
    if name == "auto":
        name = "triton" if fast else "sdpa"
    if name == "sdpa":
        return Sdpa()
    if name == "flash":
        flash.check(device, dtype, head_dims)
        return Flash.load()
    if find_spec("triton") is None:
        raise EngineError("no_triton", "qwen.attention 'triton' needs Triton: pip install triton, or set it to 'sdpa'")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise EngineError("no_triton", f"qwen.attention 'triton' needs a GPU, not {device}; set it to 'sdpa'")
    from omni_rt.engine.qwen3_omni.backends.triton import Triton

    return Triton()
