r"""Patterns of strings: the part of ECMAScript's regular expressions that means the same to everybody.

A pattern is read and written again, so that nothing is left to a library's dialect. What comes out is found in a string
by Python's `re` and by the grammar engine alike, and where libraries differ, only in strings in which all find it: `\w`
is ASCII, and `\W` is no letter of any language.
"""

from __future__ import annotations

import re
from functools import cache

_CLASSES = {
    "d": "0-9",
    "w": "A-Za-z0-9_",
    "s": " \\t\\n\\r\\f\\x0b",
}
_OTHERS = {
    "D": "\\x00-/:-~\u00a1-\u024f",
    "W": "\\x00-/:-@\\[-\\^`\\{-\\x7f",
    "S": "!-~\u00a1-\u167f\u1681-\u1fff\u2030-\u205e\u3001-\ud7ff",
}
# Spaces of any library, for sets that are to have none.
_SPACES = " \\t-\\r\\x1c-\\x1f\\x85\\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_CONTROL = {"t": "\\t", "n": "\\n", "r": "\\r", "f": "\\f", "v": "\\x0b", "0": "\\x00"}
_SPECIAL = frozenset("\\^$.|?*+()[]{}/-#&~ ")
# More repetitions make the grammar large.
_MOST_REPEATED = 500


class PatternRefused(Exception):
    """A pattern outside of what is read here."""


def read_pattern(pattern: str) -> str:
    """The pattern in the common form. Raises PatternRefused."""
    reader = _Reader(pattern)
    written = reader.alternatives(outer=True)
    if reader.rest:
        raise PatternRefused(f"{reader.rest[0]!r} closes nothing")
    return written


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """What `read_pattern` gave, for `search`."""
    return re.compile(pattern)


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    @property
    def rest(self) -> str:
        return self._pattern[self._at :]

    def _next(self) -> str:
        if not self.rest:
            raise PatternRefused("it ends too soon")
        self._at += 1
        return self._pattern[self._at - 1]

    def _takes(self, text: str) -> bool:
        if not self.rest.startswith(text):
            return False
        self._at += len(text)
        return True

    def alternatives(self, outer: bool) -> str:
        """Up to the end or the bracket that closes them. Only outer ones may be anchored."""
        found = [self._sequence(outer)]
        while self._takes("|"):
            found.append(self._sequence(outer))
        return "|".join(found)

    def _sequence(self, outer: bool) -> str:
        parts: list[str] = []
        while self.rest and self.rest[0] not in "|)":
            if self._takes("^"):
                if parts or not outer:
                    raise PatternRefused("'^' may stand only at the beginning")
                parts.append("^")
            elif self._takes("$"):
                if not outer or (self.rest and self.rest[0] != "|"):
                    raise PatternRefused("'$' may stand only at the end")
                parts.append("$")
            else:
                parts.append(self._atom() + self._repeated())
        return "".join(parts)

    def _atom(self) -> str:
        char = self._next()
        match char:
            case "(":
                if self._takes("?") and not self._takes(":"):
                    raise PatternRefused("of groups with '(?' only '(?:' is known")
                inner = self.alternatives(outer=False)
                if not self._takes(")"):
                    raise PatternRefused("a group is not closed")
                return f"(?:{inner})"
            case "[":
                return self._set()
            case ".":
                return "[^\\n\\r\u2028\u2029]"
            case "\\":
                return self._escape()
            case "*" | "+" | "?" | "{" | "}" | "]":
                raise PatternRefused(f"{char!r} stands alone; escape it")
        return _literal(char)

    def _escape(self) -> str:
        char = self._next()
        if char in _CLASSES:
            return f"[{_CLASSES[char]}]"
        if char in _OTHERS:
            return f"[{_OTHERS[char]}]"
        return self._character(char)

    def _character(self, char: str) -> str:
        """One that was escaped."""
        if char in _CONTROL:
            return _CONTROL[char]
        if char in "xu":
            digits = self.rest[: 2 if char == "x" else 4]
            self._at += len(digits)
            if not re.fullmatch(r"[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits) or 0xD800 <= int(digits, 16) < 0xE000:
                raise PatternRefused(f"'\\{char}{digits}' is no character")
            return _literal(chr(int(digits, 16)))
        if char in _SPECIAL or not char.isalnum():
            return _literal(char)
        raise PatternRefused(f"'\\{char}' is not known")

    def _set(self) -> str:
        inverted, parts = self._takes("^"), list[str]()
        while not self._takes("]"):
            low = self._member()
            if self.rest[:1] == "-" and self.rest[1:2] not in ("]", ""):
                self._at += 1
                high = self._member()
                if {low, high} & {*_CLASSES.values(), *_OTHERS.values()} or _code(low) > _code(high):
                    raise PatternRefused(f"{low}-{high} is no range of characters")
                parts.append(f"{low}-{high}")
            else:
                parts.append(low)
        if not parts:
            raise PatternRefused("a set of characters is empty")
        return _without(parts) if inverted else f"[{''.join(parts)}]"

    def _member(self) -> str:
        char = self._next()
        if char == "[":
            return "\\["
        if char != "\\":
            return _literal(char)
        char = self._next()
        if char == "b":
            return "\\x08"
        return _CLASSES.get(char) or _OTHERS.get(char) or self._character(char)

    def _repeated(self) -> str:
        counts = re.match(r"\{(\d+)(?:(,)(\d*))?\}|[*+?]", self.rest)
        if counts is None:
            return ""
        self._at += counts.end()
        if self._takes("?"):
            pass  # what is found sooner is found as well
        if self.rest[:1] in ("*", "+", "?", "{"):
            raise PatternRefused("a repetition is repeated")
        low, comma, high = counts.groups()
        if low is None:
            return counts.group()
        if int(high or low) < int(low) or max(int(low), int(high or 0)) > _MOST_REPEATED:
            raise PatternRefused(f"{counts.group()} is no repetition, or one of more than {_MOST_REPEATED}")
        return f"{{{int(low)}{comma or ''}{int(high) if high else ''}}}"


def _without(parts: list[str]) -> str:
    """The set of all characters but these; only ASCII, where these are letters or digits, as what is none of them there
    may be one of another alphabet."""
    none_of = "".join(_SPACES if part == _CLASSES["s"] else part for part in parts)
    if not {_CLASSES["w"], _CLASSES["d"], *_OTHERS.values()} & set(parts):
        return f"[^{none_of}]"
    within = re.compile(f"[{none_of}]")
    left = [_literal(chr(code)) for code in range(128) if not within.match(chr(code))]
    if not left:
        raise PatternRefused("a set of characters is empty")
    return f"[{''.join(left)}]"


def _literal(char: str) -> str:
    if char in _SPECIAL:
        return "\\" + char if char != " " else " "
    if char.isprintable() or ord(char) > 0xFF:
        return char
    return f"\\x{ord(char):02x}"


def _code(written: str) -> int:
    """The character of a literal."""
    if len(written) > 2:
        return int(written[2:], 16)
    return ord({"\\t": "\t", "\\n": "\n", "\\r": "\r", "\\f": "\f"}.get(written, written[-1]))
