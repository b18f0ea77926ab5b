"""Steps captured as CUDA graphs; elsewhere they run as they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from omni_rt.engine.qwen3_omni.kernels.compiling import compiling


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
        """A step to be captured; it runs before that, so what it leaves must not matter."""
        self._steps[name] = step

    def capture(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """All steps that were added; `progress` hears what is done."""
        if not self._cuda:
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        progress("compiling kernels")
        with torch.cuda.stream(self._side), compiling():
            for step in self._steps.values():
                step()
        progress(f"capturing {len(self)} steps")
        for name, step in self._steps.items():
            with torch.cuda.stream(self._side):
                step()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._side):
                step()
            self._captured.append(step)
            self._steps[name] = graph.replay
        torch.cuda.current_stream(self._device).wait_stream(self._side)

    def run(self, name: Hashable) -> None:
        self._steps[name]()
