"""What fits two schemas at once."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import repeat
from math import lcm

from omni_rt.engine.schema.judge import Look, fits, of_property
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
    SchemaRefused,
    Shape,
    Shapes,
    String,
)

# Alternatives that a schema may come to.
MOST_SHAPES = 256


def meet(left: Shapes, right: Shapes, look: Look, place: str) -> Shapes:
    """The values that fit both. Raises SchemaRefused where that cannot be told."""
    if len(left) * len(right) > MOST_SHAPES:
        raise SchemaRefused(place, f"it comes to more than {MOST_SHAPES} alternatives")
    found = [shape for one in left for other in right for shape in _meet(one, other, look, place)]
    return tuple(found)


def _meet(one: Shape, other: Shape, look: Look, place: str) -> Shapes:
    unsaid = one.unsaid or other.unsaid
    match one, other:
        case (Anything(), _):
            return (replace(other, unsaid=unsaid),)
        case (_, Anything()):
            return (replace(one, unsaid=unsaid),)
        case (Reference(), Reference()) if one.name == other.name:
            return (replace(one, unsaid=unsaid),)
        case (Reference(), _):
            return meet(_known(one, look, place), (other,), look, place)
        case (_, Reference()):
            return meet((one,), _known(other, look, place), look, place)
        case (Const(), _):
            return (replace(one, unsaid=unsaid),) if fits(one.value, (other,), look) else ()
        case (_, Const()):
            return (replace(other, unsaid=unsaid),) if fits(other.value, (one,), look) else ()
        case (Null(), Null()) | (Boolean(), Boolean()):
            return (replace(one, unsaid=unsaid),)
        case (Number(), Number()):
            return (replace(_numbers(one, other), unsaid=unsaid),)
        case (String(), String()):
            return (replace(_strings(one, other), unsaid=unsaid),)
        case (Array(), Array()):
            return (replace(_arrays(one, other, look, place), unsaid=unsaid),)
        case (Object(), Object()):
            return (replace(_objects(one, other, look, place), unsaid=unsaid),)
    return ()


def _known(reference: Reference, look: Look, place: str) -> Shapes:
    known = look(reference)
    if known is None:
        raise SchemaRefused(place, "a $ref to a schema that it is part of may have no other keywords beside it")
    return known


def _numbers(one: Number, other: Number) -> Number:
    low, low_open = max(
        ((each.low, each.low_open) for each in (one, other) if each.low is not None), default=(None, False)
    )
    highs = [(-each.high, each.high_open) for each in (one, other) if each.high is not None]
    high, high_open = max(highs, default=(None, False))
    multiples = [each.multiple for each in (one, other) if each.multiple is not None]
    multiple = multiples[0] if multiples else None
    if len(multiples) == 2:
        below = lcm(*(each.denominator for each in multiples))
        multiple = Fraction(lcm(*(int(each * below) for each in multiples)), below)
    return Number(one.integer or other.integer, low, None if high is None else -high, low_open, high_open, multiple)


def _strings(one: String, other: String) -> String:
    return String(
        max(one.shortest, other.shortest),
        _least(one.longest, other.longest),
        tuple(dict.fromkeys((*one.patterns, *other.patterns))),
        tuple(dict.fromkeys((*one.formats, *other.formats))),
    )


def _arrays(one: Array, other: Array, look: Look, place: str) -> Array:
    lefts = (*one.prefix, *repeat(one.items, max(0, len(other.prefix) - len(one.prefix))))
    rights = (*other.prefix, *repeat(other.items, max(0, len(one.prefix) - len(other.prefix))))
    return Array(
        tuple(meet(left, right, look, place) for left, right in zip(lefts, rights, strict=True)),
        meet(one.items, other.items, look, place),
        max(one.fewest, other.fewest),
        _least(one.most, other.most),
        one.unique or other.unique,
    )


def _objects(one: Object, other: Object, look: Look, place: str) -> Object:
    names = dict.fromkeys((*one.properties, *other.properties))
    properties = {name: meet(of_property(one, name), of_property(other, name), look, place) for name in names}
    if one.pattern is not None and other.pattern is not None:
        raise SchemaRefused(place, "patternProperties are said twice")
    pattern = one.pattern or other.pattern
    if pattern is not None:
        beside = other.extra if one.pattern is not None else one.extra
        pattern = pattern[0], pattern[1] if beside is None else meet(pattern[1], beside, look, place)
    return Object(
        properties,
        tuple(dict.fromkeys((*one.required, *other.required))),
        _both(one.extra, other.extra, look, place),
        pattern,
        _both(one.names, other.names, look, place),
        max(one.fewest, other.fewest),
        _least(one.most, other.most),
    )


def with_pattern(shape: Object, pattern: str, said: Shapes, look: Look, place: str) -> Object:
    """An object without patterns, with one: properties whose names fit it are all that is said of them."""
    properties = {
        name: meet(shapes, said, look, place) if compiled(pattern).search(name) else shapes
        for name, shapes in shape.properties.items()
    }
    return replace(shape, properties=properties, pattern=(pattern, said))


def _both(one: Shapes | None, other: Shapes | None, look: Look, place: str) -> Shapes | None:
    if one is None or other is None:
        return other if one is None else one
    return meet(one, other, look, place)


def _least(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)
