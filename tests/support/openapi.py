"""The HTTP endpoints as an OpenAPI description; tests hold the server to it."""

from __future__ import annotations

from typing import Any

from omni_rt.realtime.settings import WireSession
from omni_rt.server.bodies import ExpiresAfter

_COMPONENTS = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "code", "message", "param", "event_id"],
            "additionalProperties": False,
            "properties": {
                "type": {"enum": ["invalid_request_error", "server_error", "rate_limit_error"]},
                "code": {"type": "string", "minLength": 1},
                "message": {"type": "string", "minLength": 1},
                "param": {"type": ["string", "null"]},
                "event_id": {"type": "null"},
            },
        }
    },
}
_SECRET = {
    "type": "object",
    "required": ["value", "expires_at", "session"],
    "additionalProperties": False,
    "properties": {
        "value": {"type": "string", "pattern": "^ek_"},
        "expires_at": {"type": "integer"},
        "session": {"type": "object", "required": ["type", "id", "model", "audio"]},
    },
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "as it says", "content": {"application/json": {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _json({"$ref": "#/components/schemas/Error"}) for status in statuses}


def _model(model: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A model's schema; what it refers to goes to `schemas`. A client may leave out anything."""
    schema = model.model_json_schema(ref_template=_COMPONENTS)
    schemas.update(schema.pop("$defs", {}))
    schema.pop("required", None)
    return dict(schema)


def describe() -> dict[str, Any]:
    schemas: dict[str, Any] = {"Error": _ERROR, "Secret": _SECRET}
    schemas["Session"] = _model(WireSession, schemas)
    schemas["ExpiresAfter"] = _model(ExpiresAfter, schemas)
    session, expires = ({"$ref": f"#/components/schemas/{name}"} for name in ("Session", "ExpiresAfter"))
    call_id = {"name": "call_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    text = {"description": "text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    sdp = {"description": "the answer", "content": {"application/sdp": {"schema": {"type": "string"}}}}
    form = {
        "type": "object",
        "required": ["sdp"],
        "properties": {"sdp": {"type": "string"}, "session": {"type": "string"}},
    }
    secret = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"expires_after": expires, "session": session},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "omni-rt", "version": "1"},
        "paths": {
            "/v1/realtime/calls": {
                "post": {
                    "requestBody": {
                        "content": {
                            "application/sdp": {"schema": {"type": "string"}},
                            "multipart/form-data": {"schema": form},
                        }
                    },
                    "responses": {"201": sdp, **_errors(400, 413, 415, 429, 503)},
                }
            },
            "/v1/realtime/calls/{call_id}/hangup": {
                "post": {"parameters": [call_id], "responses": {"200": {"description": "over"}, **_errors(404)}}
            },
            "/v1/realtime/client_secrets": {
                "post": {
                    "requestBody": {"content": {"application/json": {"schema": secret}}},
                    "responses": {"200": _json({"$ref": "#/components/schemas/Secret"}), **_errors(400, 403, 413, 429)},
                }
            },
            "/v1/realtime/ice_servers": {
                "get": {
                    "responses": {
                        "200": _json(
                            {
                                "type": "object",
                                "required": ["ice_servers"],
                                "properties": {"ice_servers": {"type": "array", "items": {"type": "object"}}},
                            }
                        )
                    }
                }
            },
            "/metrics": {"get": {"responses": {"200": text}}},
            "/healthz": {"get": {"responses": {"200": _json({"type": "object"})}}},
            "/readyz": {"get": {"responses": {"200": _json({"type": "object"}), "503": _json({"type": "object"})}}},
        },
        "components": {"schemas": schemas},
    }
