"""A session between stand-ins, as a fixture."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from omni_rt.config import Settings, validate
from omni_rt.engine.api import Engine
from omni_rt.engine.witness import WitnessedEngine
from omni_rt.realtime.settings import WireSession
from omni_rt.session.commands import read_events
from omni_rt.session.session import Session
from tests.support.scripted import KeptTransport, ScriptedEars, ScriptedEngine, ScriptedEngineSession


class Stage:
    """A session between stand-ins."""

    def __init__(self, settings: Settings, server_plays: bool = True, witness: ScriptedEngine | None = None) -> None:
        self.engine = ScriptedEngine()
        self.ears: list[ScriptedEars] = []
        engine: Engine = self.engine
        if witness is not None:
            self.engine.capabilities = replace(self.engine.capabilities, judges_endings=False)
            engine = WitnessedEngine(self.engine, witness)
        self.session = Session("s", settings, engine, self._hearing, WireSession(id="s", model="m"))
        self.transport = KeptTransport(self.session, server_plays)

    def _hearing(self, tell: Any) -> ScriptedEars:
        self.ears.append(ScriptedEars(tell))
        return self.ears[-1]

    @property
    def model(self) -> ScriptedEngineSession:
        return self.engine.sessions[-1]

    def hear(self, ms: int, loud: bool) -> None:
        for _ in range(ms // 20):
            self.session.on_audio(np.full(320, 5000 if loud else 0, np.int16), False)

    async def listen(self, ms: int, loud: bool) -> None:
        """As `hear`, while all that follows from it happens in time."""
        for _ in range(ms // 20):
            self.hear(20, loud)
            for _ in range(3):
                await asyncio.sleep(0)

    async def settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def turn(self) -> None:
        """A second of speech and the silence that ends it."""
        self.hear(1000, True)
        self.hear(300, False)
        await self.settle()

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while kind not in self.transport.kinds():
                await asyncio.sleep(0.005)
        return self.last(kind)

    def last(self, kind: str) -> dict[str, Any]:
        return next(e for e in reversed(self.transport.events) if e["type"] == kind)

    async def tell(self, **event: Any) -> None:
        self.session.on_event(json.dumps(event))
        await self.settle()

    def texts(self) -> list[tuple[str, str]]:
        return [(item.role, item.text) for item in self.session.conversation]


async def open_stage(*, server_plays: bool = True, witness: ScriptedEngine | None = None, **turn: Any) -> Stage:
    """An open session; `turn` are settings of the section of that name. Nothing is speculated unless they say so."""
    stage = Stage(validate({"turn": {"speculate_ms": 0, **turn}}), server_plays, witness)
    await stage.session.open()
    stage.session.attach(stage.transport, read_events)
    stage.session.on_open()
    return stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = await open_stage()
    yield stage
    await stage.session.close("test over")


@pytest.fixture
async def socket_stage() -> AsyncIterator[Stage]:
    """As over a WebSocket: the client plays."""
    stage = await open_stage(server_plays=False)
    yield stage
    await stage.session.close("test over")
