"""The engine of another process: the same seam, and a supervisor that replaces a worker that was lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from omni_rt.config import Settings
from omni_rt.engine.api import (
    Capabilities,
    Chunk,
    ContextItem,
    EngineError,
    EngineListener,
    EngineLost,
    EngineSession,
    Mark,
    Pcm,
    ReplyEnd,
    RespondOptions,
    Rgb,
    Role,
    SessionSettings,
)
from omni_rt.engine.channel import (
    AppendAudio,
    AppendImage,
    AppendText,
    AppendToolResult,
    Cancel,
    Commit,
    Configure,
    Discard,
    Restore,
    Rollback,
    SetMark,
)
from omni_rt.engine.link import Inbox, Limits, Link

log = logging.getLogger(__name__)

_WINDOW_S = 60.0
_LONGEST_PAUSE_S = 10.0
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Health:
    """How the worker is. `restarts` counts those since `start`; `message` says why it is not ready."""

    state: Literal["stopped", "starting", "ready", "restarting", "failed"]
    pid: int | None = None
    restarts: int = 0
    message: str = ""


class RemoteEngine:
    """An Engine in a worker process of its own.

    A worker that crashes, is killed or hangs is replaced: its sessions' listeners get `on_lost` once, `open` waits for
    the new one. After more than `engine.restart_limit` losses within a minute of service (the time spent on starting
    does not count) it is given up: state `failed`, until `start` is called again.

    `factory` (`module:callable`, called in the worker with the settings) replaces the engine that the settings name.
    """

    def __init__(self, settings: Settings, *, factory: str = "", limits: Limits = _LIMITS) -> None:
        self._settings = settings
        self._factory = factory
        self._limits = limits
        self._capabilities: Capabilities | None = None
        self._health = Health("stopped", message="the engine was not started")
        self._link: Link | None = None
        self._ready: asyncio.Future[Link] | None = None
        self._restart: asyncio.Task[None] | None = None
        self._losses: deque[float] = deque()
        self._served_s = 0.0
        self._ready_since = 0.0

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            raise EngineError("engine_down", "the engine was not started")
        return self._capabilities

    @property
    def health(self) -> Health:
        return self._health

    @property
    def ready(self) -> bool:
        return self._health.state == "ready"

    async def start(self) -> None:
        """Start the worker and load the engine. Raises the engine's own EngineError, or `engine_down` when the worker
        died or hung before it was ready; nothing is retried then."""
        if self._health.state not in ("stopped", "failed"):
            raise EngineError("engine_running", f"the engine is {self._health.state}; close it first")
        self._losses.clear()
        self._health = Health("starting", message="the engine is loading")
        self._ready = asyncio.get_running_loop().create_future()
        try:
            await self._launch()
        except BaseException as error:
            self._fail(str(error) or "its start was broken off")
            raise

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> RemoteEngineSession:
        """A new session, on the new worker if one is being started. Raises EngineError: the engine's own (`busy`), or
        `engine_down` when no worker will come."""
        for last_try in (False, True):
            if self._ready is None:
                raise EngineError("engine_down", self._health.message)
            link = await asyncio.shield(self._ready)
            try:
                return RemoteEngineSession(link, await link.open(session_id, settings, listener))
            except EngineLost:
                if last_try:
                    raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """End the worker; bounded, also when it hangs. Running replies end as failed."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
            self._restart = None
        self._fail("the engine was closed")
        self._health = Health("stopped", message="the engine was closed")
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def _launch(self) -> None:
        """A new worker, up to where it is ready."""
        try:
            self._link = link = Link(self._settings, self._factory, self._limits, self._lost)
        except (OSError, RuntimeError) as error:
            raise EngineError("engine_down", f"cannot start a worker process: {error}") from error
        try:
            self._capabilities = await asyncio.shield(link.started)
            if link.lost:
                raise EngineError("engine_down", link.lost)
        except BaseException:
            await link.abort()
            raise
        assert self._ready is not None
        self._ready_since = asyncio.get_running_loop().time()
        self._health = Health("ready", link.pid, self._health.restarts)
        self._ready.set_result(link)
        log.info("engine %s is ready in worker %d", self._capabilities.name, link.pid)

    def _lost(self, reason: str) -> None:
        if not self.ready:
            return  # `_launch` sees it
        loop = asyncio.get_running_loop()
        self._served_s += loop.time() - self._ready_since
        self._ready = loop.create_future()
        self._health = Health("restarting", None, self._health.restarts, reason)
        self._restart = loop.create_task(self._relaunch(reason))

    async def _relaunch(self, reason: str) -> None:
        assert self._link is not None
        await self._link.reaped()
        while True:
            while self._losses and self._served_s - self._losses[0] > _WINDOW_S:
                self._losses.popleft()
            tries = len(self._losses)
            if tries >= self._settings.engine.restart_limit:
                message = f"{reason}; given up after {tries} restarts; see its log lines, then restart the server"
                self._fail(message)
                return
            self._losses.append(self._served_s)
            if tries:
                await asyncio.sleep(min(self._limits.backoff_s * 2 ** (tries - 1), _LONGEST_PAUSE_S))
            self._health = Health("restarting", None, self._health.restarts + 1, reason)
            try:
                await self._launch()
                return
            except EngineError as error:
                reason = str(error)

    def _fail(self, message: str) -> None:
        self._health = Health("failed", None, self._health.restarts, message)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(EngineError("engine_down", message))
            self._ready.exception()  # seen: nobody need be waiting in `open`
        self._ready = None


class RemoteEngineSession(EngineSession):
    """A session of a RemoteEngine. Once its worker is lost (`on_lost`) its calls are dropped, replies end as failed,
    `keep_heard` and `overhear` raise EngineLost. What a synchronous call did wrong comes to the listener's `on_error`.
    """

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number
        self._marks = itertools.count(1)

    def configure(self, settings: SessionSettings) -> None:
        self._link.command(Configure(self._number, settings))

    def append_audio(self, pcm: Pcm) -> None:
        self._link.command(AppendAudio(self._number, pcm))

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        self._link.command(AppendImage(self._number, rgb, at_ms))

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        self._link.command(AppendText(self._number, text, role, item_id))

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        self._link.command(AppendToolResult(self._number, call_id, output, item_id))

    def commit(self, item_id: str) -> None:
        self._link.command(Commit(self._number, item_id))

    def discard(self) -> None:
        self._link.command(Discard(self._number))

    def mark(self) -> Mark:
        serial = next(self._marks)
        self._link.command(SetMark(self._number, serial))
        return Mark(serial)

    def rollback(self, mark: Mark) -> None:
        self._link.command(Rollback(self._number, mark.serial))

    def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        return Reply(self._link, self._link.respond(self._number, options))

    def cancel(self, generation: int) -> None:
        self._link.command(Cancel(self._number, generation))

    def keep_heard(self, generation: int, audio_ms: int) -> Awaitable[str]:
        return self._link.keep_heard(self._number, generation, audio_ms)

    def overhear(self, pcm: Pcm) -> Awaitable[str]:
        return self._link.overhear(self._number, pcm)

    def restore(self, items: Sequence[ContextItem]) -> None:
        self._link.command(Restore(self._number, tuple(items)))

    def close(self) -> None:
        self._link.close_session(self._number)


class Reply(AsyncIterator[Chunk]):
    """The chunks of one reply. Closing or dropping it before its end cancels the reply; after `aclose` the engine has
    ended it and is ready for the next."""

    def __init__(self, link: Link, inbox: Inbox) -> None:
        self._link = link
        self._inbox = inbox
        self._ended = False

    async def __anext__(self) -> Chunk:
        if self._ended:
            raise StopAsyncIteration
        item = await self._inbox.get()
        self._ended = isinstance(item, ReplyEnd | EngineError)
        if isinstance(item, EngineError):
            raise item
        return item

    async def aclose(self) -> None:
        if not self._ended:
            self._link.command(Cancel(self._inbox.session, self._inbox.generation))
            with suppress(EngineError):
                async for _ in self:
                    pass

    def __del__(self) -> None:
        if not self._ended:
            self._link.abandon(self._inbox)
