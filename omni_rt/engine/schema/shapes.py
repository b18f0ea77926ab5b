"""What a JSON schema allows, as alternatives that each have one type.

A schema is read as `Shapes`: a value is valid if one of them holds for it; none at all is a schema that nothing fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any


class SchemaRefused(Exception):
    """A schema that no grammar can be made of; `place` is where the fault lies within it, "" for all of it."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}" if place else why)
        self.place = place


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON value."""

    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Const:
    """One value."""

    value: Any
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Null:
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Boolean:
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """Bounds are exact; `low_open` and `high_open` leave out the bound itself."""

    integer: bool = False
    low: Fraction | None = None
    high: Fraction | None = None
    low_open: bool = False
    high_open: bool = False
    multiple: Fraction | None = None
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class String:
    """`patterns` are all to be found in it, in the form of pattern.py; `formats` are wishes that values are not judged
    by."""

    shortest: int = 0
    longest: int | None = None
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """The first items as `prefix` says, all others as `items`; `unique` ones differ from each other."""

    prefix: tuple[Shapes, ...] = ()
    items: Shapes = (Anything(),)
    fewest: int = 0
    most: int | None = None
    unique: bool = False
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """`extra` is for properties that neither have a name here nor fit `pattern`; None: nothing is said of them. `names`
    is for the names of all."""

    properties: Mapping[str, Shapes] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    extra: Shapes | None = None
    pattern: tuple[str, Shapes] | None = None
    names: Shapes | None = None
    fewest: int = 0
    most: int | None = None
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """What another place of the schema says; its shapes are kept under `name`."""

    name: str
    unsaid: bool = False


Shape = Anything | Const | Null | Boolean | Number | String | Array | Object | Reference
"""`unsaid` marks what a schema allows only because it does not speak of it."""

Shapes = tuple[Shape, ...]

ANY: Shapes = (Anything(),)
UNSAID: Shapes = (
    Null(True),
    Boolean(True),
    Number(unsaid=True),
    String(unsaid=True),
    Array(unsaid=True),
    Object(unsaid=True),
)


def key_of(value: Any) -> str:
    """The same text for values that JSON Schema takes for equal: 1 and 1.0, but not true."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def exact(value: float) -> Fraction:
    """A number as it is written."""
    return Fraction(str(value))
