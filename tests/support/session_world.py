"""A session in virtual time between a client that only knows what it is told, a paced engine and either transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from starlette.websockets import WebSocket

from omni_rt.config import validate
from omni_rt.engine.api import (
    AudioDelta,
    CallDelta,
    Chunk,
    EngineListener,
    Pcm,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
    Transcript,
)
from omni_rt.realtime.settings import WireSession
from omni_rt.session import moments
from omni_rt.session.commands import read_events
from omni_rt.session.session import Session
from omni_rt.transport.base import SentAudio
from omni_rt.transport.websocket import WebSocketTransport
from tests.support.scripted import KeptTransport, ScriptedEars, ScriptedEngine, ScriptedEngineSession
from tests.support.virtual_loop import VirtualLoop

T = TypeVar("T")
TICK_MS = 20
WORD_MS = 200


class AtOnce(ThreadPoolExecutor):
    """Threads' work is done where it is asked for, so that runs are equal."""

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class PacedEngineSession(ScriptedEngineSession):
    """Says its words in `word_s` each, understands `understand_s` after the commit; `tool` and `fail` hold for one
    reply."""

    word_s = 0.03
    understand_s = 0.1

    def commit(self, item_id: str) -> None:
        self.calls.append(("commit", item_id))
        told = Transcript(item_id, self.understood, True)
        asyncio.get_running_loop().call_later(self.understand_s, self.listener.on_transcript, told)

    async def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        generation, tool, fail = options.generation, self.tool, self.fail
        self.tool, self.fail = None, ""
        said = self.said.setdefault(generation, [])
        for word in self.words:
            await asyncio.sleep(self.word_s)
            if generation in self.cancelled:
                yield ReplyEnd(generation, "cancelled")
                return
            said.append(word)
            yield TextDelta(generation, f"{word} ")
            if options.audio:
                yield AudioDelta(generation, np.full(24 * WORD_MS, 1000, np.int16), f"{word} ")
        if fail:
            yield ReplyEnd(generation, "failed", error=fail)
            return
        if tool is not None:
            yield CallDelta(generation, f"call_{generation}", tool.name, tool.arguments)
        yield ReplyEnd(generation, "completed")


class PacedEngine(ScriptedEngine):
    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> PacedEngineSession:
        session = PacedEngineSession(listener)
        self.sessions.append(session)
        return session


class PlayingTransport(KeptTransport):
    """Sends 20 ms of sound every 20 ms, as the one for calls does."""

    _playing: asyncio.Task[None] | None = None

    def send_audio(self, generation: int, pcm: Pcm) -> None:
        whole, rest = divmod(len(pcm), 24 * TICK_MS)
        self.queue += [(generation, float(TICK_MS))] * whole + ([(generation, rest / 24)] if rest else [])
        if self._playing is None or self._playing.done():
            self._playing = asyncio.ensure_future(self._play())

    async def _play(self) -> None:
        while self.queue and not self.closed:
            await asyncio.sleep(TICK_MS / 1000)
            if self.queue:
                generation, ms = self.queue.pop(0)
                at = self.reply_ms.get(generation, 0.0)
                self.reply_ms = {generation: at + ms}
                self.listener.on_sent(SentAudio(generation, at, self.stream_ms, ms, np.zeros(round(ms * 24), np.int16)))
                self.stream_ms += ms

    async def close(self) -> None:
        self.closed = True
        if self._playing is not None:
            await self._playing


class World:
    """`send` and `speak` are the client's; `take` gives what the server has told since the last call.

    Opened and closed by who makes it; meanwhile the session's clock is the loop's.
    """

    def __init__(self, server_plays: bool, **server: Any) -> None:
        self.loop = VirtualLoop()
        self.loop.set_default_executor(AtOnce())
        self.faults: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(str(context)))
        self._time, moments.time = moments.time, SimpleNamespace(monotonic=self.loop.time)  # type: ignore[attr-defined,assignment]
        self.engine = PacedEngine()
        wire = WireSession(id="s", model="m", audio={"output": {"voice": "tone"}})  # type: ignore[arg-type]
        self.session = Session("s", validate({"server": server}), self.engine, ScriptedEars, wire)
        self.server_plays = server_plays
        self._told: list[dict[str, Any]] = []
        self._to_server: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.run(self._open())

    @property
    def model(self) -> PacedEngineSession:
        session = self.engine.sessions[0]
        assert isinstance(session, PacedEngineSession)
        return session

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def send(self, **event: Any) -> None:
        """Send an event and let it be carried out; no time passes."""
        self.run(self._send(json.dumps(event)))

    def speak(self, pcm: Pcm) -> None:
        """Sound of a microphone, 16 kHz, in the time it takes."""
        self.run(self._speak(pcm))

    def pass_time(self, ms: int) -> None:
        self.run(asyncio.sleep(ms / 1000))

    def take(self) -> list[dict[str, Any]]:
        told, self._told = self._told, []
        return told

    def close(self) -> None:
        try:
            self.run(self.session.close("over"))
            self.run(self._end())
        finally:
            moments.time = self._time
            self.loop.close()

    async def _open(self) -> None:
        await self.session.open()
        if self.server_plays:
            plays = PlayingTransport(self.session)
            plays.send_event = lambda event: self._told.append(event)  # type: ignore[method-assign]
            self.session.attach(plays, read_events)
            self.session.on_open()
            return
        await self._to_server.put({"type": "websocket.connect"})
        socket = WebSocket({"type": "websocket", "headers": []}, self._to_server.get, self._from_server)
        await socket.accept()
        sends = WebSocketTransport(socket, self.session, self.session.replies.audio_event, 10_000)
        self.session.attach(sends, read_events)
        self._serving = asyncio.ensure_future(sends.run())
        await self._settle()

    async def _from_server(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            self._told.append(json.loads(message["text"]))

    async def _send(self, raw: str) -> None:
        if self.server_plays:
            self.session.on_event(raw)
        else:
            await self._to_server.put({"type": "websocket.receive", "text": raw})
        await self._settle()

    async def _speak(self, pcm: Pcm) -> None:
        for start in range(0, len(pcm), 16 * TICK_MS):
            self.session.on_audio(pcm[start : start + 16 * TICK_MS], False)
            await asyncio.sleep(TICK_MS / 1000)

    async def _settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def _end(self) -> None:
        if not self.server_plays:
            await self._to_server.put({"type": "websocket.disconnect", "code": 1000})
            await asyncio.wait_for(self._serving, 1)
        await self._settle()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
