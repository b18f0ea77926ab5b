"""The one thread that computes: it takes commands in order, and between them does the most urgent bounded step.

Work tells when it is due as a deadline in seconds of the scheduler's clock; the earliest goes first. A deadline in the
past is merely urgent; one that lies further away than `AHEAD_S` is not worked on yet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

log = logging.getLogger(__name__)

AHEAD_S = 3.0
"""How long before its deadline a step may be done: the lead of made speech over heard speech."""


class Work(Protocol):
    """Something that is done in steps, on the scheduler's thread."""

    def deadline(self, now: float) -> float | None:
        """When its next step should be done, in seconds; None when there is nothing to do."""

    def step(self) -> None:
        """One step, bounded in cost. What it raises goes to `failed`."""

    def failed(self, error: Exception) -> None: ...


class Scheduler:
    """`post` may be called from any thread; everything posted and all steps run on one thread, in inference mode."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._works: list[Work] = []
        self._closing = False
        self.steps = 0
        self._thread = threading.Thread(target=self._run, name="qwen3-omni", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, command: Callable[[], None]) -> None:
        """Run `command` after all that was posted before. It must not raise."""
        with self._changed:
            self._commands.append(command)
            self._changed.notify()

    def add(self, work: Work) -> None:
        """To be called on the scheduler's thread."""
        self._works.append(work)

    def remove(self, work: Work) -> None:
        """To be called on the scheduler's thread; unknown work is no error."""
        if work in self._works:
            self._works.remove(work)

    def close(self) -> None:
        """Finish the step in flight and all that was posted, and end; what is posted later never runs."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._changed:
                command = self._commands.popleft() if self._commands else None
                if command is None and self._closing:
                    return
            if command is not None:
                self._guard(command)
                continue
            now = self._clock()
            at, work = self._most_urgent(now)
            if at is None or work is None or at > now + AHEAD_S:
                with self._changed:
                    if not self._commands and not self._closing:
                        self._changed.wait(None if at is None else max(0.001, at - now - AHEAD_S))
                continue
            self.steps += 1
            self._works.append(self._works.pop(self._works.index(work)))  # among equals it is the others' turn
            try:
                work.step()
            except Exception as error:
                self._guard(partial(work.failed, error))

    def _most_urgent(self, now: float) -> tuple[float | None, Work | None]:
        first: tuple[float | None, Work | None] = None, None
        for work in list(self._works):
            try:
                at = work.deadline(now)
            except Exception as error:
                self.remove(work)
                self._guard(partial(work.failed, error))
                continue
            if at is not None and (first[0] is None or at < first[0]):
                first = at, work
        return first

    def _guard(self, command: Callable[[], None]) -> None:
        try:
            command()
        except Exception:
            log.exception("a command of the engine failed")
