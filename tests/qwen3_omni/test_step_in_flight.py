"""While a step is in flight, and it does not end before it is let: nobody waits for it who need not, and what is
cancelled meanwhile asks for nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from omni_rt.config import Settings, validate
from omni_rt.engine.api import (
    ContextItem,
    Engine,
    EngineLost,
    EngineSession,
    RespondOptions,
    SessionSettings,
)
from omni_rt.engine.qwen3_omni import engine as engines
from omni_rt.engine.qwen3_omni import scheduler
from omni_rt.engine.qwen3_omni.requests import Frame, Request
from omni_rt.engine.remote import RemoteEngine
from tests.qwen3_omni.qwen_tokenizer import tokenizer
from tests.qwen3_omni.small_engine import sound, tiny
from tests.qwen3_omni.test_session import Caller, Listener, Reply
from tests.support.echo_engine import QUICK
from tests.support.held_qwen import FOLDER, HELD, FolderGate, Gate, HeldQwen, kind

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("brief")]


def settings() -> Settings:
    return validate(
        {
            "engine": {"kind": "qwen3_omni"},
            "qwen": {"weights": "random:tiny", "device": "cpu", "context_tokens": 1024, "max_reply_tokens": 64},
            "server": {"max_sessions": 4},
        }
    )


class Lost(Listener):
    """Notes it instead of raising it."""

    def on_lost(self, error: EngineLost) -> None:
        self.errors.append(error)


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[HeldQwen, Gate]]:
    monkeypatch.setattr(scheduler, "AHEAD_S", 1e9)  # not held back by how fast a reply is heard
    monkeypatch.setattr(engines, "load", lambda *_, **__: tiny())
    monkeypatch.setattr(HeldQwen, "_tokenizer", lambda *_: tokenizer())
    gate = Gate()
    engine = HeldQwen(settings(), gate)
    await engine.start()
    yield engine, gate
    gate.open()
    await engine.close()


async def talk(engine: HeldQwen, words: str) -> Caller:
    """A session with something to answer."""
    listener = Listener()
    caller = Caller(await engine.open("test", SessionSettings("Be brief."), listener), listener)
    caller.session.append_text(words, "user", "asked")
    return caller


async def in_flight(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered)


async def use_all(session: EngineSession) -> None:
    """Everything that can be asked of a session without waiting, with a turn of the event loop after each."""
    loop = asyncio.get_running_loop()
    turns: list[int] = []
    calls: list[Callable[[], object]] = [
        lambda: session.append_audio(sound(0.5)),
        lambda: session.append_image(np.zeros((64, 64, 3), np.uint8), 100),
        lambda: session.append_text("Meanwhile", "user", "text"),
        lambda: session.append_tool_result("call", "result", "tool"),
        lambda: session.rollback(session.mark()),
        lambda: session.configure(SessionSettings("Be briefer.")),
        lambda: session.commit("audio"),
        lambda: session.append_audio(sound(0.1)),
        session.discard,
        lambda: session.restore([ContextItem("a", "user", "Hello")]),
        lambda: session.cancel(77),
        lambda: session.respond(RespondOptions(78)),
    ]
    for number, call in enumerate(calls):
        call()
        loop.call_soon(turns.append, number)
        await asyncio.sleep(0)
    assert turns == list(range(len(calls)))


# -- in the engine's process


@pytest.mark.parametrize("what", ["token", "frame"])
async def test_a_cancelled_reply_asks_for_nothing_more(held: tuple[HeldQwen, Gate], what: str) -> None:
    engine, gate = held
    caller = await talk(engine, "Hello")
    await caller.at_rest()
    gate.shut(what)
    reply = caller.respond(max_tokens=60)
    await in_flight(gate)
    caller.session.cancel(reply.generation)
    begun = len(gate.passes)
    assert [kind(request) for request in gate.passes[-1]] == [what]
    gate.open()
    await reply.whole()
    await caller.at_rest()
    assert reply.end.reason == "cancelled"
    assert {kind(request) for requests in gate.passes[begun:] for request in requests} <= {"rows"}


@pytest.mark.parametrize("what", ["rows", "token", "frame"])
async def test_a_session_that_is_closed_asks_for_nothing_more(held: tuple[HeldQwen, Gate], what: str) -> None:
    engine, gate = held
    other = await talk(engine, "And you?")
    await other.at_rest()
    gate.shut(what)
    caller = await talk(engine, "Hello " * 20)
    if what == "rows":  # what was said before anything is asked; with a question it would be one pass
        await in_flight(gate)
    reply = caller.respond(max_tokens=60)
    await in_flight(gate)
    begun = len(gate.passes)
    context = caller.session._conversation.context
    own = {id(context.cache), id(context.talker_cache)}
    assert any(caches(request) & own for request in gate.passes[-1])
    caller.session.close()
    going_on = other.respond(max_tokens=8)
    gate.open()
    await going_on.whole()
    await other.at_rest()
    assert (await reply.whole()).end.reason == "cancelled"
    assert going_on.frames
    later = [request for requests in gate.passes[begun:] for request in requests]
    assert later
    assert all(caches(request) and not caches(request) & own for request in later)


def caches(request: Request) -> set[int]:
    """Whose step it is."""
    if isinstance(request, Frame):
        return {id(request.line.cache)}
    found = {id(request.chunk.cache)} if request.chunk is not None else set()
    return found | ({id(request.line.cache)} if request.line is not None else set())


async def test_the_event_loop_turns_while_a_step_is_in_flight(held: tuple[HeldQwen, Gate]) -> None:
    engine, gate = held
    caller = await talk(engine, "Hello")
    gate.shut("frame")
    reply = caller.respond(max_tokens=4)
    await in_flight(gate)
    other = await engine.open("other", SessionSettings(), Listener())
    await use_all(other)
    other.close()
    kept = caller.session.keep_heard(99, 10)
    assert gate.holding
    assert not reply.frames
    gate.open()
    assert await asyncio.wait_for(kept, 60) == ""
    assert (await reply.whole()).frames


async def test_an_answer_that_waits_for_the_step_comes_when_it_is_over(held: tuple[HeldQwen, Gate]) -> None:
    """`keep_heard` takes its place behind the step; who awaits it holds up nobody else."""
    engine, gate = held
    caller = await talk(engine, "Hello")
    gate.shut("token")
    reply = caller.respond(max_tokens=4)
    await in_flight(gate)
    kept = asyncio.ensure_future(caller.session.keep_heard(reply.generation, 0))
    for _ in range(100):
        await asyncio.sleep(0)
    assert gate.holding
    assert not kept.done()
    gate.open()
    assert await asyncio.wait_for(kept, 60) == ""


# -- in a worker


@pytest.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RemoteEngine, FolderGate]]:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    tokenizer()  # the file is there, or the test is skipped
    engine = RemoteEngine(settings(), factory=HELD, limits=QUICK)
    await engine.start()
    gate = FolderGate(tmp_path)
    yield engine, gate
    gate.open()
    await engine.close()


async def held_in(gate: FolderGate, what: str) -> None:
    """Wait until the worker's step is in flight."""
    async with asyncio.timeout(60):
        while not gate.passes() or what not in gate.passes()[-1]:
            await asyncio.sleep(0.005)


async def open_in(engine: Engine, name: str) -> tuple[EngineSession, Lost]:
    listener = Lost()
    return await asyncio.wait_for(engine.open(name, SessionSettings(), listener), 60), listener


@pytest.mark.parametrize("what", ["token", "frame"])
async def test_neither_process_waits_for_the_step(worker: tuple[RemoteEngine, FolderGate], what: str) -> None:
    """The server's event loop turns, and the worker's answers what it has to."""
    engine, gate = worker
    session, listener = await open_in(engine, "one")
    session.append_text("Hello", "user", "asked")
    gate.shut(what)
    reply = Reply(session.respond(RespondOptions(1, max_tokens=60)), 1)
    await held_in(gate, what)
    begun = len(gate.passes())
    pid = engine.health.pid
    for number in range(5):  # there and back through the worker's event loop each time
        other, heard = await open_in(engine, f"other-{number}")
        await use_all(other)
        other.close()
        assert not heard.errors
    assert len(gate.passes()) == begun
    session.cancel(1)
    await open_in(engine, "last")  # the worker knows of the cancellation when it answers
    gate.open()
    await reply.whole()
    assert reply.end.reason == "cancelled"
    assert (engine.health.state, engine.health.pid, engine.health.restarts) == ("ready", pid, 0)
    assert not listener.errors
    assert {word for line in gate.passes()[begun:] for word in line} <= {"rows"}
