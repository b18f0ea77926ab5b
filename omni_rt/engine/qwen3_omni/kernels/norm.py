"""Root-mean-square norm of rows, with the residual added on the way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent


@triton.jit
def _norm(
    x, added, weight, total, rounded, wide, width, eps,
    COLS: tl.constexpr, ADD: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if EARLY:
        tl.extra.cuda.gdc_wait()
    cols = tl.arange(0, COLS)
    inside = cols < width
    at = tl.program_id(0).to(tl.int64) * width + cols
    row = tl.load(x + at, mask=inside, other=0.0)
    if ADD:
        row += tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + at, row, mask=inside)
    row = row * tl.rsqrt(tl.sum(row * row, 0) / width + eps)
    row = row * tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(rounded + at, row.to(rounded.dtype.element_ty), mask=inside)
    if WIDE:
        tl.store(wide + at, row, mask=inside)


def norm(
    x: Tensor, weight: Tensor, eps: float, *, added: Tensor | None = None, wide: bool = False
) -> tuple[Tensor, Tensor]:
    """Float32 rows `x` [n, width], which get `added` [n, width] in place first: (normed in the weight's dtype, the same
    in float32 if `wide`, else the rounded rows again)."""
    n, width = x.shape
    rounded = torch.empty(n, width, device=x.device, dtype=weight.dtype)
    whole = torch.empty_like(x) if wide else rounded
    _norm[(n,)](
        x, x if added is None else added, weight, x, rounded, whole, width, eps,
        COLS=triton.next_power_of_2(width), ADD=added is not None, WIDE=wide, num_warps=4,
        **dependent(x),
    )  # fmt: skip
    return rounded, whole
