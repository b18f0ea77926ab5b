"""A client's events that wait to be carried out."""

from __future__ import annotations

import asyncio

# Events beyond this size that wait hold up what comes after them.
WAITING_BYTES = 2**20


class Inbox:
    """Events as they came, in order."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._waiting_bytes = 0
        self._taken = asyncio.Event()
        self._closed = False

    def put(self, raw: str | bytes) -> None:
        self._waiting_bytes += len(raw)
        self._events.put_nowait(raw)

    async def take(self) -> str | bytes:
        """The next one, once there is one."""
        raw = await self._events.get()
        self._waiting_bytes -= len(raw)
        self._taken.set()
        return raw

    async def until_taken(self) -> None:
        """Wait until few events are left, or nobody takes any more."""
        while self._waiting_bytes > WAITING_BYTES and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        """Nobody takes any more."""
        self._closed = True
        self._taken.set()
