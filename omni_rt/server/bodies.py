"""What the bodies of HTTP requests must be."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message, Receive

from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import WireModel, wire_error
from omni_rt.realtime.strict_json import fault

MAX_BODY_BYTES = 256 * 1024


class ExpiresAfter(WireModel):
    """When a client secret ends."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(600, ge=10, le=7200, strict=True)


async def read_body(request: Request, code: str = "body_too_large") -> bytes:
    """The whole body, whatever length was announced. Raises WireError with `code` above MAX_BODY_BYTES."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise WireError(code, f"The body of this request may have {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def read_secret_request(body: bytes) -> tuple[int, dict[str, Any]]:
    """The lifetime in seconds and the session settings of a client secret. Raises WireError."""
    request = _object(body or b"{}", "The body", None)
    for name in request:
        if name not in ("expires_after", "session"):
            raise WireError("unknown_parameter", f"Unknown parameter: '{name}'.", name)
    expires_after, session = request.get("expires_after"), request.get("session")
    try:
        seconds = ExpiresAfter.model_validate({} if expires_after is None else expires_after).seconds
    except ValidationError as error:
        raise wire_error(error, "expires_after") from error
    if session is not None and not isinstance(session, dict):
        raise WireError("invalid_value", "'session' is not a JSON object.", "session")
    return seconds, session or {}


async def read_offer(request: Request) -> tuple[str, dict[str, Any]]:
    """The SDP offer and the session settings of a call. Raises WireError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, "offer_too_large")
    if kind == "application/sdp":
        return _text(body, "sdp"), {}
    if kind != "multipart/form-data":
        raise WireError(
            "unsupported_content_type",
            f"Content-Type {kind or '(none)'!r} is not served here; send application/sdp, or multipart/form-data with "
            "parts 'sdp' and 'session'.",
        )
    try:
        async with Request(request.scope, _replay(body)).form(max_part_size=MAX_BODY_BYTES) as form:
            parts = {name: await _part(form.get(name), name) for name in ("sdp", "session")}
    except (HTTPException, MultiPartException, KeyError) as error:
        reason = getattr(error, "detail", "") or str(error)
        raise WireError("invalid_form", f"The multipart form cannot be read: {reason}.") from error
    if parts["sdp"] is None:
        raise WireError("missing_required_parameter", "The form has no part 'sdp'.", "sdp")
    if parts["session"] is None:
        return parts["sdp"], {}
    return parts["sdp"], _object(parts["session"], "The part 'session'", "session")


def _object(text: str | bytes, what: str, param: str | None) -> dict[str, Any]:
    """Raises WireError where it is no JSON object that can be taken."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("invalid_json", f"{what} is not valid JSON: {error}.", param) from error
    if wrong := fault(value):
        raise WireError("invalid_json", f"{what} is not taken: {wrong}.", param)
    if not isinstance(value, dict):
        raise WireError("invalid_value", f"{what} is not a JSON object.", param)
    return value


async def _part(value: str | UploadFile | None, name: str) -> str | None:
    return _text(await value.read(), name) if isinstance(value, UploadFile) else value


def _text(data: bytes, param: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        code = "invalid_sdp" if param == "sdp" else "invalid_json"
        raise WireError(code, f"'{param}' is not UTF-8 text: {error}.", param) from error


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
