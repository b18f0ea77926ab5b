"""Cuts a reply into clauses for speech while it is being written: the first one short, so that sound starts early."""

from __future__ import annotations

import re
from dataclasses import dataclass

FENCE = "```"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _words(
    "mr mrs ms dr prof st sr jr vs etc e.g i.e approx no inc ltd co corp dept est fig gen gov hon lt col sgt capt rev "
    "vol ed eds pp cf al ca jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun a.m p.m u.s "
    "u.k ph.d"
)

# Words that belong to what follows them; a clause does not end after one.
_LEANING = _words(
    "a an the of to in on at for with and or but is are was were be been by as from that this these those my your his "
    "her its their our i you he she it we they not very so if than can will would could should do does did have has "
    "had it's i'm there's that's you're we're they're i'll you'll when while because which who where how what about "
    "into over under between more most no one two three four five six seven eight nine ten also just"
)

# Words before which a long sentence without commas may be cut.
_JOINTS = _words(
    "and but or because so which that while when where if as then although though by with from for into to in"
)

_MARKS = ".,!?;:…—–"
_OPENERS = "\"'“‘([*_"
_CLOSERS = "\"'”’)]*_"


@dataclass(frozen=True, slots=True)
class _Limits:
    """In words: from where a comma cuts, from where a place without punctuation may, and where any does."""

    comma: int
    open: int
    longest: int

    @staticmethod
    def after(spoken: int) -> _Limits:
        """Speech already made buys the time in which a longer clause is written: a word takes some 350 ms to say, and
        100 to write where that is slow."""
        if not spoken:
            return _Limits(comma=1, open=3, longest=8)
        start = min(2 * spoken + 1, 16)
        return _Limits(comma=min(spoken, 6), open=start, longest=start + min(2 * spoken, 8))


_WORD = re.compile(r"\S*\w\S*")


class ClauseCutter:
    """What comes out, joined, is what went in."""

    def __init__(self) -> None:
        self._rest = ""
        self._spoken = 0

    def feed(self, text: str) -> list[str]:
        """The clauses that `text` completes."""
        self._rest += text
        clauses = []
        while (end := self._end()) is not None:
            clauses.append(self._rest[:end])
            self._rest = self._rest[end:]
            self._spoken += len(_WORD.findall(clauses[-1]))
        return clauses

    def flush(self) -> list[str]:
        """What is left at the end of the reply."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []

    def _end(self) -> int | None:
        """Where the first clause of the rest ends; None while that cannot be said."""
        text = self._rest
        words = 0
        start = 0
        for word in _WORD.finditer(text):
            fence = text.find(FENCE, start, word.end())
            if fence >= 0:
                return self._around_fence(fence)
            if words and (line := text.find("\n", start, word.start())) >= 0:
                return line + 1
            words += 1
            start = word.end()
            if self._ends_clause(word, words):
                return word.end()
        if (fence := text.find(FENCE, start)) >= 0:
            return self._around_fence(fence)
        if words and (line := text.find("\n", start)) >= 0:
            return line + 1
        return None

    def _around_fence(self, fence: int) -> int | None:
        """A code block is a clause of its own."""
        if self._rest[:fence].strip():
            return fence
        closing = self._rest.find(FENCE, fence + len(FENCE))
        return None if closing < 0 else closing + len(FENCE)

    def _ends_clause(self, word: re.Match[str], words: int) -> bool:
        limits = _Limits.after(self._spoken)
        following = self._rest[word.end() :]
        bare = word.group().rstrip(_CLOSERS)
        core = bare.rstrip(_MARKS)
        stem = core.lstrip(_OPENERS).lower()
        last = bare[-1:]
        if last not in _MARKS:
            return bool(following) and self._may_break(words, stem, following, limits)
        if not following and (last in ":—–" or not stem.replace("'", "").isalpha()):
            return False  # a number, an address or a name with dots may go on
        if last in "!?…":
            return True
        if last == ".":
            return self._ends_sentence(word, stem, following)
        return words >= limits.comma

    def _may_break(self, words: int, stem: str, following: str, limits: _Limits) -> bool:
        """Whether to cut where no mark asks for it."""
        if words >= limits.longest:
            return True
        # numbers and what stands with them are apart only in a longer clause
        plain = stem.replace("'", "").isalpha() and following.lstrip()[:1].isalpha()
        if words < limits.open + (not plain) or stem in _LEANING:
            return False
        ahead = following.split(maxsplit=1)
        whole = bool(ahead) and len(following.lstrip()) > len(ahead[0])
        return not self._spoken or (whole and ahead[0].lower() in _JOINTS)

    def _ends_sentence(self, word: re.Match[str], stem: str, following: str) -> bool:
        if stem in _ABBREVIATIONS or (len(stem) == 1 and stem.isalpha() and stem != "i"):
            return False
        if stem.isdigit() and not self._rest[self._rest.rfind("\n", 0, word.start()) + 1 : word.start()].strip():
            return False  # it numbers a line
        return not following.lstrip()[:1].islower()
