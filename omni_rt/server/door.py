"""Who may come in: the key of a request, and what it opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from omni_rt.config import ServerSettings
from omni_rt.realtime.errors import WireError
from omni_rt.server.ephemeral import PREFIX, Ephemeral
from omni_rt.server.keys import is_loopback, key_ring

SUBPROTOCOL = "realtime"
_KEY_SUBPROTOCOL = "openai-insecure-api-key."
_GRANT = "omni_rt.grant"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may do. `owner` is the holder of the key, empty where no key is needed; `secret` tells the
    ephemeral secret that was used, which may touch only the calls it opened, and `session` are its settings."""

    owner: str = ""
    secret: str = ""
    session: dict[str, Any] = field(default_factory=dict)

    def may_control(self, opened_by: Grant) -> bool:
        return self.owner == opened_by.owner and self.secret in ("", opened_by.secret)


class Refused(Exception):
    """A request is turned away with an HTTP status and an error body."""

    def __init__(self, status: int, error: WireError) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


class Door:
    """Knows the keys and the ephemeral secrets of one server."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises KeysError, see `key_ring`."""
        self.ring = key_ring(settings)
        self.ephemeral = Ephemeral()
        self._origins = settings.cors_origins
        self._local_only = is_loopback(settings.host) and not settings.allow_without_keys

    def grant(self, headers: Headers, subprotocols: list[str]) -> Grant:
        """What the sender of these headers may do. Raises Refused."""
        key = _key(headers, subprotocols)
        if key.startswith(PREFIX):
            secret = self.ephemeral.get(key)
            if secret is None or (self.ring.needed and not self.ring.holds(secret.owner)):
                raise Refused(401, WireError("invalid_api_key", "This client secret is unknown or has expired."))
            return Grant(secret.owner, secret.id, secret.session)
        if not self.ring.needed:
            self._check_neighbour(headers)
            return Grant()
        if not key:
            raise Refused(
                401, WireError("invalid_api_key", "An API key is needed: send 'Authorization: Bearer YOUR_KEY'.")
            )
        owner = self.ring.holder(key)
        if owner is None:
            raise Refused(401, WireError("invalid_api_key", "Incorrect API key provided."))
        return Grant(owner)

    def _check_neighbour(self, headers: Headers) -> None:
        """Where no key is asked for, a page of another site must not use what its visitor's machine can reach, be it by
        a name that its owner lets point here; nor must a proxy open the server to others by accident."""
        host = headers.get("host", "")
        name = _split(f"//{host}")[0]
        if self._local_only and name and not is_loopback(name):
            raise Refused(
                403,
                WireError(
                    "host_not_allowed",
                    f"This server takes requests for {name!r} with a key only. Make one with `omni-rt keys`, or set "
                    "server.allow_without_keys=true.",
                ),
            )
        origin = headers.get("origin")
        if origin is None or origin in self._origins or "*" in self._origins:
            return
        if _split(origin)[1] != host:
            raise Refused(
                403, WireError("origin_not_allowed", f"Pages of {origin!r} may not call; see server.cors_origins.")
            )


class Guard:
    """Lets a request through to `app` with its Grant (`grant_of`), or answers for it."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope[_GRANT] = self._door.grant(Headers(scope=scope), scope.get("subprotocols", []))
        except Refused as refused:
            await refuse(scope, receive, send, refused)
            return
        await self._app(scope, receive, send)


class _ApiCors(CORSMiddleware):
    """Cross-origin rules for the API alone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """What lets pages of these origins use the API; nothing for none."""
    if not origins:
        return []
    return [
        Middleware(
            _ApiCors,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After"],
        )
    ]


def grant_of(connection: HTTPConnection) -> Grant:
    """The Grant that the Guard gave a request."""
    grant: Grant = connection.scope[_GRANT]
    return grant


async def refuse(scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
    """Answer a request, or a WebSocket that was not accepted yet, with a status and an error body."""
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
    response = JSONResponse({"error": refused.error.body()}, refused.status, headers)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)


def _split(url: str) -> tuple[str, str]:
    """Host name, and host with port; of what is no URL, something that is neither."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "?", "?"


def _key(headers: Headers, subprotocols: list[str]) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    for protocol in subprotocols:
        if protocol.startswith(_KEY_SUBPROTOCOL):
            return protocol.removeprefix(_KEY_SUBPROTOCOL)
    return ""
