"""Which JSON is taken: what the standard knows and what can be sent back as it came."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

# A tool's schema may be nested 32 schemas deep, each of them two levels of JSON.
MAX_DEPTH = 100
# Each may be a fault of its own that is then told apart from the others.
MAX_VALUES = 20_000

_MEMBER = r'"(?:type|event_id)"\s*:\s*"[^"\\]{0,512}"'
_FIRST = re.compile(rf"\s*\{{\s*{_MEMBER}(?:\s*,\s*{_MEMBER})?")
_LAST = re.compile(rf",\s*{_MEMBER}(?:\s*,\s*{_MEMBER})?\s*\}}\s*\Z")
_EVENT_ID = re.compile(r'"event_id"\s*:\s*"([^"\\]{0,512})"')
_SIGHT = 2048


def fault(data: Any) -> str:
    """Why parsed JSON is not taken, "" if it is: depth, number of values, numbers that are none or take more than 64
    bits, halves of surrogate pairs."""
    count = 0
    waiting: list[tuple[Any, int]] = [(data, 0)]
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if wrong := _own_fault(value):
            return wrong
        if not isinstance(value, (dict, list)):
            continue
        if depth >= MAX_DEPTH:
            return f"it is nested deeper than {MAX_DEPTH} levels"
        if count + len(waiting) + len(value) > MAX_VALUES:
            return f"it has more than {MAX_VALUES} values"
        waiting.extend((child, depth + 1) for child in _children(value))
    return ""


def _children(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    else:
        yield from (key for key in value if not key.isascii())
        yield from value.values()


def _own_fault(value: Any) -> str:
    if isinstance(value, str):
        return "" if is_whole(value) else "a text in it has half of a surrogate pair"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number in it is not finite"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "a number in it takes more than 64 bits"
    return ""


def is_whole(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def event_id_unparsed(raw: str | bytes) -> str | None:
    """The client's id of an event that is not read, where it stands among the first or the last members."""
    first, last = (
        part if isinstance(part, str) else part.decode("utf-8", "replace") for part in (raw[:_SIGHT], raw[-_SIGHT:])
    )
    for found in (_FIRST.match(first), _LAST.search(last)):
        if found and (named := _EVENT_ID.search(found.group())):
            return named.group(1)
    return None
