"""Replies out of band: on an input of their own, unknown to the conversation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from omni_rt.engine.api import (
    OUTPUT_RATE,
    AudioDelta,
    CallDelta,
    Chunk,
    ContextItem,
    Ending,
    Engine,
    EngineError,
    EngineLost,
    EngineSession,
    ReplyEnd,
    TextDelta,
    Transcript,
    Usage,
)
from omni_rt.media.tempo import Tempo
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.response_params import ResponseParams
from omni_rt.realtime.settings import WireSession
from omni_rt.realtime.writer import EventWriter, ResponseWriter
from omni_rt.session.policy import engine_settings
from omni_rt.session.reply import ENDS

log = logging.getLogger(__name__)

# Replies that may be made or wait to be made.
MOST = 8


class _Listener:
    """What concerns the conversation is told to its own listener."""

    def on_transcript(self, transcript: Transcript) -> None: ...

    def on_ending(self, ending: Ending) -> None: ...

    def on_error(self, error: EngineError) -> None:
        log.warning("a reply out of band: %s", error)

    def on_lost(self, error: EngineLost) -> None: ...


class SideReplies:
    """Makes them one after the other, each on an engine session of its own, so that the conversation's context is never
    touched and its replies go on meanwhile. Such a session takes one of the engine's places while its reply is made."""

    def __init__(self, engine: Engine, session_id: str, events: EventWriter) -> None:
        self._engine = engine
        self._id = session_id
        self._events = events
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self._current: tuple[str, EngineSession] | None = None
        self._cancelled: set[str] = set()

    def ask(
        self, params: ResponseParams, session: WireSession, items: Sequence[ContextItem], event_id: str | None
    ) -> None:
        """Make a reply on `items`; `event_id` is in the error if the engine has no place. Raises WireError."""
        if len(self._tasks) >= MOST:
            raise WireError(
                "too_many_responses",
                f"{MOST} responses out of band are being made or waiting; wait for one to end.",
                "response.conversation",
            )
        self._count += 1
        work = self._make(self._count, params, params.over(session), tuple(items), event_id)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, response_id: str) -> bool:
        """Stop the reply if it is being made; False if it is not."""
        if self._current is None or self._current[0] != response_id:
            return False
        self._cancelled.add(response_id)
        self._current[1].cancel(1)
        return True

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _make(
        self,
        number: int,
        params: ResponseParams,
        session: WireSession,
        items: tuple[ContextItem, ...],
        event_id: str | None,
    ) -> None:
        async with self._turn:
            try:
                engine = await self._engine.open(f"{self._id}-{number}", engine_settings(session), _Listener())
            except EngineError as error:
                fault = WireError(error.code, str(error), "response.conversation", event_id, "server_error")
                self._events.error(fault)
                return
            writer = ResponseWriter(self._events, session, params.metadata, None)
            self._current = writer.id, engine
            try:
                await self._answer(engine, writer, params, session, items)
            except EngineError as error:
                self._take(writer, ReplyEnd(1, "failed", error=f"{error.code}: {error}"))
            except Exception as error:
                log.exception("session %s: a reply out of band failed", self._id)
                self._take(writer, ReplyEnd(1, "failed", error=f"the server failed: {error}"))
            finally:
                self._current = None
                self._cancelled.discard(writer.id)
                with suppress(EngineError):
                    engine.close()

    async def _answer(
        self,
        engine: EngineSession,
        writer: ResponseWriter,
        params: ResponseParams,
        session: WireSession,
        items: tuple[ContextItem, ...],
    ) -> None:
        writer.created()
        engine.restore(items)
        # The engine session has this reply's instructions and tools already.
        options = params.model_copy(update={"instructions": None, "tools": None}).options(1, session)
        chunks = engine.respond(options)
        tempo = Tempo(OUTPUT_RATE, session.audio.output.speed)
        async for chunk in chunks:
            if isinstance(chunk, AudioDelta):
                chunk = AudioDelta(1, tempo.feed(chunk.pcm), chunk.text)
            elif isinstance(chunk, ReplyEnd):
                self._send(writer.audio_delta(tempo.flush()))
            self._take(writer, chunk)

    def _take(self, writer: ResponseWriter, chunk: Chunk) -> None:
        if writer.id in self._cancelled and not isinstance(chunk, ReplyEnd):
            return
        match chunk:
            case TextDelta(_, text):
                writer.open_message(None)
                writer.text_delta(text)
            case AudioDelta(_, pcm, _):
                writer.open_message(None)
                self._send(writer.audio_delta(pcm))
            case CallDelta():
                writer.call(chunk, None)
            case ReplyEnd(_, reason, usage, error):
                self._end(writer, reason, usage, error)

    def _end(self, writer: ResponseWriter, reason: str, usage: Usage, error: str) -> None:
        self._send(writer.audio_delta(None))
        status, why = ENDS[reason]
        writer.close_message("completed" if status == "completed" else "incomplete")
        if reason == "failed":
            self._events.error(WireError("engine_failed", error, kind="server_error"))
        writer.done(status, why, usage, error)

    def _send(self, event: dict[str, object] | None) -> None:
        if event is not None:
            self._events.send(event)
