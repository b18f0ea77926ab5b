"""Steps captured as CUDA graphs; elsewhere they run as they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Graphs:
    """Steps by name. A step takes and leaves everything in memory that stays where it is, and never waits.

    All graphs share one pool of memory for what they make on the way, so they must run one after the other.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._steps: dict[Hashable, Callable[[], object]] = {}
        # what a step refers to must live as long as its graph, which knows addresses only
        self._captured: list[Callable[[], object]] = []
        self._pool: Any = torch.cuda.graph_pool_handle() if self._cuda else None
        self._side: Any = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, name: Hashable, step: Callable[[], object]) -> None:
        """Capture a step; it runs before that, so what it leaves must not matter."""
        if not self._cuda:
            self._steps[name] = step
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            for _ in range(2):
                step()
        torch.cuda.current_stream(self._device).wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side):
            step()
        self._captured.append(step)
        self._steps[name] = graph.replay

    def run(self, name: Hashable) -> None:
        self._steps[name]()
