"""Every way to lose a worker: who hears of it, and that there is another one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from omni_rt.config import Settings, validate
from omni_rt.engine.api import (
    ContextItem,
    EngineError,
    EngineLost,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
)
from omni_rt.engine.link import Limits
from omni_rt.engine.remote import RemoteEngine
from tests.support.echo_engine import ECHO, QUICK, Heard, answer, exists, until


@pytest.fixture
async def engine() -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(Settings(), factory=ECHO, limits=QUICK)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


async def test_killed_while_idle(engine: RemoteEngine, heard: Heard) -> None:
    """Every session hears of it once, calls into the void are harmless, and there is a new worker by itself."""
    other = Heard()
    session = await engine.open("one", SessionSettings(), heard)
    await engine.open("two", SessionSettings(), other)
    pid = engine.health.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: heard.lost and other.lost)
    assert heard.lost[0].code == "engine_lost"
    assert "killed" in str(heard.lost[0])
    assert engine.health.state == "restarting"
    assert not engine.ready
    session.append_audio(np.zeros(320, np.int16))
    session.cancel(1)
    ends = [chunk async for chunk in session.respond(RespondOptions(1))]
    assert [(end.reason, "killed" in end.error) for end in ends if isinstance(end, ReplyEnd)] == [("failed", True)]
    with pytest.raises(EngineLost):
        await session.keep_heard(1, 100)
    with pytest.raises(EngineLost):
        await session.overhear(np.zeros(1600, np.int16))
    rebuilt = await engine.open("one", SessionSettings(), heard)  # waits for the new worker
    assert (engine.ready, engine.health.restarts) == (True, 1)
    assert engine.health.pid != pid
    assert not exists(pid)
    rebuilt.restore([ContextItem("a", "user", "remember me")])
    assert await answer(rebuilt, 1) == "remember me 0 0"
    session.close()
    assert (len(heard.lost), len(other.lost)) == (1, 1)


async def test_killed_while_speaking(engine: RemoteEngine, heard: Heard) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    other = await engine.open("two", SessionSettings(), Heard())
    other.append_text("then !stall", "user", "a")
    assert await answer(other, 1) == "then !stall"
    keeping = asyncio.ensure_future(other.keep_heard(1, 100))
    overhearing = asyncio.ensure_future(session.overhear(np.zeros(1, np.int16)))
    session.append_text("one two !forever three", "user", "a")
    reply = session.respond(RespondOptions(1))
    chunks = [await anext(reply) for _ in range(4)]
    assert engine.health.pid is not None
    os.kill(engine.health.pid, signal.SIGKILL)
    chunks += [chunk async for chunk in reply]
    assert [chunk.text for chunk in chunks if isinstance(chunk, TextDelta)] == ["one ", "two "]
    end = chunks[-1]
    assert isinstance(end, ReplyEnd)
    assert (end.generation, end.reason) == (1, "failed")
    assert "killed" in end.error
    with pytest.raises(EngineLost, match="killed"):
        await keeping
    with pytest.raises(EngineLost, match="killed"):
        await overhearing
    await until(lambda: heard.lost)
    rebuilt = await engine.open("one", SessionSettings(), heard)
    rebuilt.append_text("back again", "user", "b")
    assert await answer(rebuilt, 2) == "back again"
    assert len(heard.lost) == 1


async def test_killed_while_opening(engine: RemoteEngine, heard: Heard) -> None:
    """The open is made again on the new worker; there was no session yet that could be lost."""
    opening = asyncio.create_task(engine.open("slow", SessionSettings(), heard))
    await asyncio.sleep(0.1)
    assert engine.health.pid is not None
    os.kill(engine.health.pid, signal.SIGKILL)
    session = await opening
    session.append_text("second try", "user", "a")
    assert await answer(session, 1) == "second try"
    assert (engine.health.restarts, heard.lost) == (1, [])


async def test_crash_tells_its_last_words(engine: RemoteEngine, heard: Heard) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    session.append_text("!crash", "user", "a")
    await until(lambda: heard.lost)
    assert "exit code 3; the last it said: the echo engine was told to crash" in str(heard.lost[0])


async def test_hung_worker_is_noticed_killed_and_replaced(
    engine: RemoteEngine, heard: Heard, capfd: pytest.CaptureFixture[str]
) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    pid = engine.health.pid
    assert pid is not None
    session.append_text("!hang", "user", "a")
    await until(lambda: heard.lost)
    assert "has not answered for" in str(heard.lost[0])
    rebuilt = await engine.open("one", SessionSettings(), heard)
    rebuilt.append_text("awake", "user", "b")
    assert await answer(rebuilt, 1) == "awake"
    assert not exists(pid)
    assert "in _obey" in capfd.readouterr().err  # the stacks of the hung worker


async def test_busy_worker_is_left_alone(engine: RemoteEngine, heard: Heard) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    pid = engine.health.pid
    session.append_text("!busy", "user", "a")
    await asyncio.sleep(2 * QUICK.beat_s * QUICK.hung_beats)
    session.append_text("done", "user", "b")
    assert await answer(session, 1) == "done"
    assert (engine.health.pid, heard.lost) == (pid, [])


async def test_server_that_stood_still_does_not_blame_the_worker(engine: RemoteEngine, heard: Heard) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    time.sleep(2 * QUICK.beat_s * QUICK.hung_beats)  # noqa: ASYNC251
    await asyncio.sleep(5 * QUICK.beat_s)
    session.append_text("here", "user", "a")
    assert await answer(session, 1) == "here"
    assert engine.health.restarts == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
async def test_full_pipe_neither_blocks_nor_grows_without_bound(heard: Heard) -> None:
    limits = Limits(beat_s=30, queued_bytes=8 * 2**20, stalled_s=0.5, close_s=3)
    engine = RemoteEngine(Settings(), factory=ECHO, limits=limits)
    await engine.start()
    session = await engine.open("one", SessionSettings(), heard)
    assert engine.health.pid is not None
    os.kill(engine.health.pid, signal.SIGSTOP)
    picture = np.zeros((480, 640, 3), np.uint8)
    sent = 0
    # Were one of these calls to wait for the worker, nobody would ever end it.
    while not heard.lost:
        session.append_image(picture, sent)
        sent += 1
        await asyncio.sleep(0.01)
    assert "does not read its messages" in str(heard.lost[0])
    assert sent * picture.nbytes > limits.queued_bytes
    rebuilt = await engine.open("one", SessionSettings(), heard)
    rebuilt.append_text("drained", "user", "a")
    assert await answer(rebuilt, 1) == "drained"
    await engine.close()


async def test_burst_larger_than_the_queue_is_no_fault(heard: Heard) -> None:
    engine = RemoteEngine(Settings(), factory=ECHO, limits=Limits(queued_bytes=2**20))
    await engine.start()
    session = await engine.open("one", SessionSettings(), heard)
    audio = np.zeros(4 * 2**20, np.int16)
    for _ in range(10):
        session.restore([ContextItem("a", "user", "long", audio=audio)])
    assert await answer(session, 1) == f"long {len(audio)} 0"
    assert heard.lost == []
    await engine.close()


async def test_worker_that_keeps_dying_is_given_up(heard: Heard) -> None:
    engine = RemoteEngine(validate({"engine": {"restart_limit": 2}}), factory=ECHO, limits=QUICK)
    await engine.start()
    for time_lost in (1, 2, 3):
        session = await engine.open("one", SessionSettings(), heard)
        waiting = asyncio.create_task(engine.open("!crash", SessionSettings(), Heard())) if time_lost == 3 else None
        if waiting is None:
            session.append_text("!crash", "user", "a")
        await until(lambda n=time_lost: len(heard.lost) == n)
    await until(lambda: engine.health.state == "failed")
    assert waiting is not None
    with pytest.raises(EngineError) as down:
        await waiting
    assert down.value.code == "engine_down"
    for words in ("told to crash", "given up after 2 restarts", "restart the server"):
        assert words in str(down.value)
        assert words in engine.health.message
    with pytest.raises(EngineError, match="given up"):
        await engine.open("one", SessionSettings(), heard)
    await engine.start()
    session = await engine.open("one", SessionSettings(), heard)
    session.append_text("fresh", "user", "a")
    assert await answer(session, 1) == "fresh"
    await engine.close()


async def test_restarts_that_do_not_start_are_given_up(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RemoteEngine(Settings(), factory=ECHO, limits=QUICK)
    await engine.start()
    await engine.open("one", SessionSettings(), heard)
    monkeypatch.setenv("ECHO_START", "!refuse")
    assert engine.health.pid is not None
    os.kill(engine.health.pid, signal.SIGKILL)
    await until(lambda: heard.lost)
    with pytest.raises(EngineError, match=r"told to refuse.*given up after 3 restarts") as down:
        await engine.open("one", SessionSettings(), heard)
    assert down.value.code == "engine_down"
    assert engine.health.state == "failed"
    await engine.close()
