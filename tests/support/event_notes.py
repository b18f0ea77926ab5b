"""Which events went over which transport: noted as they pass, in the test's process and in the servers it starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from omni_rt.realtime.client_events import AnyEvent
from omni_rt.realtime.errors import WireError
from omni_rt.session import commands
from omni_rt.session.session import Session
from omni_rt.transport.webrtc import WebRtcTransport
from omni_rt.transport.websocket import WebSocketTransport

NOTES = "OMNI_RT_TEST_NOTES"
"""Environment variable: the file to which processes add their notes, a line each."""

Transport = Literal["WebRTC", "WebSocket"]
TRANSPORTS: tuple[Transport, ...] = ("WebRTC", "WebSocket")


@dataclass(frozen=True, slots=True)
class Note:
    """An event of `side` passed; `refused` says why, of a client's event that the transport has no use for."""

    side: Literal["client", "server"]
    transport: Transport
    kind: str
    refused: str = ""


def read_notes(file: Path) -> set[Note]:
    return {Note(*json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()}


@contextmanager
def noting(file: Path) -> Iterator[None]:
    """Meanwhile each kind of event that passes in this process is added to `file`, once."""
    noted: set[Note] = set()

    def note(*fields: Any) -> None:
        one = Note(*fields)
        if one not in noted:
            noted.add(one)
            with file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(astuple(one)) + "\n")

    socket_send, call_send, do = WebSocketTransport.send_event, WebRtcTransport.send_event, commands._Commands.do

    def over_socket(self: WebSocketTransport, event: dict[str, Any]) -> None:
        # else it is a sideband of a call, or speaks another dialect
        if isinstance(self._listener, Session) and type(self) is WebSocketTransport:
            note("server", "WebSocket", event["type"])
        socket_send(self, event)

    def over_call(self: WebRtcTransport, event: dict[str, Any]) -> None:
        if isinstance(self._listener, Session):  # else a test sends what it likes
            note("server", "WebRTC", event["type"])
        call_send(self, event)

    async def taken(self: commands._Commands, event: AnyEvent) -> None:
        carrier = self._session.transport
        over = {WebSocketTransport: "WebSocket", WebRtcTransport: "WebRTC"}.get(type(carrier))  # type: ignore[arg-type]
        try:
            await do(self, event)
        except WireError as error:
            if over and (error.code, error.param) == ("unsupported", "type"):
                note("client", over, event.type, str(error))
            raise
        if over:
            note("client", over, event.type)

    WebSocketTransport.send_event = over_socket  # type: ignore[method-assign]
    WebRtcTransport.send_event = over_call  # type: ignore[method-assign]
    commands._Commands.do = taken  # type: ignore[method-assign]
    try:
        yield
    finally:
        WebSocketTransport.send_event = socket_send  # type: ignore[method-assign]
        WebRtcTransport.send_event = call_send  # type: ignore[method-assign]
        commands._Commands.do = do  # type: ignore[method-assign]


def note_in_server() -> None:
    """The same, for good, in a process that a test has started."""
    if file := os.environ.get(NOTES):
        noting(Path(file)).__enter__()
