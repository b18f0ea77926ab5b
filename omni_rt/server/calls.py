"""Opening and ending sessions over HTTP and WebSocket."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.websockets import WebSocket

from omni_rt.config import Settings
from omni_rt.engine.api import Engine, EngineError
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import WireSession, merge
from omni_rt.realtime.writer import EventWriter, new_id
from omni_rt.server.door import SUBPROTOCOL
from omni_rt.server.metrics import Metrics
from omni_rt.server.places import Places
from omni_rt.session.commands import read_events
from omni_rt.session.session import MakeHearing, Session
from omni_rt.transport.webrtc import SdpError, WebRtcTransport
from omni_rt.transport.websocket import WebSocketTransport

log = logging.getLogger(__name__)

MAX_OFFER_BYTES = 256 * 1024
# Events that may wait for a slow WebSocket client before it counts as gone.
MAX_QUEUED_EVENTS = 10_000
# WebSocket close code "try again later".
TRY_AGAIN_LATER = 1013

_HTTP_STATUS = {"busy": 503, "engine_down": 503, "unsupported_content_type": 415, "offer_too_large": 413}


class Calls:
    """The endpoints that make sessions; one per server."""

    def __init__(self, settings: Settings, engine: Engine, make_hearing: MakeHearing, metrics: Metrics) -> None:
        self._settings = settings
        self._engine = engine
        self._make_hearing = make_hearing
        self._metrics = metrics
        self.places = Places(settings.server.max_sessions, metrics.sessions.set)

    async def create(self, request: Request) -> Response:
        """POST /v1/realtime/calls: an SDP offer, alone or in a form with a session; answers 201 with SDP."""
        try:
            offer, update = await _read_offer(request)
            session = await self._open("rtc", update)
        except WireError as error:
            return self._refuse(error)
        try:
            transport, answer = await WebRtcTransport.answer(
                offer, session, self._settings.media, self._settings.server
            )
        except SdpError as error:
            await session.close("the offer could not be answered")
            return self._refuse(WireError(error.code, str(error), "sdp"))
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
        session = self.places.get(request.path_params["call_id"])
        if session is None:
            return self._refuse(WireError("call_not_found", "There is no such call; it may have ended."), 404)
        await session.close("the client hung up")
        return Response(status_code=200)

    async def websocket(self, socket: WebSocket) -> None:
        """WebSocket /v1/realtime."""
        protocols = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in protocols else None)
        try:
            session = await self._open("sess", {})
        except WireError as error:
            self._metrics.refused.labels(error.code).inc()
            sent: list[dict[str, Any]] = []
            EventWriter(sent.append).error(error)
            await socket.send_text(json.dumps(sent[0]))
            await socket.close(TRY_AGAIN_LATER, str(error)[:120])
            return
        transport = WebSocketTransport(socket, session, session.replies.audio_event, MAX_QUEUED_EVENTS)
        session.attach(transport, read_events)
        self._metrics.opened.labels("websocket").inc()
        await transport.run()
        await session.close("the WebSocket ended")

    async def _open(self, prefix: str, update: Mapping[str, Any]) -> Session:
        """A session with a place at the door and in the engine. Raises WireError."""
        capabilities = self._engine.capabilities
        wire = WireSession(id=new_id("sess"), model=capabilities.name)
        wire = merge(
            merge(wire, {"audio": {"output": {"voice": capabilities.voices[0]}}}, capabilities), update, capabilities
        )
        session = Session(new_id(prefix), self._settings, self._engine, self._make_hearing, wire, self._metrics.observe)
        try:
            self.places.admit(session)
            await session.open()
        except WireError:
            await session.close("refused")
            raise
        except EngineError as error:
            await session.close("the engine refused")
            raise WireError(error.code, str(error), kind="server_error") from error
        return session

    def _refuse(self, error: WireError, status: int | None = None) -> Response:
        self._metrics.refused.labels(error.code).inc()
        headers = {"Retry-After": "5"} if error.code == "busy" else {}
        return JSONResponse({"error": error.body()}, status or _HTTP_STATUS.get(error.code, 400), headers)


async def _read_offer(request: Request) -> tuple[str, dict[str, Any]]:
    """The SDP offer and the session settings of a call. Raises WireError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if int(request.headers.get("content-length", "0") or 0) > MAX_OFFER_BYTES:
        raise WireError("offer_too_large", f"An offer may have {MAX_OFFER_BYTES} bytes.")
    if kind == "application/sdp":
        return _text(await request.body(), "sdp"), {}
    if kind != "multipart/form-data":
        raise WireError(
            "unsupported_content_type",
            f"Content-Type {kind or '(none)'!r} is not served here; send application/sdp, or multipart/form-data with "
            "parts 'sdp' and 'session'.",
        )
    try:
        async with request.form(max_part_size=MAX_OFFER_BYTES) as form:
            parts = {name: await _part(form.get(name)) for name in ("sdp", "session")}
    except (HTTPException, MultiPartException, KeyError) as error:
        reason = getattr(error, "detail", "") or str(error)
        raise WireError("invalid_form", f"The multipart form cannot be read: {reason}.") from error
    if parts["sdp"] is None:
        raise WireError("missing_required_parameter", "The form has no part 'sdp'.", "sdp")
    if parts["session"] is None:
        return parts["sdp"], {}
    try:
        session = json.loads(parts["session"])
    except ValueError as error:
        raise WireError("invalid_json", f"The part 'session' is not valid JSON: {error}.", "session") from error
    if not isinstance(session, dict):
        raise WireError("invalid_value", "The part 'session' is not a JSON object.", "session")
    return parts["sdp"], session


async def _part(value: str | UploadFile | None) -> str | None:
    return _text(await value.read(), "sdp") if isinstance(value, UploadFile) else value


def _text(data: bytes, param: str) -> str:
    if len(data) > MAX_OFFER_BYTES:
        raise WireError("offer_too_large", f"An offer may have {MAX_OFFER_BYTES} bytes.", param)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError("invalid_sdp", f"'{param}' is not UTF-8 text: {error}.", param) from error
