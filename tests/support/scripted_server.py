"""A real server on a free port of 127.0.0.1, in a thread: real transport, hearing and session; only the engine is a
stand-in, which answers each turn with a tone after set delays. Another engine and other ears can be given."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import numpy as np
import uvicorn
from starlette.applications import Starlette

from omni_rt.config import Settings
from omni_rt.engine.api import (
    OUTPUT_RATE,
    AudioDelta,
    Chunk,
    EngineListener,
    Pcm,
    ReplyEnd,
    RespondOptions,
    Rgb,
    SessionSettings,
    TextDelta,
)
from omni_rt.media.hearing import Ears
from omni_rt.server.app import api_routes
from omni_rt.server.calls import Calls
from omni_rt.server.door import Door
from omni_rt.server.metrics import Metrics
from omni_rt.session.hearing import MakeHearing
from tests.support.scripted import ScriptedEngine, ScriptedEngineSession
from tests.support.speech import model

TONE_S = 0.6
TEXT_DELAY_S = 0.2
AUDIO_DELAY_S = 0.1


def tone() -> Pcm:
    t = np.arange(round(TONE_S * OUTPUT_RATE)) / OUTPUT_RATE
    return (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)


class ToneSession(ScriptedEngineSession):
    """Says "a tone" by sounding one; keeps the last picture it was shown."""

    def __init__(self, listener: EngineListener) -> None:
        super().__init__(listener)
        self.shown: list[Rgb] = []

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        self.shown.append(rgb)

    async def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        self.calls.append(("respond", options))
        generation = options.generation
        await self.go.wait()
        if self.fail:
            yield ReplyEnd(generation, "failed", error=self.fail)
            return
        await asyncio.sleep(TEXT_DELAY_S)
        yield TextDelta(generation, "a tone")
        await asyncio.sleep(AUDIO_DELAY_S)
        yield AudioDelta(generation, tone(), "a tone")
        yield ReplyEnd(generation, "completed")


class ToneEngine(ScriptedEngine):
    """Sessions opened while it is `mute` never answer, while there is a `fail` their answers fail for that reason."""

    mute = False
    fail = ""

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> ToneSession:
        session = ToneSession(listener)
        if self.mute:
            session.go.clear()
        session.fail = self.fail
        self.sessions.append(session)
        return session


class ScriptedServer:
    """`url` answers while the context lasts."""

    def __init__(
        self, settings: Settings, engine: ScriptedEngine | None = None, hearing: MakeHearing | None = None
    ) -> None:
        self.engine = engine or ToneEngine()
        self.ears = None if hearing else Ears.load(model("silero-vad-v6"), model("smart-turn-v3.2"))
        door = Door(settings.server)
        listen = hearing or self.ears.listen
        self.calls = Calls(settings, self.engine, listen, Metrics(), door.ephemeral)
        app = Starlette(routes=api_routes(self.calls, door))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=self._serve, name="scripted-server")
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def session(self) -> ToneSession:
        """The newest session's engine."""
        newest = self.engine.sessions[-1]
        assert isinstance(newest, ToneSession)
        return newest

    def end_all_calls(self) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.calls.places.close("the test ends it"), self._loop).result(20)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.end_all_calls()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        if self.ears is not None:
            self.ears.close()

    def _serve(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())


@contextmanager
def scripted_server(
    settings: Settings, engine: ScriptedEngine | None = None, hearing: MakeHearing | None = None
) -> Iterator[ScriptedServer]:
    server = ScriptedServer(settings, engine, hearing)
    server.start()
    try:
        yield server
    finally:
        server.stop()
