"""The Qwen3-Omni engine with steps that take as long as a test wants: real ones, each behind a gate."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from omni_rt.config import Settings, cache_dir
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.eight_bit import EightBit
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.machine import Machine, PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.requests import Read, Request, Result
from omni_rt.models.store import ModelStore

HELD = f"{__name__}:gated_by_folder"
FOLDER = "HELD_QWEN"
"""Names the variable that says where the gate of another process is."""

# A test whose event loop waits for the step fails then, instead of standing still.
_LONGEST_S = 30

Pass = Callable[[Sequence[Request]], None]


def kind(request: Request) -> str:
    """`frame`, `token`, or `rows` where nothing is made but history is read."""
    if not isinstance(request, Read):
        return "frame"
    return "rows" if request.choice is None else "token"


class HeldMachine(PlainMachine):
    """`before` hears of every pass, and the pass begins when it returns."""

    def __init__(self, omni: Omni, before: Pass) -> None:
        super().__init__(omni)
        self._before = before

    def run(self, requests: Sequence[Request]) -> list[Result]:
        self._before(requests)
        return super().run(requests)


class HeldQwen(QwenEngine):
    def __init__(self, settings: Settings, before: Pass) -> None:
        super().__init__(settings, ModelStore(cache_dir()))
        self._before = before

    def _machine(self, omni: Omni, pools: list[KVPool], attention: Backend, narrow: EightBit, *, fast: bool) -> Machine:
        return HeldMachine(omni, self._before)


class Gate:
    """For an engine in this process. Shut for passes of one kind, it keeps the computing thread as a GPU would."""

    def __init__(self) -> None:
        self.passes: list[list[Request]] = []
        self._shut_for: str | None = None
        self._entered, self._open = threading.Event(), threading.Event()

    def __call__(self, requests: Sequence[Request]) -> None:
        self.passes.append(list(requests))
        if self._shut_for in [kind(request) for request in requests]:
            self._entered.set()
            if not self._open.wait(_LONGEST_S):
                self._open.set()

    @property
    def holding(self) -> bool:
        """Whether a step is in flight that will not end by itself."""
        return self._entered.is_set() and not self._open.is_set()

    def shut(self, what: str) -> None:
        self._entered.clear()
        self._open.clear()
        self._shut_for = what

    def entered(self) -> bool:
        """Wait, on a thread that may, until a step is in flight."""
        return self._entered.wait(60)

    def open(self) -> None:
        self._shut_for = None
        self._open.set()


class FolderGate:
    """For an engine in another process: a pass of a kind waits while the folder has a file `shut` with that word in it.

    The file `passes` has a line of kinds for each pass, written before it begins.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, requests: Sequence[Request]) -> None:
        with (self._folder / "passes").open("a") as passes:
            passes.write(" ".join(map(kind, requests)) + "\n")
        while self.shut_for() in [kind(request) for request in requests]:
            time.sleep(0.002)

    def shut_for(self) -> str | None:
        try:
            return (self._folder / "shut").read_text()
        except FileNotFoundError:
            return None

    def shut(self, what: str) -> None:
        (self._folder / "new").write_text(what)
        (self._folder / "new").rename(self._folder / "shut")

    def open(self) -> None:
        (self._folder / "shut").unlink(missing_ok=True)

    def passes(self) -> list[list[str]]:
        """The kinds of requests of each pass so far."""
        try:
            return [line.split() for line in (self._folder / "passes").read_text().splitlines()]
        except FileNotFoundError:
            return []


def gated_by_folder(settings: Settings) -> HeldQwen:
    """For a worker."""
    return HeldQwen(settings, FolderGate(Path(os.environ[FOLDER])))
