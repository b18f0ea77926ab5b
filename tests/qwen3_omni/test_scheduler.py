"""The computing thread in virtual time: who is next, how far ahead, in what order, and how it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.pieces import line
from omni_rt.engine.qwen3_omni.random_weights import RandomSource
from omni_rt.engine.qwen3_omni.requests import Chunk, Read, Request, Result
from omni_rt.engine.qwen3_omni.scheduler import AHEAD_S, Scheduler

TINY = RandomSource("tiny", 0).spec().text


@dataclass(eq=False)
class Steps:
    """Work with a list of deadlines, one a step; writes its name down at each step."""

    name: str
    deadlines: list[float]
    done: list[str]
    errors: list[Exception] = field(default_factory=list)

    def deadline(self, now: float) -> float | None:
        return self.deadlines[0] if self.deadlines else None

    def step(self) -> None:
        self.deadlines.pop(0)
        self.done.append(self.name)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def request(self) -> Request | None:
        return None

    def take(self, request: Request, result: Result) -> None:
        raise AssertionError("nothing was asked")


def no_machine(requests: Sequence[Request]) -> list[Result]:
    raise AssertionError("nothing was asked")


class Failing(Steps):
    def step(self) -> None:
        super().step()
        raise ValueError(self.name)


class Unsure(Steps):
    def deadline(self, now: float) -> float | None:
        raise ValueError(self.name)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(clock: Clock) -> Iterator[Scheduler]:
    scheduler = Scheduler(no_machine, clock)
    yield scheduler
    scheduler.close()


def done_within(scheduler: Scheduler) -> None:
    """Wait until everything posted so far is done."""
    reached = threading.Event()
    scheduler.post(reached.set)
    assert reached.wait(20)


def wait_for(scheduler: Scheduler, steps: int) -> None:
    for _ in range(20_000):
        done_within(scheduler)
        if scheduler.steps >= steps:
            return
    raise AssertionError(f"{scheduler.steps} steps instead of {steps}")


def test_commands_run_in_order_before_any_step(scheduler: Scheduler) -> None:
    done: list[str] = []
    scheduler.post(lambda: scheduler.add(Steps("step", [0.0], done)))
    for number in range(100):
        scheduler.post(partial(done.append, str(number)))
    scheduler.start()
    wait_for(scheduler, 1)
    assert done == [*map(str, range(100)), "step"]


def test_the_earliest_deadline_goes_first(scheduler: Scheduler) -> None:
    done: list[str] = []
    for name, deadlines in {"late": [2.0, 2.0], "early": [1.0, 1.5], "first": [0.0, 1.2]}.items():
        scheduler.add(Steps(name, deadlines, done))
    scheduler.start()
    wait_for(scheduler, 6)
    assert done == ["first", "early", "first", "early", "late", "late"]


def test_equals_take_turns(scheduler: Scheduler) -> None:
    done: list[str] = []
    for name in "abc":
        scheduler.add(Steps(name, [1.0] * 3, done))
    scheduler.start()
    wait_for(scheduler, 9)
    assert done == list("abc" * 3)


def test_no_step_is_done_too_far_ahead(scheduler: Scheduler, clock: Clock) -> None:
    done: list[str] = []
    times = [0.0, AHEAD_S, AHEAD_S + 1.0, AHEAD_S + 2.0]
    scheduler.add(Steps("frame", list(times), done))
    scheduler.start()
    wait_for(scheduler, 2)
    for later in (1, 2):
        for _ in range(5):
            done_within(scheduler)
        assert len(done) == 1 + later
        clock.now += 1.0
        wait_for(scheduler, 2 + later)
    assert len(done) == 4


def test_a_failure_is_told_to_its_own_work(scheduler: Scheduler) -> None:
    done: list[str] = []
    bad, good = Failing("bad", [0.0, 0.0], done), Steps("good", [1.0], done)
    scheduler.add(bad)
    scheduler.add(good)
    scheduler.start()
    wait_for(scheduler, 3)
    assert done == ["bad", "bad", "good"]
    assert [str(error) for error in bad.errors] == ["bad", "bad"]
    assert not good.errors


@dataclass(eq=False)
class Reader(Steps):
    """Work that asks for reads of its own row count."""

    rows: int = 1
    results: list[Result] = field(default_factory=list)

    def request(self) -> Request | None:
        cache = KVPool(TINY, tokens=64).new()
        return (
            Read(Chunk(cache, list(range(self.rows)), line(self.rows, 0.0), lambda _: None)) if self.deadlines else None
        )

    def take(self, request: Request, result: Result) -> None:
        self.deadlines.pop(0)
        self.results.append(result)
        if isinstance(result, Exception):
            raise result


def test_of_a_pass_that_fails_each_read_is_tried_alone(clock: Clock) -> None:
    passes: list[list[int]] = []

    def run(requests: Sequence[Request]) -> list[Result]:
        passes.append([request.rows for request in requests if isinstance(request, Read)])
        if 3 in passes[-1]:
            raise ValueError("three rows")
        return [rows * 10 for rows in passes[-1]]

    scheduler = Scheduler(run, clock)
    works = [Reader(str(rows), [0.0], [], rows=rows) for rows in (2, 3, 4)]
    for work in works:
        scheduler.add(work)
    assert scheduler.turn() == 0.0
    assert passes == [[2, 3, 4], [2], [3], [4]]
    assert [work.results[0] for work in works[::2]] == [20, 40]
    assert [len(work.errors) for work in works] == [0, 1, 0]
    assert scheduler.turn() is None


def test_work_that_cannot_say_when_is_left_out(scheduler: Scheduler) -> None:
    done: list[str] = []
    unsure = Unsure("unsure", [], done)
    scheduler.add(unsure)
    scheduler.add(Steps("good", [0.0], done))
    scheduler.start()
    wait_for(scheduler, 1)
    assert done == ["good"]
    assert [str(error) for error in unsure.errors] == ["unsure"]


def test_a_command_that_fails_stops_nothing(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    scheduler.start()
    with caplog.at_level(logging.CRITICAL):
        scheduler.post(lambda: [][0])
        done_within(scheduler)


def test_removed_work_is_left_alone(scheduler: Scheduler) -> None:
    done: list[str] = []
    gone, kept = Steps("gone", [0.0], done), Steps("kept", [0.0], done)
    scheduler.add(gone)
    scheduler.add(kept)
    scheduler.post(lambda: scheduler.remove(gone))
    scheduler.post(lambda: scheduler.remove(gone))
    scheduler.start()
    wait_for(scheduler, 1)
    assert done == ["kept"]


def test_what_was_posted_before_the_end_is_done(scheduler: Scheduler) -> None:
    done: list[int] = []
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        go_on.wait(20)

    scheduler.start()
    scheduler.post(hold)
    assert entered.wait(20)
    for number in range(10):
        scheduler.post(partial(done.append, number))
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    while not scheduler._closing:
        time.sleep(0.001)
    go_on.set()
    closing.join(20)
    assert done == list(range(10))
    scheduler.post(lambda: done.append(-1))
    scheduler.close()
    assert done == list(range(10))


def test_the_end_does_not_wait_for_work(scheduler: Scheduler) -> None:
    done: list[str] = []
    scheduler.add(Steps("endless", [0.0] * 10_000_000, done))
    scheduler.start()
    wait_for(scheduler, 1)
    scheduler.close()
    assert len(done) < 10_000_000


def test_a_scheduler_that_never_started_can_be_closed() -> None:
    Scheduler(no_machine).close()
