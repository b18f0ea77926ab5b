"""A second line to a call: whoever made it, a server of theirs say, sees its events and sends some of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.websockets import WebSocket

from omni_rt.realtime.errors import WireError
from omni_rt.realtime.writer import EventWriter
from omni_rt.session.session import Session
from omni_rt.transport.base import SentAudio
from omni_rt.transport.websocket import WebSocketTransport

MOST_PER_CALL = 16


class _Line:
    """Brings what came over the WebSocket to the session, as if its client had sent it."""

    def __init__(self, session: Session, greet: Callable[[], None]) -> None:
        self._session = session
        self._greet = greet

    def on_open(self) -> None:
        self._greet()

    def on_event(self, raw: str | bytes) -> None:
        if not self._session.ended.is_set():
            self._session.on_event(raw)

    async def until_taken(self) -> None:
        await self._session.until_taken()

    def on_sent(self, sent: SentAudio) -> None:
        """The call's own transport carries its audio."""

    def on_closed(self, reason: str) -> None:
        """The call goes on without."""


def check_room(session: Session) -> None:
    """Raises WireError `too_many_sidebands` when a call has as many as it may."""
    if len(session.watchers) >= MOST_PER_CALL:
        raise WireError(
            "too_many_sidebands", f"A call may have {MOST_PER_CALL} sidebands; this one has.", "call_id", None
        )


async def attach(socket: WebSocket, session: Session, max_queue: int) -> None:
    """Carry events both ways over an accepted WebSocket, `session.created` first, until either side ends."""
    line = _Line(session, lambda: EventWriter(transport.send_event).session("session.created", session.wire))
    transport = WebSocketTransport(socket, line, lambda generation, pcm: None, max_queue)
    ending = asyncio.get_running_loop().create_task(_close_with(session, transport))
    session.watchers.add(transport.send_event)
    try:
        await transport.run()
    finally:
        session.watchers.discard(transport.send_event)
        ending.cancel()


async def _close_with(session: Session, transport: WebSocketTransport) -> None:
    await session.ended.wait()
    await transport.close()
