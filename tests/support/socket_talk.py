"""A scripted server and a WebSocket to it, as fixtures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import websockets

from omni_rt.config import Settings
from tests.support.calls import eventually
from tests.support.scripted_server import ScriptedServer, scripted_server


@pytest.fixture(scope="module")
def tone_server() -> Iterator[ScriptedServer]:
    """Serves sessions in this process, over real sockets; its engine answers with a tone."""
    with scripted_server(Settings()) as running:
        yield running


class Talk:
    """Events over a WebSocket."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def until(self, kind: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] != kind:
            events.append(json.loads(await self.socket.recv()))
        return events


@pytest.fixture
async def talk(tone_server: ScriptedServer) -> AsyncIterator[Talk]:
    await eventually(lambda: not len(tone_server.calls.places), "the end of earlier sessions")
    async with websockets.connect(tone_server.url.replace("http", "ws", 1) + "/v1/realtime") as socket:
        yield Talk(socket)
