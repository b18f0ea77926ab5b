"""Whether a value fits, and whether nothing can fit two schemas at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omni_rt.engine.schema.pattern import compiled
from omni_rt.engine.schema.shapes import (
    Anything,
    Array,
    Boolean,
    Const,
    Null,
    Number,
    Object,
    Reference,
    Shape,
    Shapes,
    String,
    exact,
    key_of,
)

Look = Callable[[Reference], Shapes | None]
"""The shapes of a reference; None while they are not known."""


def fits(value: Any, shapes: Shapes, look: Look) -> bool:
    """Whether a value is valid. What is not known of a reference counts as if it were."""
    return any(_fits(value, shape, look) for shape in shapes)


def _fits(value: Any, shape: Shape, look: Look) -> bool:
    match shape:
        case Anything():
            return True
        case Const():
            return key_of(value) == key_of(shape.value)
        case Null():
            return value is None
        case Boolean():
            return isinstance(value, bool)
        case Number():
            return isinstance(value, int | float) and not isinstance(value, bool) and _in_range(value, shape)
        case String():
            return isinstance(value, str) and _is_written(value, shape)
        case Array():
            return isinstance(value, list) and _is_listed(value, shape, look)
        case Object():
            return isinstance(value, dict) and _is_made_of(value, shape, look)
        case Reference():
            known = look(shape)
            return known is None or fits(value, known, look)


def _in_range(value: float, shape: Number) -> bool:
    number = exact(value)
    if shape.integer and number.denominator != 1:
        return False
    if shape.low is not None and (number < shape.low or (shape.low_open and number == shape.low)):
        return False
    if shape.high is not None and (number > shape.high or (shape.high_open and number == shape.high)):
        return False
    return shape.multiple is None or (number / shape.multiple).denominator == 1


def _is_written(value: str, shape: String) -> bool:
    if len(value) < shape.shortest or (shape.longest is not None and len(value) > shape.longest):
        return False
    return all(compiled(pattern).search(value) for pattern in shape.patterns)


def _is_listed(value: list[Any], shape: Array, look: Look) -> bool:
    if len(value) < shape.fewest or (shape.most is not None and len(value) > shape.most):
        return False
    if shape.unique and len({key_of(item) for item in value}) < len(value):
        return False
    return all(
        fits(item, shape.prefix[place] if place < len(shape.prefix) else shape.items, look)
        for place, item in enumerate(value)
    )


def _is_made_of(value: dict[str, Any], shape: Object, look: Look) -> bool:
    if len(value) < shape.fewest or (shape.most is not None and len(value) > shape.most):
        return False
    if not set(shape.required) <= value.keys():
        return False
    if shape.names is not None and not all(fits(name, shape.names, look) for name in value):
        return False
    return all(fits(each, of_property(shape, name), look) for name, each in value.items())


def of_property(shape: Object, name: str) -> Shapes:
    """What is said of a property."""
    if name in shape.properties:
        return shape.properties[name]
    if shape.pattern is not None and compiled(shape.pattern[0]).search(name):
        return shape.pattern[1]
    return (Anything(),) if shape.extra is None else shape.extra


def apart(left: Shapes, right: Shapes, look: Look) -> bool:
    """Whether it is certain that no value fits both."""
    return all(_apart(one, other, look) for one in left for other in right)


def _apart(one: Shape, other: Shape, look: Look) -> bool:
    match one, other:
        case (Const(), Const()):
            return key_of(one.value) != key_of(other.value)
        case (Const(value), String()) | (String(), Const(value)):
            # patterns are read narrowly where libraries differ
            return not isinstance(value, str) or (value.isascii() and not _one_fits(value, one, other, look))
        case (Const(), _):
            return not _fits(one.value, other, look)
        case (_, Const()):
            return not _fits(other.value, one, look)
        case (Reference(), _):
            known = look(one)
            return known is not None and apart(known, (other,), lambda _: None)
        case (_, Reference()):
            return _apart(other, one, look)
        case (Anything(), _) | (_, Anything()):
            return False
        case (Number(), Number()):
            return _below(one, other) or _below(other, one)
        case (String(), String()):
            return _shorter(one.longest, other.shortest) or _shorter(other.longest, one.shortest)
        case (Array(), Array()):
            return _shorter(one.most, other.fewest) or _shorter(other.most, one.fewest)
        case (Object(), Object()):
            names = {*one.required, *other.required}
            return any(apart(of_property(one, name), of_property(other, name), look) for name in names)
    return type(one) is not type(other)


def _one_fits(value: str, one: Shape, other: Shape, look: Look) -> bool:
    return _fits(value, one, look) and _fits(value, other, look)


def _shorter(most: int | None, fewest: int) -> bool:
    return most is not None and most < fewest


def _below(one: Number, other: Number) -> bool:
    if one.high is None or other.low is None:
        return False
    return one.high < other.low or (one.high == other.low and (one.high_open or other.low_open))
