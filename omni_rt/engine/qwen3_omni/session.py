"""One conversation in the engine, as the event loop sees it: calls are checked and queued for the computing thread."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from omni_rt.engine.api import (
    Chunk,
    ContextItem,
    EngineError,
    EngineListener,
    Mark,
    Pcm,
    ReplyEnd,
    RespondOptions,
    Rgb,
    Role,
    SessionClosed,
    SessionSettings,
    Transcript,
)
from omni_rt.engine.clip import check_clip
from omni_rt.engine.qwen3_omni import pictures
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.overhearing import Overhearing
from omni_rt.engine.qwen3_omni.parts import Parts, told
from omni_rt.engine.qwen3_omni.reply import Reply

log = logging.getLogger(__name__)


class QwenSession:
    """Implements EngineSession. Made by QwenEngine.open."""

    def __init__(
        self,
        parts: Parts,
        settings: SessionSettings,
        listener: EngineListener,
        seed: int,
        on_close: Callable[[], None],
    ) -> None:
        parts.check(settings)
        self._parts = parts
        self._listener = listener
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._serials = itertools.count(1)
        self._closed = False
        self._overheard: set[asyncio.Future[str]] = set()
        self._conversation: Conversation
        self._post(lambda: self._begin(settings, seed))

    # -- what comes in

    def configure(self, settings: SessionSettings) -> None:
        self._parts.check(settings)
        self._post(lambda: self._conversation.configure(settings))

    def append_audio(self, pcm: Pcm) -> None:
        self._post(lambda: self._conversation.append_audio(pcm))

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        pictures.check(rgb)
        self._post(lambda: self._conversation.append_image(rgb, at_ms))

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        self._post(lambda: self._conversation.append_text(text.strip(), role, item_id))

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        self._post(lambda: self._conversation.append_tool_result(call_id, output, item_id))

    def commit(self, item_id: str) -> None:
        self._post(lambda: self._conversation.commit(item_id))

    def discard(self) -> None:
        self._post(lambda: self._conversation.discard())

    # -- places

    def mark(self) -> Mark:
        serial = next(self._serials)
        self._post(lambda: self._conversation.mark(serial))
        return Mark(serial)

    def rollback(self, mark: Mark) -> None:
        self._post(lambda: self._conversation.rollback(mark.serial))

    # -- replies

    def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        if self._closed:
            raise SessionClosed()
        self._parts.prompt.check_choice(options)
        chunks: asyncio.Queue[Chunk] = asyncio.Queue()

        def put(chunk: Chunk) -> None:
            self._call(chunks.put_nowait, chunk)

        reply = Reply(self._parts, options, put)
        self._post(lambda: self._conversation.respond(reply))
        return self._chunks(options.generation, chunks)

    def cancel(self, generation: int) -> None:
        self._post(lambda: self._conversation.cancel(generation))

    def keep_heard(self, generation: int, audio_ms: int) -> Awaitable[str]:
        heard: asyncio.Future[str] = self._loop.create_future()

        def settle(text: str) -> None:
            if not heard.done():
                heard.set_result(text)

        def cut() -> None:
            text = ""
            try:
                text = self._conversation.keep_heard(generation, audio_ms)
            finally:
                self._call(settle, text)

        if self._closed:
            settle("")
        else:
            self._post(cut)
        return heard

    # -- beside the conversation

    def overhear(self, pcm: Pcm) -> Awaitable[str]:
        heard: asyncio.Future[str] = self._loop.create_future()
        try:
            if self._closed:
                raise SessionClosed()
            check_clip(pcm)
        except EngineError as error:
            heard.set_exception(error)
            return heard

        def settle(words: str | EngineError) -> None:
            if heard.done():
                return
            if isinstance(words, EngineError):
                heard.set_exception(words)
            else:
                heard.set_result(words)

        def begin() -> None:
            try:
                overhearing.begin(self._conversation.prior)
            except Exception as error:
                self._call(settle, told(error))

        overhearing = Overhearing(self._parts, pcm, lambda words: self._call(settle, words))
        self._post(begin)
        self._overheard.add(heard)
        heard.add_done_callback(self._overheard.discard)
        heard.add_done_callback(lambda _: self._parts.scheduler.post(overhearing.close))
        return heard

    # -- the whole

    def restore(self, items: Sequence[ContextItem]) -> None:
        taken = tuple(items)
        self._post(lambda: self._conversation.restore(taken))

    def close(self) -> None:
        if self._closed:
            return
        self._post(self._end)
        self._closed = True
        for heard in list(self._overheard):
            if not heard.done():
                heard.set_exception(SessionClosed())
        self._on_close()

    # -- inside

    def _begin(self, settings: SessionSettings, seed: int) -> None:
        self._conversation = Conversation(self._parts, settings, self, seed)
        self._parts.scheduler.add(self._conversation)

    def _end(self) -> None:
        self._parts.scheduler.remove(self._conversation)
        self._conversation.close()

    def _post(self, command: Callable[[], Any]) -> None:
        """Queue a command; what it raises is told to the listener."""
        if self._closed:
            return

        def run() -> None:
            try:
                command()
            except EngineError as error:
                self.error(error)
            except Exception as error:
                log.exception("a call of a session failed")
                self.error(EngineError("engine_failed", f"{type(error).__name__}: {error}"))

        self._parts.scheduler.post(run)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """On the event loop, if it is still there."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    async def _chunks(self, generation: int, chunks: asyncio.Queue[Chunk]) -> AsyncIterator[Chunk]:
        ended = False
        try:
            while not ended:
                chunk = await chunks.get()
                ended = isinstance(chunk, ReplyEnd)
                yield chunk
        finally:
            if not ended:
                self.cancel(generation)

    # -- news, from the computing thread

    def transcript(self, transcript: Transcript) -> None:
        self._call(self._listener.on_transcript, transcript)

    def error(self, error: EngineError) -> None:
        self._call(self._listener.on_error, error)
