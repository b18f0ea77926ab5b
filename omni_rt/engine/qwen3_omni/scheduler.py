"""The one thread that computes: it takes commands in order, and between them does the most urgent bounded step.

Work tells when it is due as a deadline in seconds of the scheduler's clock; the earliest goes first. Deadlines must not
move on while the work waits, or it may wait for ever. One that lies further away than `AHEAD_S` is not worked on yet.
Steps that ask the same of the machine are one pass: the most urgent one takes along those of other work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch

from omni_rt.engine.qwen3_omni.requests import Read, Request, Result

log = logging.getLogger(__name__)

AHEAD_S = 3.0
"""How long before its deadline a step may be done: the lead of made speech over heard speech."""
TOGETHER = 64
"""Most requests of a pass."""
MOST_ROWS = 512
"""Most rows of a pass."""
SOON_S = 0.1
"""What is due within so many seconds, somebody waits for."""
WAITED_ROWS = 256
"""Most rows of a pass of requests that people wait for; one that has more itself is alone with them."""
FEW_ROWS = 64
"""Most rows of such a pass with others that nobody waits for."""


class Work(Protocol):
    """Something that is done in steps, on the scheduler's thread."""

    def deadline(self, now: float) -> float | None:
        """When its next step should be done, in seconds; None when there is nothing to do."""

    def request(self) -> Request | None:
        """What its next step asks of the machine, if that is all it does; asked for again after every step."""

    def take(self, request: Request, result: Result) -> None:
        """What became of the request. What it raises goes to `failed`."""

    def step(self) -> None:
        """One step without the machine, bounded in cost. What it raises goes to `failed`."""

    def failed(self, error: Exception) -> None: ...


class Scheduler:
    """`post` may be called from any thread; everything posted and all steps run on one thread, in inference mode.

    `run` is the machine's: requests of one kind to their results.
    """

    def __init__(
        self, run: Callable[[Sequence[Request]], list[Result]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_requests = run
        self._clock = clock
        self._changed = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._works: list[Work] = []
        self._closing = False
        self.steps = 0
        self.crowd = 0
        """How much work was due within `SOON_S` at the last step."""
        self._thread = threading.Thread(target=self._work, name="qwen3-omni", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def now(self) -> float:
        """Seconds of the clock that deadlines are of."""
        return self._clock()

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
    def _work(self) -> None:
        while True:
            with self._changed:
                command = self._commands.popleft() if self._commands else None
                if command is None and self._closing:
                    return
            if command is not None:
                self._guard(command)
                continue
            wait = self.turn()
            if wait != 0.0:
                with self._changed:
                    if not self._commands and not self._closing:
                        self._changed.wait(wait)

    def turn(self) -> float | None:
        """The most urgent step, if one may be done now, and then 0; else the seconds until one may, None for never. For
        the scheduler's own thread, or a caller's that never started it."""
        now = self._clock()
        urgent = self._by_deadline(now)
        if not urgent:
            return None
        if urgent[0][0] > now + AHEAD_S:
            return max(0.001, urgent[0][0] - now - AHEAD_S)
        self.steps += 1
        self.crowd = sum(at <= now + SOON_S for at, _ in urgent)
        self._step(urgent, now)
        return 0.0

    def _by_deadline(self, now: float) -> list[tuple[float, Work]]:
        """All work that has something to do; among equals in the order of waiting."""
        found: list[tuple[float, Work]] = []
        for work in list(self._works):
            try:
                at = work.deadline(now)
            except Exception as error:
                self.remove(work)
                self._guard(partial(work.failed, error))
                continue
            if at is not None:
                found.append((at, work))
        return sorted(found, key=lambda each: each[0])

    def _step(self, urgent: Sequence[tuple[float, Work]], now: float) -> None:
        """The first one's step, and those of others that ask the same."""
        at, first = urgent[0]
        try:
            request = first.request()
            if request is None:
                self._done_by(first)
                first.step()
                return
        except Exception as error:
            self._guard(partial(first.failed, error))
            return
        together = [(first, request), *self._joining(request, at, urgent[1:], now)]
        results = self._results([each for _, each in together])
        for (work, each), result in zip(together, results, strict=True):
            self._done_by(work)
            try:
                work.take(each, result)
            except Exception as error:
                self._guard(partial(work.failed, error))

    def _results(self, requests: Sequence[Request]) -> list[Result]:
        """What fails a pass of several reads may be one of them: then each is a pass of its own."""
        try:
            return self._run_requests(requests)
        except Exception as error:
            if len(requests) == 1 or not isinstance(requests[0], Read):
                return [error] * len(requests)
            log.warning("a pass of %d reads failed: they are read one by one", len(requests), exc_info=error)
            return [result for request in requests for result in self._results([request])]

    def _joining(
        self, first: Request, due: float, others: Sequence[tuple[float, Work]], now: float
    ) -> list[tuple[Work, Request]]:
        """Requests of `others`, the most urgent first, that ask the same as the first one, due at `due`."""
        found: list[tuple[Work, Request]] = []
        rows = first.rows if isinstance(first, Read) else 0
        soon = now + SOON_S
        for at, work in others:
            if at > now + AHEAD_S or len(found) + 1 >= TOGETHER:
                break
            try:
                request = work.request()
            except Exception as error:
                self._guard(partial(work.failed, error))
                continue
            if request is None or type(request) is not type(first):
                continue
            if isinstance(request, Read) and isinstance(first, Read):
                if request.decoding is not first.decoding:
                    continue
                most = MOST_ROWS if due > soon else WAITED_ROWS if at <= soon else FEW_ROWS
                if rows + request.rows > most:
                    continue
                rows += request.rows
            found.append((work, request))
        return found

    def _done_by(self, work: Work) -> None:
        """Among equals it is the others' turn."""
        if work in self._works:
            self._works.append(self._works.pop(self._works.index(work)))

    def _guard(self, command: Callable[[], None]) -> None:
        try:
            command()
        except Exception:
            log.exception("a command of the engine failed")
