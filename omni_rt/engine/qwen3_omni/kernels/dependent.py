"""Programmatic dependent launch: a kernel starts while the one before it ends, and fetches its weights meanwhile.

A kernel launched so calls `gdc_wait` before it touches anything that an earlier kernel writes or reads, weights
excepted, and every program of it must; `gdc_launch_dependents` lets the next one start. What else a kernel reads before
it waits must be older than the graph, or have been written before a kernel, at least two earlier, that lets the next
start only after its own wait (or is not launched so).
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
