"""Clients of a running server: a WebSocket with JSON events, and a WebRTC call that keeps what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
import websockets

from omni_rt.transport.caller import Caller
from tests.support.server import RunningServer

PATIENCE_S = 90.0


class Served(Protocol):
    """A running server of any kind."""

    url: str


class Peer:
    """Sends events and waits for events by type; everything that came stays in `seen`."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._read = 0

    async def told(self, event: dict[str, Any]) -> None:
        async with self._news:
            self.seen.append(event)
            self._news.notify_all()

    async def send(self, kind: str, **fields: Any) -> None:
        raise NotImplementedError

    async def wait(self, *kinds: str) -> dict[str, Any]:
        """The next event of these types that no earlier call has returned or passed over."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            while True:
                while self._read < len(self.seen):
                    event = self.seen[self._read]
                    self._read += 1
                    if event["type"] in kinds:
                        return event
                await self._news.wait()

    async def write(self, text: str, **response: Any) -> str:
        """A text turn; gives the text of the answer."""
        await self.send(
            "conversation.item.create",
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]},
        )
        await self.send("response.create", response=response)
        done = (await self.wait("response.done"))["response"]
        assert done["status"] == "completed", done
        parts = [part for item in done["output"] for part in item.get("content", [])]
        return " ".join(part.get("text") or part.get("transcript") or "" for part in parts)

    def errors(self) -> list[str]:
        return [event["error"]["code"] for event in self.seen if event["type"] == "error"]


class SocketPeer(Peer):
    def __init__(self, socket: websockets.ClientConnection) -> None:
        super().__init__()
        self.socket = socket

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))


class CallPeer(Peer):
    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self.caller = caller

    async def send(self, kind: str, **fields: Any) -> None:
        self.caller.send_event({"type": kind, **fields})


@asynccontextmanager
async def socket_peer(
    server: RunningServer | Served, key: str = "", query: str = "model=local", path: str = "/v1/realtime"
) -> AsyncIterator[SocketPeer]:
    url = server.url.replace("http", "ws", 1) + f"{path}?{query}"
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with websockets.connect(url, max_size=2**26, additional_headers=headers) as socket:
        peer = SocketPeer(socket)

        async def read() -> None:
            async for text in socket:
                await peer.told(json.loads(text))

        reading = asyncio.create_task(read())
        try:
            yield peer
        finally:
            reading.cancel()


@asynccontextmanager
async def call_peer(server: RunningServer | Served, **options: Any) -> AsyncIterator[CallPeer]:
    async with Caller(server.url, **options) as caller:
        peer = CallPeer(caller)

        async def read() -> None:
            while (event := await caller.events.get()) is not None:
                await peer.told(event)

        reading = asyncio.create_task(read())
        try:
            yield peer
        finally:
            reading.cancel()


async def sessions(server: RunningServer) -> int:
    """How many sessions the server says it serves."""
    async with httpx.AsyncClient() as http:
        count: int = (await http.get(f"{server.url}/readyz")).json()["sessions"]
        return count


async def empty(server: RunningServer) -> None:
    """Wait until the sessions of earlier tests are gone."""
    async with asyncio.timeout(PATIENCE_S):
        while await sessions(server):
            await asyncio.sleep(0.1)
