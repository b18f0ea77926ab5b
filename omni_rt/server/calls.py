"""Opening and ending sessions over HTTP and WebSocket."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.websockets import WebSocket

from omni_rt.config import Settings
from omni_rt.engine.api import Engine, EngineError
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import WireSession, check_track_formats, merge
from omni_rt.realtime.writer import EventWriter, new_id
from omni_rt.server.bodies import read_body, read_offer, read_secret_request
from omni_rt.server.door import SUBPROTOCOL, Grant, Refused, grant_of, refuse
from omni_rt.server.ephemeral import Ephemeral
from omni_rt.server.metrics import Metrics
from omni_rt.server.places import Places
from omni_rt.server.sideband import attach, check_room
from omni_rt.session.commands import read_events
from omni_rt.session.hearing import MakeHearing
from omni_rt.session.session import Session
from omni_rt.transport.ice import ice_servers
from omni_rt.transport.webrtc import SdpError, WebRtcTransport
from omni_rt.transport.websocket import WebSocketTransport

log = logging.getLogger(__name__)

# Events that may wait for a slow WebSocket client before it counts as gone.
MAX_QUEUED_EVENTS = 10_000
# WebSocket close code "try again later".
TRY_AGAIN_LATER = 1013

EMPTY: Mapping[str, Any] = MappingProxyType({})
ReadEvents = Callable[[Session], Coroutine[Any, Any, None]]

HTTP_STATUS = {
    "busy": 429,
    "too_many_sessions": 429,
    "too_many_sidebands": 429,
    "too_many_client_secrets": 429,
    "call_not_found": 404,
    "engine_down": 503,
    "insufficient_permissions": 403,
    "unsupported_content_type": 415,
    "offer_too_large": 413,
    "body_too_large": 413,
}


class Calls:
    """The endpoints that make sessions; one per server."""

    def __init__(
        self, settings: Settings, engine: Engine, make_hearing: MakeHearing, metrics: Metrics, ephemeral: Ephemeral
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._make_hearing = make_hearing
        self._metrics = metrics
        self._ephemeral = ephemeral
        self.places = Places(settings.server, metrics.sessions.set)

    async def create(self, request: Request) -> Response:
        """POST /v1/realtime/calls: an SDP offer, alone or in a form with a session; answers 201 with SDP."""
        try:
            offer, update = await read_offer(request)
            session = await self._open("rtc", grant_of(request), update)
        except WireError as error:
            return self._refuse(error)
        try:
            transport, answer = await WebRtcTransport.answer(
                offer, session, self._settings.media, self._settings.server
            )
        except SdpError as error:
            await session.close("the offer could not be answered")
            return self._refuse(WireError(error.code, str(error), "sdp"))
        except BaseException:
            await session.close("the call could not be made")
            raise
        session.attach(transport, read_events)
        self._metrics.opened.labels("webrtc").inc()
        return PlainTextResponse(
            answer,
            status_code=201,
            media_type="application/sdp",
            headers={"Location": f"/v1/realtime/calls/{session.id}"},
        )

    async def hangup(self, request: Request) -> Response:
        """POST /v1/realtime/calls/{call_id}/hangup."""
        session = self.places.get(request.path_params["call_id"], grant_of(request))
        if session is None:
            return self._refuse(_not_found())
        await session.close("the client hung up")
        return Response(status_code=200)

    async def make_client_secret(self, request: Request) -> Response:
        """POST /v1/realtime/client_secrets: a key that expires, and the settings of the sessions it opens."""
        grant = grant_of(request)
        try:
            if grant.secret:
                raise WireError("insufficient_permissions", "A client secret cannot make another; use the API key.")
            seconds, update = read_secret_request(await read_body(request))
            wire = self._wire(update)
            value, secret = self._ephemeral.make(grant.owner, seconds, update)
        except WireError as error:
            return self._refuse(error)
        return JSONResponse({"value": value, "expires_at": secret.expires_at, "session": wire.echo()})

    async def tell_ice_servers(self, request: Request) -> Response:
        """GET /v1/realtime/ice_servers: the `iceServers` of a client's RTCPeerConnection."""
        servers = ice_servers(self._settings.server, grant_of(request).owner or "client")
        body = [server.model_dump(mode="json", exclude_defaults=True) for server in servers]
        return JSONResponse({"ice_servers": body}, headers={"Cache-Control": "no-store"})

    async def websocket(self, socket: WebSocket) -> None:
        """WebSocket /v1/realtime: a session of its own, or with `?call_id=` a sideband of a call."""
        call_id = socket.query_params.get("call_id")
        if call_id is not None:
            await self._sideband(socket, call_id)
            return
        session = await self.seat(socket)
        if session is not None:
            transport = WebSocketTransport(socket, session, session.replies.audio_event, MAX_QUEUED_EVENTS)
            await self.talk(session, transport, read_events)

    async def seat(
        self, socket: WebSocket, defaults: Mapping[str, Any] = EMPTY, update: Mapping[str, Any] = EMPTY
    ) -> Session | None:
        """Accept a WebSocket and open a session for it; None if there is none, which it was told by an `error` event.

        The session begins with `defaults`, over which go a client secret's settings and then `update`.
        """
        await _accept(socket)
        try:
            return await self._open("sess", grant_of(socket), update, defaults)
        except WireError as error:
            self._metrics.refused.labels(error.code).inc()
            sent: list[dict[str, Any]] = []
            EventWriter(sent.append).error(error)
            await socket.send_text(json.dumps(sent[0]))
            await socket.close(TRY_AGAIN_LATER, str(error)[:120])
            return None

    async def talk(self, session: Session, transport: WebSocketTransport, read: ReadEvents) -> None:
        """Carry a WebSocket's events until either side ends; `read` consumes the client's."""
        session.attach(transport, read)
        self._metrics.opened.labels("websocket").inc()
        await transport.run()
        await session.close("the WebSocket ended")

    async def _sideband(self, socket: WebSocket, call_id: str) -> None:
        session = self.places.get(call_id, grant_of(socket))
        try:
            if session is None or not isinstance(session.transport, WebRtcTransport):
                raise _not_found()
            check_room(session)
        except WireError as error:
            self._metrics.refused.labels(error.code).inc()
            await refuse(socket.scope, socket.receive, socket.send, Refused(HTTP_STATUS[error.code], error))
            return
        await _accept(socket)
        await attach(socket, session, MAX_QUEUED_EVENTS)

    def _wire(self, *updates: Mapping[str, Any]) -> WireSession:
        """A new session's settings: the server's own, then each update. Raises WireError."""
        capabilities = self._engine.capabilities
        wire = WireSession(id=new_id("sess"), model=capabilities.name)
        for update in ({"audio": {"output": {"voice": capabilities.voices[0]}}}, *updates):
            wire = merge(wire, update, capabilities)
        return wire

    async def _open(
        self, prefix: str, grant: Grant, update: Mapping[str, Any], defaults: Mapping[str, Any] = EMPTY
    ) -> Session:
        """A session with a place at the door and in the engine. Raises WireError."""
        wire = self._wire(defaults, grant.session, update)
        if prefix == "rtc":
            check_track_formats(wire)
        session = Session(new_id(prefix), self._settings, self._engine, self._make_hearing, wire, self._metrics.observe)
        try:
            self.places.admit(session, grant)
            await session.open()
        except WireError:
            await session.close("refused")
            raise
        except EngineError as error:
            await session.close("the engine refused")
            raise WireError(error.code, str(error), kind="server_error") from error
        return session

    def _refuse(self, error: WireError) -> Response:
        self._metrics.refused.labels(error.code).inc()
        headers = {"Retry-After": "5"} if error.code in ("busy", "too_many_sessions") else {}
        return JSONResponse({"error": error.body()}, HTTP_STATUS.get(error.code, 400), headers)


async def _accept(socket: WebSocket) -> None:
    """Accept it; of the subprotocols offered, one may be a key and must not be told back."""
    protocols = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in protocols else None)


def _not_found() -> WireError:
    return WireError("call_not_found", "There is no such call; it may have ended.", "call_id")
