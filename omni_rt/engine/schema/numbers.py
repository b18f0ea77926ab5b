"""Bounds of numbers, written as the grammar engine (llguidance) holds to them.

It counts whole numbers in 64 bits and reads bounds as doubles, knows no multiples below zero, and forgets that a whole
number is excluded where both bounds begin with it.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import Any

from omni_rt.engine.schema.shapes import Number, SchemaRefused, exact

Schema = dict[str, Any]

# Whole numbers that every reader of JSON holds exactly, and bounds that the engine can count with.
_WHOLE = 2**53
_MOST = 10**15
_DIGITS = 15
_LARGEST_STEP = 2**32
# Negative multiples that are named one by one.
_MOST_NAMED = 32
# An excluded bound is moved by a unit so many digits behind its last.
_FINER = 6


def whole(shape: Number) -> Schema | None:
    """None if there is none. Raises SchemaRefused."""
    step = 1 if shape.multiple is None else shape.multiple.numerator
    low = high = None
    if shape.low is not None:
        low = floor(shape.low) + 1 if shape.low_open else ceil(shape.low)
        low = ceil(Fraction(max(low, -_WHOLE), step)) * step
    if shape.high is not None:
        high = ceil(shape.high) - 1 if shape.high_open else floor(shape.high)
        high = floor(Fraction(min(high, _WHOLE), step)) * step
    if low is not None and high is not None and low > high:
        return None
    if step >= _LARGEST_STEP or (low or 0) > _WHOLE or (high or 0) < -_WHOLE:
        raise SchemaRefused("", "a whole number is bounded beyond what numbers of JSON hold exactly")
    if step != 1:
        return _multiples("integer", low, high, Fraction(step))
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer", **{name: bound for name, bound in bounds.items() if bound is not None}}


def number(shape: Number) -> Schema | None:
    """None if there is none. Raises SchemaRefused."""
    low, high, step = shape.low, shape.high, shape.multiple
    if low is not None and high is not None and (low > high or (low == high and (shape.low_open or shape.high_open))):
        return None
    if step is not None:
        return _steps(shape, step)
    low = None if low is None else max(low, Fraction(-_MOST))
    high = None if high is None else min(high, Fraction(_MOST))
    if not _readable(low) or not _readable(high):
        raise SchemaRefused("", f"a number is bounded by one of more than {_DIGITS} digits")
    low_open, high_open = shape.low_open and low == shape.low, shape.high_open and high == shape.high
    if low is not None and high is not None:
        if low_open and low >= 0 and floor(high) == low:
            low, low_open = _beside(low, 1), False
        if high_open and high <= 0 and ceil(low) == high:
            high, high_open = _beside(high, -1), False
        if low > high:
            raise SchemaRefused("", "a number is bounded too narrowly")
    return {
        "type": "number",
        **({} if low is None else {"exclusiveMinimum" if low_open else "minimum": _as_json(low)}),
        **({} if high is None else {"exclusiveMaximum" if high_open else "maximum": _as_json(high)}),
    }


def _steps(shape: Number, step: Fraction) -> Schema | None:
    low, high = shape.low, shape.high
    if low is not None:
        low = step * (floor(low / step) + 1 if shape.low_open else ceil(low / step))
    if high is not None:
        high = step * (ceil(high / step) - 1 if shape.high_open else floor(high / step))
    if low is not None and high is not None and low > high:
        return None
    if not _readable(low) or not _readable(high) or not _is_step(step):
        raise SchemaRefused("", "multipleOf, or a bound beside it, has too many digits")
    return _multiples("number", low, high, step)


def _multiples(kind: str, low: Fraction | int | None, high: Fraction | int | None, step: Fraction) -> Schema:
    """Of multiples the engine knows those that are not negative; a few others are named. Bounds are multiples too."""
    if low is not None and low == high:
        return {"const": _as_json(Fraction(low))}
    options: list[Schema] = []
    if high is None or high >= 0:
        above: Schema = {"type": kind, "multipleOf": _as_json(step), "minimum": _as_json(Fraction(max(low or 0, 0)))}
        options.append(above if high is None else above | {"maximum": _as_json(Fraction(high))})
    first = 1 if high is None or high >= 0 else round(-high / step)
    last = first + _MOST_NAMED if low is None else min(first + _MOST_NAMED, round(-low / step) + 1)
    named = [_as_json(-step * number) for number in range(first, last)]
    if named:
        options.append({"enum": named})
    return options[0] if len(options) == 1 else {"anyOf": options}


def _beside(bound: Fraction, sign: int) -> Fraction:
    """A number that is a little more or less."""
    finest = min(_DIGITS, _places(bound) + _FINER)
    moved = (bound + Fraction(sign, 10**places) for places in range(finest, -1, -1))
    return next(one for one in moved if exact(float(one)) == one)


def _places(number: Fraction) -> int:
    """Digits behind the point, or more than can be."""
    return next((places for places in range(_DIGITS + 1) if (number * 10**places).denominator == 1), _DIGITS + 1)


def _readable(bound: Fraction | None) -> bool:
    """Whether the engine reads it as it is."""
    return bound is None or (abs(bound) <= _MOST and _places(bound) <= _DIGITS and exact(float(bound)) == bound)


def _is_step(step: Fraction) -> bool:
    """Whether the engine reads it as it is: it multiplies by ten until nothing is left behind the point."""
    if _places(step) > _DIGITS or step * 10 ** _places(step) >= _LARGEST_STEP:
        return False
    value, places = float(step), 0
    while value != floor(value) and places <= _DIGITS:
        value, places = value * 10, places + 1
    return Fraction(int(value), 10**places) == step


def _as_json(number: Fraction) -> float:
    return int(number) if number.denominator == 1 else float(number)
