"""An engine in a worker process: it behaves as in this process, says why it can't start, and leaves when told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt.config import Settings, validate
from omni_rt.engine.api import (
    ContextItem,
    Engine,
    EngineError,
    EngineLost,
    Mark,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
)
from omni_rt.engine.link import Limits
from omni_rt.engine.remote import RemoteEngine
from tests.support.echo_engine import ECHO, QUICK, EchoEngine, Heard, answer, exists, plain, until


@pytest.fixture
async def engine() -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(Settings(), factory=ECHO, limits=QUICK)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


async def scenario(engine: Engine) -> list[Any]:
    """Everything the seam can do, with all that is seen of it."""
    seen: list[Any] = [engine.capabilities]
    heard = Heard()
    session = await engine.open("one", SessionSettings(instructions="be brief", voice="tone"), heard)

    async def reply(generation: int) -> None:
        options = RespondOptions(generation, judge_ending=generation == 2)
        seen.extend([plain(chunk) async for chunk in session.respond(options)])

    session.append_text("good morning to you", "user", "i1")
    await reply(1)
    seen.append(await session.keep_heard(1, 250))
    await_audio = np.arange(-160, 160, dtype=np.int16)
    session.append_audio(await_audio)
    session.append_audio(await_audio[:0])
    mark = session.mark()
    session.append_audio(await_audio * 3)
    session.append_image(np.full((48, 64, 3), 7, np.uint8), 1500)
    session.commit("i2")
    await reply(2)
    session.rollback(mark)
    session.commit("i3")
    await reply(3)
    session.append_audio(await_audio)
    session.discard()
    session.commit("i4")
    session.append_tool_result("call1", "twelve", "i5")
    seen.append(await session.overhear(await_audio))
    with pytest.raises(EngineError) as no_clip:
        await session.overhear(await_audio[:0])
    seen.append((no_clip.type, no_clip.value.code, str(no_clip.value)))
    await reply(4)
    seen.append(await session.keep_heard(4, 0))

    # Refused requests say why and change nothing.
    with pytest.raises(EngineError) as no_reply:
        await session.keep_heard(99, 100)
    seen.append((no_reply.type, no_reply.value.code, str(no_reply.value)))
    second = await engine.open("two", SessionSettings(), Heard())
    with pytest.raises(EngineError) as busy:
        await engine.open("three", SessionSettings(), Heard())
    seen.append((busy.type, busy.value.code, str(busy.value)))
    second.close()
    second.close()
    third = await engine.open("three", SessionSettings(), Heard())
    third.append_text("apart", "user", "x")
    seen.append(await answer(third, 1))
    third.close()

    # Cancelled: by name, by closing it unread, by closing it half read. The next one is answered each time.
    session.append_text("wait !forever never", "user", "i6")
    chunks = session.respond(RespondOptions(5))
    seen.append(await anext(chunks))
    with pytest.raises(EngineError) as active:
        [chunk async for chunk in session.respond(RespondOptions(6))]
    seen.append((active.type, active.value.code, str(active.value)))
    session.cancel(4)
    session.cancel(5)
    seen.extend([plain(chunk) async for chunk in chunks])
    session.append_text("wait !forever never", "user", "i7")
    async with aclosing(session.respond(RespondOptions(7))) as closing:  # type: ignore[type-var]
        async for _ in closing:
            break
    session.append_text("after that", "user", "i8")
    await reply(8)

    picture = np.zeros((300, 400, 3), np.uint8)
    session.restore(
        [
            ContextItem("a", "user", "spoken", audio=np.zeros(100_000, np.int16)),
            ContextItem("b", "user", "shown", images=(picture, picture)),
        ]
    )
    session.configure(SessionSettings(instructions="be long"))
    await reply(9)
    session.close()
    assert (heard.errors, heard.lost) == ([], [])
    assert len(heard.endings) == 1
    return [*seen, *heard.transcripts, *heard.endings]


async def test_remote_engine_behaves_as_in_process(engine: RemoteEngine) -> None:
    here = await scenario(EchoEngine(Settings()))
    there = await scenario(engine)
    assert len(here) > 40
    assert there == here


async def test_overheard_beside_a_reply(engine: RemoteEngine, heard: Heard) -> None:
    """It waits for nothing, changes nothing, and ends with its session."""
    session = await engine.open("one", SessionSettings(), heard)
    session.append_text("wait !forever never", "user", "a")
    reply = session.respond(RespondOptions(1))
    assert await anext(reply) == TextDelta(1, "wait ")
    clip = np.zeros(1600, np.int16)
    endless = asyncio.ensure_future(session.overhear(clip[:1]))
    forgotten = asyncio.ensure_future(session.overhear(clip[:1]))
    assert [await session.overhear(clip), await session.overhear(clip[:800])] == ["1600 samples", "800 samples"]
    forgotten.cancel()
    session.cancel(1)
    assert [chunk async for chunk in reply][-1].reason == "cancelled"  # type: ignore[union-attr]
    session.append_text("go on", "user", "b")
    assert await answer(session, 2) == "go on"
    assert not endless.done()
    session.close()
    with pytest.raises(EngineError) as closed:
        await endless
    assert closed.value.code == "session_closed"
    with pytest.raises(EngineError) as absent:
        await session.overhear(clip)
    assert absent.value.code == "session_closed"
    assert heard.errors == []


@pytest.mark.parametrize("way", ["close", "drop"])
async def test_reply_that_is_never_read_is_cancelled(way: str, engine: RemoteEngine, heard: Heard) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    session.append_text("wait !forever never", "user", "a")
    reply: Any = session.respond(RespondOptions(1))
    if way == "close":
        await reply.aclose()
    del reply
    while way == "drop":  # unlike closing, dropping can't wait until the engine has ended it
        try:
            assert await answer(session, 2) in ("", "wait")
            break
        except EngineError as error:
            assert error.code == "reply_active"  # noqa: PT017
    session.append_text("go on", "user", "b")
    assert await answer(session, 3) == "go on"


async def test_errors_of_calls_come_to_whom_they_concern(engine: RemoteEngine, heard: Heard) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    other = Heard()
    bystander = await engine.open("two", SessionSettings(), other)
    session.append_audio(np.zeros(320, np.float32))  # type: ignore[arg-type]
    session.append_text("!refuse", "user", "a")
    session.append_text("!bug", "user", "b")
    session.rollback(Mark(17))
    await until(lambda: len(heard.errors) == 4)
    assert [error.code for error in heard.errors] == ["bad_audio", "refused", "engine_failed", "unknown_mark"]
    assert str(heard.errors[0]) == "audio is int16, not float32"
    assert "ValueError: a bug" in str(heard.errors[2])
    session.append_text("before !bug after", "user", "c")
    chunks = [chunk async for chunk in session.respond(RespondOptions(1))]
    assert chunks[0] == TextDelta(1, "before ")
    assert isinstance(chunks[-1], ReplyEnd)
    assert (chunks[-1].reason, "ValueError: a bug" in chunks[-1].error) == ("failed", True)
    session.append_text("still here", "user", "d")
    assert await answer(session, 2) == "still here"
    bystander.append_text("me too", "user", "e")
    assert await answer(bystander, 1) == "me too"
    assert (other.errors, heard.lost) == ([], [])


async def test_an_engine_that_loses_one_session_keeps_the_others(engine: RemoteEngine, heard: Heard) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    bystander = await engine.open("two", SessionSettings(), Heard())
    session.append_text("wait !forever never", "user", "a")
    chunks = session.respond(RespondOptions(1))
    await anext(chunks)
    overheard = asyncio.ensure_future(session.overhear(np.zeros(1, np.int16)))
    session.append_text("!lose", "user", "b")
    end = [chunk async for chunk in chunks][-1]
    assert isinstance(end, ReplyEnd)
    assert (end.reason, end.error) == ("failed", "this session's memory was lost")
    assert [str(error) for error in heard.lost] == ["this session's memory was lost"]
    with pytest.raises(EngineLost, match="memory was lost"):
        await overheard
    rebuilt = await engine.open("one", SessionSettings(), heard)
    rebuilt.append_text("again", "user", "c")
    assert await answer(rebuilt, 1) == "again"
    bystander.append_text("untouched", "user", "d")
    assert await answer(bystander, 1) == "untouched"
    assert engine.health.restarts == 0


async def test_an_open_that_is_given_up_leaves_no_session_behind(engine: RemoteEngine, heard: Heard) -> None:
    for _ in range(5):  # the engine has two places
        opening = asyncio.create_task(engine.open("slow", SessionSettings(), heard))
        await asyncio.sleep(0.05)
        opening.cancel()
        await asyncio.wait([opening])
    await asyncio.sleep(0.5)
    first = await engine.open("one", SessionSettings(), heard)
    await engine.open("two", SessionSettings(), heard)
    first.append_text("room", "user", "a")
    assert await answer(first, 1) == "room"


async def test_prints_and_logs_of_the_engine_come_out_with_a_prefix(
    engine: RemoteEngine, heard: Heard, capfd: pytest.CaptureFixture[str]
) -> None:
    session = await engine.open("one", SessionSettings(), heard)
    session.append_text("!print", "user", "a")
    session.append_text("fine", "user", "b")
    assert await answer(session, 1) == "fine"
    prefix = f"[worker {engine.health.pid}] "
    err = ""
    while "logged by the engine" not in err:
        await asyncio.sleep(0.01)
        err += capfd.readouterr().err
    for line in ("printed by the engine", "written by native code", "WARNING echo: logged by the engine"):
        assert prefix + line in err.splitlines()


# --- starting


@pytest.mark.parametrize(
    ("settings", "factory", "code", "words"),
    [
        (Settings(), "no_such_module:Engine", "engine_import", "no_such_module"),
        (Settings(), ECHO.replace("Echo", "NoSuch"), "engine_import", "NoSuchEngine"),
        (validate({"engine": {"kind": "qwen3_omni"}}), "", "weights_missing", "needs weights"),
    ],
)
async def test_a_start_that_fails_says_why(settings: Settings, factory: str, code: str, words: str) -> None:
    engine = RemoteEngine(settings, factory=factory, limits=QUICK)
    with pytest.raises(EngineError) as failed:
        await engine.start()
    assert failed.value.code == code
    assert words in str(failed.value)
    assert engine.health.state == "failed"
    assert words in engine.health.message
    with pytest.raises(EngineError) as down:
        await engine.open("one", SessionSettings(), Heard())
    assert down.value.code == "engine_down"
    assert words in str(down.value)
    await engine.close()


@pytest.mark.parametrize(
    ("word", "code", "words"),
    [
        ("!refuse", "refused", "told to refuse"),
        ("!bug", "engine_failed", "ValueError: a bug"),
        ("!crash", "engine_down", "exit code 3; the last it said: the echo engine was told to crash"),
        ("!abort", "engine_down", "died of SIGABRT"),
        ("!hang", "engine_down", "has not answered"),
    ],
)
async def test_an_engine_that_fails_in_start_says_why(
    word: str, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHO_START", word)
    engine = RemoteEngine(Settings(), factory=ECHO, limits=Limits(beat_s=0.1, start_beats=50))
    with pytest.raises(EngineError) as failed:
        await engine.start()
    assert failed.value.code == code
    assert words in str(failed.value)
    monkeypatch.delenv("ECHO_START")
    await engine.start()  # a second try is allowed
    assert engine.ready
    await engine.close()


async def test_loading_may_block_the_worker_for_longer_than_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHO_START", "!load")
    engine = RemoteEngine(Settings(), factory=ECHO, limits=Limits(beat_s=0.1, hung_beats=15))
    await engine.start()
    await asyncio.sleep(0.3)
    assert engine.ready
    await engine.close()


async def test_a_start_that_is_broken_off_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHO_START", "!hang")
    engine = RemoteEngine(Settings(), factory=ECHO, limits=QUICK)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine._link is not None)
    assert engine._link is not None
    pid = engine._link.pid
    await asyncio.sleep(0.5)
    starting.cancel()
    await asyncio.wait([starting])
    assert not exists(pid)
    assert engine.health.state == "failed"
    await engine.close()


# --- leaving


async def test_close_ends_replies_and_process(heard: Heard) -> None:
    engine = RemoteEngine(Settings(), factory=ECHO, limits=QUICK)
    await engine.start()
    pid = engine.health.pid
    assert pid is not None
    session = await engine.open("one", SessionSettings(), heard)
    session.append_text("wait !forever never", "user", "a")
    reply = session.respond(RespondOptions(1))
    await anext(reply)
    await engine.close()
    end = [chunk async for chunk in reply][-1]
    assert isinstance(end, ReplyEnd)
    assert (end.reason, end.error) == ("failed", "the engine was closed")
    assert not exists(pid)
    assert engine.health.state == "stopped"
    assert heard.lost == []
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("engine-")])
    await engine.close()
    await engine.start()
    assert engine.ready
    await engine.close()


@pytest.mark.parametrize("way", ["hang", "never", "stop", "killed", "restarting"])
async def test_close_is_bounded(way: str, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "never":
        monkeypatch.setenv("ECHO_CLOSE", "never")
    engine = RemoteEngine(Settings(), factory=ECHO, limits=Limits(close_s=0.5))
    await engine.start()
    pid = engine.health.pid
    assert pid is not None
    session = await engine.open("one", SessionSettings(), heard)
    match way:
        case "hang":
            session.append_text("!hang", "user", "a")
        case "stop":
            os.kill(pid, signal.SIGSTOP)
        case "killed":
            os.kill(pid, signal.SIGKILL)
        case "restarting":
            monkeypatch.setenv("ECHO_START", "!hang")
            os.kill(pid, signal.SIGKILL)
            await until(lambda: engine.health.restarts == 1)
            assert engine._link is not None
            pid = engine._link.pid
    await engine.close()
    assert not exists(pid)
    assert engine.health.state == "stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
async def test_ctrl_c_is_left_to_the_server(engine: RemoteEngine, heard: Heard) -> None:
    assert engine.health.pid is not None
    assert os.getpgid(engine.health.pid) != os.getpgid(0)  # a terminal sends it to the server's group
    os.kill(engine.health.pid, signal.SIGINT)
    session = await engine.open("one", SessionSettings(), heard)
    session.append_text("unmoved", "user", "a")
    assert await answer(session, 1) == "unmoved"
    assert engine.health.restarts == 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("state", ["idle", "hung"])
def test_worker_dies_with_its_server(state: str, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio
        from omni_rt.config import Settings
        from omni_rt.engine.api import SessionSettings
        from omni_rt.engine.remote import RemoteEngine
        from tests.support.echo_engine import ECHO, Heard

        async def main():
            engine = RemoteEngine(Settings(), factory=ECHO)
            await engine.start()
            session = await engine.open("one", SessionSettings(), Heard())
            if {state!r} == "hung":
                session.append_text("!hang", "user", "a")
            await asyncio.sleep(0.5)
            print(engine.health.pid, flush=True)
            await asyncio.sleep(1000)

        asyncio.run(main())
    """)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    ) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        assert exists(pid)
        server.kill()
    while exists(pid):
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            break  # dead, and whoever adopted it has not looked yet
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not made for it")
def test_under_uvloop() -> None:
    import uvloop

    async def main() -> None:
        engine = RemoteEngine(Settings(), factory=ECHO, limits=QUICK)
        await engine.start()
        heard = Heard()
        session = await engine.open("one", SessionSettings(), heard)
        assert engine.health.pid is not None
        os.kill(engine.health.pid, signal.SIGKILL)
        await until(lambda: heard.lost)
        session = await engine.open("one", SessionSettings(), heard)
        session.append_text("on uvloop", "user", "a")
        assert await answer(session, 1) == "on uvloop"
        await engine.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
