"""What a tool must be before the model is told about it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from omni_rt.engine.api import EngineError, Tool
from omni_rt.engine.schema.shapes import SchemaRefused
from omni_rt.engine.schema.write import Schema, enforced

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_DEPTH = 32
_SCHEMA = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_TEXTS = ("description", "title", "$ref", "format")


def parameters(tool: Tool) -> dict[str, Any]:
    """The tool's schema; one that gives none takes no arguments."""
    return tool.parameters or {"type": "object", "properties": {}}


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises EngineError `tool_schema` naming the tool, the place in its schema, and what is wrong there."""
    seen: set[str] = set()
    for tool in tools:
        if not isinstance(tool.name, str) or not _NAME.fullmatch(tool.name):
            raise _error(tool, "its name must be 1 to 64 letters, digits, '_', '-' or '.'")
        if tool.name in seen:
            raise _error(tool, "there are two tools of that name")
        seen.add(tool.name)
        if not isinstance(tool.description, str):
            raise _error(tool, "its description must be text")
        schema = parameters(tool)
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise _error(tool, 'its parameters must be a JSON schema with "type": "object"')
        if fault := _fault(schema, "parameters", 0):
            raise _error(tool, fault)
        try:
            json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise _error(tool, f"its parameters cannot be written as JSON: {error}") from error


_COMBINING = frozenset(("$ref", "allOf", "anyOf", "oneOf", "patternProperties"))


def enforced_parameters(tool: Tool, prefix: str) -> tuple[Schema, dict[str, Schema]]:
    """The tool's schema as a grammar enforces it, and the definitions that it refers to; see `enforced`.

    A tool has no arguments beside those it names, unless it says so. Raises SchemaRefused.
    """
    schema = parameters(tool)
    return enforced(schema if _COMBINING & schema.keys() else {"additionalProperties": False, **schema}, prefix)


def check_enforceable(tools: Sequence[Tool]) -> None:
    """Raises UnenforceableTool for the first whose schema no grammar can be made of."""
    for number, tool in enumerate(tools):
        try:
            enforced_parameters(tool, "")
        except SchemaRefused as error:
            raise UnenforceableTool(number, tool, error) from error


class UnenforceableTool(EngineError):
    """The message names the tool by its place and its name, and the place of the fault within its parameters."""

    def __init__(self, number: int, tool: Tool, fault: SchemaRefused) -> None:
        self.number = number
        super().__init__("tool_schema", f"tools[{number}].parameters of {tool.name!r} cannot be enforced: {fault}")


def _error(tool: Tool, why: str) -> EngineError:
    return EngineError("tool_schema", f"tool {tool.name!r}: {why}")


def _fault(schema: Any, place: str, depth: int) -> str:
    """What is wrong with a schema, "" if nothing is."""
    if isinstance(schema, bool):
        return ""
    if not isinstance(schema, dict):
        return f"{place} must be a JSON schema, not {schema!r:.60}"
    if depth > _DEPTH:
        return f"{place} is nested deeper than {_DEPTH} schemas"
    return _own_fault(schema, place) or next(
        (fault for child, where in _children(schema, place) if (fault := _fault(child, where, depth + 1))), ""
    )


def _own_fault(schema: dict[str, Any], place: str) -> str:
    kinds = schema.get("type", "object")
    for kind in kinds if isinstance(kinds, list) and kinds else (kinds,):
        if not isinstance(kind, str) or kind not in _TYPES:
            return f"{place}.type must be one of {', '.join(sorted(_TYPES))}, not {kind!r:.60}"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return f"{place}.required must be a list of names, not {required!r:.60}"
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        return f"{place}.enum must be a list of values, not {schema['enum']!r:.60}"
    for key in _TEXTS:
        if not isinstance(schema.get(key, ""), str):
            return f"{place}.{key} must be text, not {schema[key]!r:.60}"
    for key in _NAMED_SCHEMAS:
        if not isinstance(schema.get(key, {}), dict):
            return f"{place}.{key} must map names to schemas, not {schema[key]!r:.60}"
    for key in _SCHEMAS:
        if key in schema and not (isinstance(schema[key], list) and schema[key]):
            return f"{place}.{key} must be a list of schemas, not {schema[key]!r:.60}"
    return ""


def _children(schema: dict[str, Any], place: str) -> list[tuple[Any, str]]:
    """The schemas inside a schema, each with its place."""
    return [
        *((schema[key], f"{place}.{key}") for key in _SCHEMA if key in schema),
        *((each, f"{place}.{key}[{n}]") for key in _SCHEMAS for n, each in enumerate(schema.get(key, ()))),
        *((each, f"{place}.{key}.{name}") for key in _NAMED_SCHEMAS for name, each in schema.get(key, {}).items()),
    ]
