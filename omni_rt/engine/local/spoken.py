"""Turns written text into words to be spoken, each with its place in the text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_SAID = {
    "&": " and ",
    "→": " to ",
    "≈": " about ",
    "×": " times ",
    "÷": " divided by ",
    "≠": " is not ",
    "≤": " at most ",
    "≥": " at least ",
    "√": " the square root of ",
    "|": " ",
    "\\": " ",
    "\u00a0": " ",
}

# What these match is not said, but for the group, if there is one.
_SILENT = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"```(?s:.*?)(?:```|\Z)",
        r"!?\[([^\]\n]*)\]\([^)\s]*\)",
        r"</?[A-Za-z][^<>\n]*>",
        r"^[ \t]*(?:[-*+•]|#{1,6}|>+)[ \t]+",
        r"\*+|~~|`+|(?<!\w)_+|_+(?!\w)",
        r"https?://(?:www\.)?([^\s/)\]>,]+)[^\s)\]>,]*",
    )
)
_HOST = re.compile(r"(?:https?://)(?:www\.)?([^\s/)\]>,]+)")


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is said; in the text it is made from it ends before index `end`."""

    text: str
    end: int


def spoken_words(text: str) -> list[Word]:
    """The words of `text` without markdown, code blocks, tags and emoji."""
    said = [_say(character) for character in text]
    for host in _HOST.finditer(text):
        for index in range(*host.span(1)):
            if text[index] == ".":
                said[index] = " dot "
    for pattern in _SILENT:
        for match in pattern.finditer(text):
            kept = range(*match.span(1)) if pattern.groups else range(0)
            for index in range(*match.span()):
                if index not in kept:
                    said[index] = ""
    spoken = "".join(said)
    origin = [index for index, piece in enumerate(said) for _ in piece]
    return [
        Word(match.group(), origin[match.end() - 1] + 1)
        for match in re.finditer(r"\S+", spoken)
        if any(character.isalnum() for character in match.group())
    ]


def _say(character: str) -> str:
    if character in _SAID:
        return _SAID[character]
    if character.isascii() or character == "°":
        return character
    category = unicodedata.category(character)
    return "" if category in ("So", "Sk", "Cf", "Cs", "Co", "Cn") or "\ufe00" <= character <= "\ufe0f" else character
