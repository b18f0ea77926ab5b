"""The STUN and TURN servers of a call, with credentials that end by themselves where a secret is shared."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

from omni_rt.config import IceServer, ServerSettings


def ice_servers(settings: ServerSettings, name: str, now: float | None = None) -> tuple[IceServer, ...]:
    """What one end of a call is told. TURN servers without a username of their own get one for `name` that is good for
    `server.turn_ttl_s` from `now` (seconds of the Unix epoch): coturn's REST API, `use-auth-secret`."""
    expiry = int(time.time() if now is None else now) + settings.turn_ttl_s
    username = f"{expiry}:{name}"
    digest = hmac.new(settings.turn_secret.encode(), username.encode(), hashlib.sha1).digest()
    credential = base64.b64encode(digest).decode()
    return tuple(
        IceServer(urls=server.urls, username=username, credential=credential)
        if settings.turn_secret and server.is_turn and not server.username
        else server
        for server in settings.ice_servers
    )
