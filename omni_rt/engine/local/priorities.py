"""Who may use the cores when.

A clip of which somebody waits to know whether it interrupts (`OVERHEAR`) is recognised at once, one at a time, beside
what runs; until it is done nothing else starts. Replies are written as soon as they are asked for, several at once if
need be: the chat model batches them. What a reply waits for (`FINAL`, `SPEECH`) is done beside it, one at a time.
Everything else is background work: one piece at a time, the more urgent kind first, in order of arrival within a kind,
and none starts while a reply is written.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum
from functools import partial
from itertools import count
from typing import TypeVar

_T = TypeVar("_T")


class Work(IntEnum):
    """Kinds of work, the most urgent first."""

    OVERHEAR = 0
    FINAL = 1
    SPEECH = 2
    PARTIAL = 3
    PREFILL = 4
    EYES = 5

    @property
    def background(self) -> bool:
        return self >= Work.PARTIAL


class _Lane:
    """One piece of work at a time."""

    def __init__(self) -> None:
        self.busy = False
        self._waiting: list[tuple[Work, int, asyncio.Future[None]]] = []
        self._serial = count()

    def queue(self, work: Work) -> asyncio.Future[None]:
        place = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (work, next(self._serial), place))
        return place

    @property
    def wanted(self) -> bool:
        while self._waiting and self._waiting[0][2].done():
            heapq.heappop(self._waiting)
        return bool(self._waiting)

    def start(self) -> None:
        if not self.busy and self.wanted:
            self.busy = True
            heapq.heappop(self._waiting)[2].set_result(None)


class Priorities:
    """All sessions of an engine share one. To be used on its event loop only."""

    def __init__(self) -> None:
        self._overhearing, self._urgent, self._background = _Lane(), _Lane(), _Lane()
        self._replies = 0
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="local-engine")

    @contextmanager
    def reply(self) -> Iterator[None]:
        """While inside, a reply is written: no background work starts."""
        self._replies += 1
        try:
            yield
        finally:
            self._replies -= 1
            self._start()

    @asynccontextmanager
    async def turn(self, work: Work) -> AsyncIterator[None]:
        """Wait for the turn of `work` and keep it while inside."""
        lane = await self._enter(work)
        try:
            yield
        finally:
            self._leave(lane)

    async def run(self, work: Work, prepare: Callable[[], Callable[[], _T]]) -> _T:
        """At the turn of `work` call `prepare`, here, and run the blocking call that it returns in a thread.

        A caller that is cancelled goes on at once; the turn is kept until the thread is through.
        """
        lane = await self._enter(work)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, prepare())
        except BaseException:
            self._leave(lane)
            raise
        try:
            return await asyncio.shield(future)
        finally:
            # whoever is next starts after the caller has taken the result
            if future.done():
                self._leave(lane)
            else:
                future.add_done_callback(partial(self._abandoned, lane))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, work: Work) -> _Lane:
        lane = self._lane(work)
        place = lane.queue(work)
        self._start()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave(lane)
            raise
        return lane

    def _lane(self, work: Work) -> _Lane:
        if work is Work.OVERHEAR:
            return self._overhearing
        return self._background if work.background else self._urgent

    def _abandoned(self, lane: _Lane, done: asyncio.Future[_T]) -> None:
        if not done.cancelled():
            done.exception()  # nobody asks for it any more
        self._leave(lane)

    def _leave(self, lane: _Lane) -> None:
        lane.busy = False
        self._start()

    def _start(self) -> None:
        self._overhearing.start()
        if self._overhearing.busy:
            return
        self._urgent.start()
        if not (self._replies or self._urgent.busy):
            self._background.start()
