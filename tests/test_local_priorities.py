from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from omni_rt.engine.local.priorities import Priorities, Work


class Bench:
    """Work that goes on until it is let go; `started` lists it in the order of starting."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self._holds: dict[str, threading.Event] = {}

    def job(self, name: str) -> Callable[[], Callable[[], str]]:
        hold = self._holds[name] = threading.Event()

        def prepare() -> Callable[[], str]:
            self.started.append(name)
            return lambda: (hold.wait(10), name)[1]

        return prepare

    def let(self, *names: str) -> None:
        for name in names:
            self._holds[name].set()


async def turns() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0.001)


async def test_the_more_urgent_goes_first_and_one_at_a_time() -> None:
    priorities, bench = Priorities(), Bench()
    kinds = [Work.EYES, Work.PREFILL, Work.PARTIAL, Work.PARTIAL]
    first = asyncio.create_task(priorities.run(Work.EYES, bench.job("first")))
    await turns()
    rest = [asyncio.create_task(priorities.run(kind, bench.job(f"{n}"))) for n, kind in enumerate(kinds)]
    await turns()
    assert bench.started == ["first"]
    bench.let("first", "0", "1", "2", "3")
    assert await asyncio.gather(first, *rest) == ["first", "0", "1", "2", "3"]
    assert bench.started == ["first", "2", "3", "1", "0"]
    priorities.close()


async def test_nothing_in_the_background_starts_beside_a_reply() -> None:
    priorities, bench = Priorities(), Bench()
    with priorities.reply():
        with priorities.reply():
            waiting = [asyncio.create_task(priorities.run(kind, bench.job(kind.name))) for kind in Work]
            await turns()
            assert bench.started == ["OVERHEAR"]
            bench.let("OVERHEAR")
            await turns()
            assert bench.started == ["OVERHEAR", "FINAL"]
            bench.let("FINAL")
            await turns()
            assert bench.started == ["OVERHEAR", "FINAL", "SPEECH"]
            bench.let("SPEECH", "PARTIAL", "PREFILL", "EYES")
        await turns()
        assert bench.started == ["OVERHEAR", "FINAL", "SPEECH"]
    await asyncio.gather(*waiting)
    assert bench.started == ["OVERHEAR", "FINAL", "SPEECH", "PARTIAL", "PREFILL", "EYES"]
    priorities.close()


async def test_a_clip_is_overheard_beside_all_that_runs_and_before_all_that_waits() -> None:
    priorities, bench = Priorities(), Bench()
    running = []
    for kind in (Work.EYES, Work.SPEECH):
        running.append(asyncio.create_task(priorities.run(kind, bench.job(kind.name))))
        await turns()
    kinds = [Work.FINAL, Work.OVERHEAR, Work.OVERHEAR]
    waiting = [asyncio.create_task(priorities.run(kind, bench.job(f"{kind.name} {n}"))) for n, kind in enumerate(kinds)]
    await turns()
    assert bench.started == ["EYES", "SPEECH", "OVERHEAR 1"]
    bench.let("SPEECH", "EYES")
    await asyncio.gather(*running)
    assert bench.started == ["EYES", "SPEECH", "OVERHEAR 1"]
    bench.let("OVERHEAR 1")
    await turns()
    assert bench.started[3:] == ["OVERHEAR 2"]
    bench.let("OVERHEAR 2", "FINAL 0")
    await asyncio.gather(*waiting)
    assert bench.started[3:] == ["OVERHEAR 2", "FINAL 0"]
    priorities.close()


async def test_urgent_work_does_not_wait_for_the_background() -> None:
    priorities, bench = Priorities(), Bench()
    slow = asyncio.create_task(priorities.run(Work.EYES, bench.job("eyes")))
    final = asyncio.create_task(priorities.run(Work.FINAL, bench.job("final")))
    bench.let("final")
    assert await final == "final"
    assert not slow.done()
    bench.let("eyes")
    await slow
    priorities.close()


async def test_who_stops_waiting_loses_no_ones_turn() -> None:
    priorities, bench = Priorities(), Bench()
    running = asyncio.create_task(priorities.run(Work.PARTIAL, bench.job("running")))
    gone = asyncio.create_task(priorities.run(Work.PARTIAL, bench.job("gone")))
    waiting = asyncio.create_task(priorities.run(Work.PREFILL, bench.job("waiting")))
    await turns()
    gone.cancel()
    running.cancel()
    await turns()
    assert running.done()
    assert bench.started == ["running"], "a thread that still runs keeps its turn"
    bench.let("running", "waiting")
    assert await waiting == "waiting"
    priorities.close()


async def test_a_turn_is_given_back_when_work_fails() -> None:
    priorities = Priorities()

    def failing() -> Callable[[], None]:
        raise RuntimeError("not prepared")

    def fail() -> None:
        raise RuntimeError("not done")

    with pytest.raises(RuntimeError, match="not prepared"):
        await priorities.run(Work.EYES, failing)
    with pytest.raises(RuntimeError, match="not done"):
        await priorities.run(Work.EYES, lambda: fail)
    async with priorities.turn(Work.PREFILL):
        pass
    priorities.close()
