"""A schema that was read, written as the grammar engine (llguidance, within llama.cpp) enforces it to the letter.

What is written allows a part of what was read, and nothing else: objects that name their properties have no others
unless the schema says so, and have them in the order of the schema. Where the engine is known to be loose (names with
escapes or that come twice, numbers beyond what it can count) something narrower is written, or it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from omni_rt.engine.schema.formats import FORMATS
from omni_rt.engine.schema.judge import fits, of_property
from omni_rt.engine.schema.numbers import number, whole
from omni_rt.engine.schema.read import Reading
from omni_rt.engine.schema.shapes import (
    Anything,
    Array,
    Boolean,
    Const,
    Null,
    Number,
    Object,
    Reference,
    SchemaRefused,
    Shape,
    Shapes,
    String,
)

Schema = dict[str, Any]

# Beyond these the grammar becomes large.
_MOST_ITEMS = 200
_MOST_CHARACTERS = 2000
_MOST_IN_SETS = 5


def enforced(schema: Mapping[str, Any], prefix: str) -> tuple[Schema, dict[str, Schema]]:
    """A schema as the engine enforces it, and the definitions, named with `prefix`, that it refers to as `#/$defs/...`.

    Raises SchemaRefused.
    """
    reading = Reading(schema)
    writing = Writing(reading, prefix)
    return writing.all(reading.all()), writing.definitions


class Writing:
    """Writes what a Reading has read; what it refers to is in `definitions`, under names that begin with `prefix`."""

    def __init__(self, reading: Reading, prefix: str) -> None:
        self._reading = reading
        self._prefix = prefix
        self._alive: set[str] = set()
        self.definitions: dict[str, Schema] = {}

    def all(self, shapes: Shapes) -> Schema:
        """Raises SchemaRefused, also where nothing at all would be valid."""
        while found := [name for name in self._reading.shapes if name not in self._alive and self._lives(name)]:
            self._alive.update(found)
        written = self._write(shapes)
        if written is None:
            raise SchemaRefused("", "nothing is valid by this schema")
        for name in self._alive:
            definition = self._write(self._reading.shapes[name] or ())
            assert definition is not None
            self.definitions[self._prefix + name] = definition
        return written

    def _lives(self, name: str) -> bool:
        """Whether something is valid by it, as far as is known of what it refers to."""
        return self._write(self._reading.shapes[name] or ()) is not None

    def _write(self, shapes: Shapes) -> Schema | None:
        """None if nothing is valid. What was never said is left out, where something was."""
        said = [shape for shape in shapes if not shape.unsaid] or shapes
        options: list[Schema] = []
        for shape in said:
            written = self._one(shape)
            if written is not None and written not in options:
                options.append(written)
        if len(options) < 2:
            return options[0] if options else None
        return {} if {} in options else {"anyOf": options}

    def _one(self, shape: Shape) -> Schema | None:
        match shape:
            case Anything():
                return {}
            case Const():
                return {"const": shape.value}
            case Null():
                return {"type": "null"}
            case Boolean():
                return {"type": "boolean"}
            case Number():
                return whole(shape) if shape.integer else number(shape)
            case String():
                return _string(shape)
            case Array():
                return self._array(shape)
            case Object():
                return self._object(shape)
            case Reference():
                return {"$ref": f"#/$defs/{self._prefix}{shape.name}"} if shape.name in self._alive else None

    # -- arrays

    def _array(self, shape: Array) -> Schema | None:
        most = _MOST_ITEMS if shape.most is None else min(shape.most, _MOST_ITEMS)
        prefix: list[Schema] = []
        for one in shape.prefix[:most]:
            written = self._write(one)
            if written is None:
                break
            prefix.append(written)
        items = self._write(shape.items) if len(prefix) == len(shape.prefix) else None
        if items is None:
            most = min(most, len(prefix))
        if shape.fewest > most:
            if shape.fewest > _MOST_ITEMS:
                raise SchemaRefused("", f"an array has at least {shape.fewest} items, more than {_MOST_ITEMS}")
            return None
        if shape.unique and most > 1:
            return self._set(shape, most)
        bounded = shape.most is not None or items is None
        return {
            "type": "array",
            **({"prefixItems": prefix} if prefix else {}),
            "items": False if items is None else items,
            **({"minItems": shape.fewest} if shape.fewest else {}),
            **({"maxItems": most} if bounded else {}),
        }

    def _set(self, shape: Array, most: int) -> Schema | None:
        """Of items that are all different: those of few known values, in their order, or at most one."""
        values = [one.value for one in _values(shape.items)]
        if not shape.prefix and values and len(values) <= _MOST_IN_SETS:
            sizes = range(shape.fewest, min(most, len(values)) + 1)
            chosen = [list(each) for size in sizes for each in combinations(values, size)]
            return {"enum": chosen} if chosen else None
        if shape.fewest > 1:
            raise SchemaRefused(
                "", f"uniqueItems can be held to for up to {_MOST_IN_SETS} known values, or at most one item"
            )
        return self._array(Array(shape.prefix, shape.items, shape.fewest, 1))

    # -- objects

    def _object(self, shape: Object) -> Schema | None:
        if shape.most is not None and shape.fewest > shape.most:
            return None
        names = dict.fromkeys((*shape.properties, *shape.required, *self._named(shape)))
        required, properties, optional = set(shape.required), dict[str, Schema](), list[str]()
        closed = False
        for name in names:
            allowed = shape.names is None or fits(name, shape.names, self._reading.look)
            written = self._write(of_property(shape, name)) if allowed else None
            if written is None and name in required:
                return None
            if written is None:
                closed = True
                continue
            properties[name] = written
            if name not in required:
                optional.append(name)
        more = None if closed else self._more(shape, names)
        if more is not None and names and (shape.fewest > len(required) or shape.most is not None):
            more = None  # how many there are can be told only of those with names, or only of the others
        if more is None or names:
            if shape.most is not None:
                if len(required) > shape.most:
                    return None
                kept = set(optional[: shape.most - len(required)])
                properties = {name: one for name, one in properties.items() if name in required | kept}
                optional = [name for name in optional if name in kept]
            missing = max(0, shape.fewest - len(required))
            if missing > len(optional):
                return None
            required.update(optional[:missing])
        written_object: Schema = {"type": "object", "properties": properties}
        if required:
            written_object["required"] = [name for name in properties if name in required]
        return written_object | ({"additionalProperties": False} if more is None else more | _counts(shape, names))

    def _named(self, shape: Object) -> list[str]:
        """The names that all properties must have, where there are few."""
        return [one.value for one in _values(shape.names or ())]

    def _more(self, shape: Object, names: Mapping[str, None]) -> Schema | None:
        """Properties beside those with names; None if there are none."""
        if shape.names is not None and not _any_name(shape.names):
            return self._more_by_name(shape, names)
        if shape.pattern is not None:
            return self._by_pattern(shape.pattern[0], shape.pattern[1], names)
        if shape.extra is None:
            return None if names else {"additionalProperties": True}
        if names:
            return self._by_pattern("", shape.extra, names)
        extra = self._write(shape.extra)
        return None if extra is None else {"additionalProperties": extra}

    def _more_by_name(self, shape: Object, names: Mapping[str, None]) -> Schema | None:
        if self._named(shape):
            return None
        match shape.names:
            case (String(shortest=0, longest=None, patterns=(pattern,)),) if shape.pattern is None:
                return self._by_pattern(pattern, (Anything(),) if shape.extra is None else shape.extra, names)
        if names or shape.fewest == 0:
            return None
        raise SchemaRefused("", "of propertyNames only a pattern, or an enum, can be held to")

    def _by_pattern(self, pattern: str, shapes: Shapes, names: Mapping[str, None]) -> Schema | None:
        """The engine keeps these from the names that are taken, but for names that can be written in two ways."""
        written = self._write(shapes)
        if written is None or any(not name.isprintable() or {'"', "\\"} & set(name) for name in names):
            return None
        return {"patternProperties": {pattern: written}, "additionalProperties": False}


def _counts(shape: Object, names: Mapping[str, None]) -> Schema:
    """How many properties an object has that names none. The engine lets a name come twice."""
    if names:
        return {}
    if shape.fewest > 1:
        raise SchemaRefused("", f"an object has at least {shape.fewest} properties, of any names")
    return {
        **({"minProperties": shape.fewest} if shape.fewest else {}),
        **({"maxProperties": shape.most} if shape.most is not None else {}),
    }


def _values(shapes: Shapes) -> list[Const]:
    """All that is valid, where it is a few values; else nothing."""
    found: list[Const] = []
    for shape in (shape for shape in shapes if not shape.unsaid):
        match shape:
            case Const():
                found.append(shape)
            case Null():
                found.append(Const(None))
            case Boolean():
                found += [Const(False), Const(True)]
            case _:
                return []
    return found


def _any_name(names: Shapes) -> bool:
    return any(
        isinstance(shape, Anything)
        or (isinstance(shape, String) and (shape.shortest, shape.longest, shape.patterns) == (0, None, ()))
        for shape in names
    )


def _string(shape: String) -> Schema | None:
    if shape.longest is not None and shape.longest < shape.shortest:
        return None
    if shape.shortest > _MOST_CHARACTERS:
        raise SchemaRefused("", f"a text has at least {shape.shortest} characters, more than {_MOST_CHARACTERS}")
    patterns = [*shape.patterns, *(FORMATS[name] for name in shape.formats if name in FORMATS)]
    written: Schema = {"type": "string"}
    if shape.shortest:
        written["minLength"] = shape.shortest
    if shape.longest is not None:
        written["maxLength"] = min(shape.longest, _MOST_CHARACTERS)
    if len(patterns) == 1:
        written["pattern"] = patterns[0]
    elif patterns:
        written["allOf"] = [{"type": "string", "pattern": pattern} for pattern in patterns]
    return written
