"""Numbers from pinned memory of the host, read by the GPU as the first thing that a captured step does: a copy of its
own before the step costs the host a call, and the step a wait for another engine."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_EACH = 1024


@triton.jit
def _fetch(source, target, count, EACH: tl.constexpr):
    at = tl.program_id(0) * EACH + tl.arange(0, EACH)
    inside = at < count
    tl.store(target + at, tl.load(source + at, mask=inside, other=0), mask=inside)


def fetch(source: Tensor, target: Tensor, count: int) -> None:
    """The first `count` numbers int32 of `source`, pinned, to `target` on the device."""
    _fetch[(triton.cdiv(count, _EACH),)](source, target, count, EACH=_EACH, num_warps=4)
