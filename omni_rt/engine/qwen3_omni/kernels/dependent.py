"""Programmatic dependent launch: a kernel starts while the one before it ends, and fetches its weights meanwhile.

A kernel launched so calls `gdc_wait` before it touches anything that an earlier kernel writes or reads, weights
excepted, and every program of it must; `gdc_launch_dependents` lets the next one start. What a kernel reads before it
waits must have been written at least two kernels earlier, and the one before must let it start only after its own wait.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_HOPPER = 9


def dependent(x: Tensor) -> dict[str, Any]:
    """Arguments of a launch on the device of `x`: `EARLY` for the kernel, and what the launcher needs."""
    if x.is_cuda and torch.version.cuda and torch.cuda.get_device_capability(x.device)[0] >= _HOPPER:
        return {"EARLY": True, "launch_pdl": True}
    return {"EARLY": False}
