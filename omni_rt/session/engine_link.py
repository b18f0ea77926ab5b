"""A session's hold on its engine: opened once, rebuilt from the conversation when the worker is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from omni_rt.engine.api import (
    ContextItem,
    Engine,
    EngineError,
    EngineListener,
    EngineLost,
    EngineSession,
    SessionSettings,
)

log = logging.getLogger(__name__)


class EngineOwner(EngineListener, Protocol):
    """Who is told, beside what engines tell anyway, that a new engine session stands."""

    def on_engine_back(self) -> None: ...


class EngineLink:
    """`session` is None while there is none. `owner` hears of every change on the event loop."""

    def __init__(
        self,
        engine: Engine,
        session_id: str,
        owner: EngineOwner,
        settings: Callable[[], SessionSettings],
        context: Callable[[], Sequence[ContextItem]],
    ) -> None:
        self._engine = engine
        self._id = session_id
        self._owner = owner
        self._settings = settings
        self._context = context
        self.session: EngineSession | None = None
        self._ready = asyncio.Event()
        self._rebuilding: asyncio.Task[None] | None = None
        self._failed: EngineError | None = None

    async def open(self) -> None:
        """Raises EngineError when the engine has no place or is not there."""
        self.session = await self._engine.open(self._id, self._settings(), self._owner)
        self._ready.set()

    async def wait(self) -> EngineSession:
        """The engine session, once there is one. Raises EngineError when it could not be rebuilt."""
        await self._ready.wait()
        if self.session is None:
            raise self._failed or EngineLost("The engine is gone.")
        return self.session

    def lost(self) -> None:
        """The worker is gone: build a new engine session as soon as there is a new worker."""
        self.session = None
        self._ready.clear()
        self._rebuilding = asyncio.get_running_loop().create_task(self._rebuild())

    async def _rebuild(self) -> None:
        try:
            session = await self._engine.open(self._id, self._settings(), self._owner)
        except EngineError as error:
            log.error("session %s: no engine after its loss: %s", self._id, error)
            self._failed = error
            self._ready.set()
            self._owner.on_error(error)
            return
        session.restore(self._context())
        self.session = session
        self._ready.set()
        self._owner.on_engine_back()

    async def close(self) -> None:
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rebuilding
        if self.session is not None:
            self.session.close()
            self.session = None
