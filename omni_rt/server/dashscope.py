"""WebSocket /api-ws/v1/realtime: the same sessions for clients that speak DashScope's Qwen-Omni-Realtime."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from starlette.websockets import WebSocket

from omni_rt.realtime.dashscope.client_events import ClientEvents, SessionFinished
from omni_rt.realtime.dashscope.server_events import ServerEvents
from omni_rt.realtime.dashscope.settings import TurnDetection
from omni_rt.realtime.settings import PcmFormat
from omni_rt.server.calls import MAX_QUEUED_EVENTS, Calls
from omni_rt.session.commands import read_events
from omni_rt.session.session import Session
from omni_rt.transport.websocket import WebSocketTransport

# How often a finished session is asked whether it has said everything.
POLL_S = 0.02

_DEFAULTS = {"audio": {"input": {"turn_detection": TurnDetection().ours()}}}
# What the translation reads and writes; the dialect's own rates are made of it.
_SOUND = {"audio": {side: {"format": PcmFormat().model_dump()} for side in ("input", "output")}}


class _Transport(WebSocketTransport):
    """Tells the session's events in the dialect."""

    def __init__(self, socket: WebSocket, session: Session, events: ServerEvents) -> None:
        super().__init__(socket, session, session.replies.audio_event, MAX_QUEUED_EVENTS)
        self._events = events

    def send_event(self, event: dict[str, Any]) -> None:
        for told in self._events.translate(event):
            super().send_event(told)


async def serve(calls: Calls, socket: WebSocket) -> None:
    """A session of its own on a WebSocket, until either side ends."""
    session = await calls.seat(socket, _DEFAULTS, _SOUND)
    if session is None:
        return
    client = ClientEvents(session.capabilities.voices)
    events = ServerEvents(client)
    await calls.talk(session, _Transport(socket, session, events), partial(_read, client=client, events=events))


async def _read(session: Session, client: ClientEvents, events: ServerEvents) -> None:
    """Carry out the client's events until it finishes; then say what is still to be said, and hang up."""
    try:
        await read_events(session, client.translate)
    except SessionFinished:
        await _last_word(session)
        assert session.transport is not None
        session.transport.send_event(events.finished())
        await session.transport.close()


async def _last_word(session: Session) -> None:
    """Wait until no reply is being made, nor one that the client has asked for. What was not said to its end is not
    answered."""
    while True:
        session.act(session.duplex.clear_by_client())
        if not session.duplex.making and session.asked is None:
            return
        await asyncio.sleep(POLL_S)
