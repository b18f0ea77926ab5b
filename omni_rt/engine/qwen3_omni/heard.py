"""How much of a reply was heard, told from the frames that were played and the text that was fed to the talker.

The talker is fed a token a frame and speaks far more slowly than that, and nothing in it says which word a frame
belongs to. So the words are placed by how long they take to say:

1. Each character weighs what it adds to the speech, in syllables: `weigh`. A word of an alphabet weighs its vowel
   groups and a little for every letter; a digit is a word, signs like % are said, a Chinese character is a syllable, a
   kana less; the pause after a clause or a sentence weighs too; blanks and marks of layout weigh nothing.
2. A reply whose end the talker has spoken lasts as many frames as it has: the share of the frames that was played is
   the share of the weight that was heard.
3. One that was broken off before that is placed by the speaker's `Pace`, in ms per syllable: a prior, then what the
   finished replies of the session say, within bounds. If the text ended before the frames did, it also holds that the
   text is not spoken yet, which bounds the pace from the other side.
4. A word is heard when `HEARD_SHARE` of it was; the cut lies after the last such word and its marks, never inside a
   word, and never beyond the tokens fed by the last frame that was played.

The weights and the prior were chosen on English of the local engine's voice (tools/bench_heard.py says how far they
are off on other sentences of that voice, docs/benchmarks/heard_local.json what it saw). How fast Qwen3-Omni's voices
speak, and how evenly, was not measured: a session learns the former, the latter is taken as it comes. The weights of
other languages are estimates.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

FRAME_MS = 80.0
HEARD_SHARE = 0.6

# A frame that was played in part counts as played from here on: playing is reported in steps.
_STEP_FRAMES = 0.5

_WORD = 0.1
_LETTER = 0.22
_SYLLABLE = 0.25
_SPELLED = 1.2
_DIGIT = 1.5
_CLAUSE = 1.2
_SENTENCE = 1.4
_OTHER_LETTER = 0.45
_SIGNS = {"%": 2.0, "$": 2.0, "€": 2.0, "£": 1.0, "&": 1.0, "+": 1.0, "=": 2.0, "@": 1.0, "°": 2.0, "×": 1.0, "÷": 3.0}
_KANJI = 1.4
_KANA = 0.7
_GLIDES = frozenset("ゃゅょぁぃぅぇぉャュョァィゥェォ")

_TOKEN = re.compile(r"[A-Za-zÀ-ɏ]+(?:['’][A-Za-zÀ-ɏ]+)*|\S")
_VOWELS = re.compile(r"[aeiouyà-öø-ÿ]+")
_SILENT_E = re.compile(r"(?<![lr])(?<=[^aeiouy])e(?:s|d)?$")
_KANAS = re.compile(r"[\u3040-\u30ff]")
_SCRIPT_WITHOUT_BLANKS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_CLAUSE_MARKS = frozenset(",;:—–、，；：")
_SENTENCE_MARKS = frozenset(".!?…。！？")


@dataclass(frozen=True, slots=True)
class Heard:
    """The first `characters` of the text; the first `pieces` tokens lie wholly within them."""

    characters: int
    pieces: int


class Pace:
    """How fast a session's voice speaks: ms per unit of `weigh`, with the prior worth `_PRIOR_UNITS` of speech."""

    PRIOR_MS = 200.0
    SLOWEST_MS = 1.7 * PRIOR_MS
    FASTEST_MS = PRIOR_MS / 1.7
    _PRIOR_UNITS = 15.0
    _MOST_UNITS = 300.0

    def __init__(self) -> None:
        self._units = self._PRIOR_UNITS
        self._ms = self._PRIOR_UNITS * self.PRIOR_MS

    @property
    def ms_per_unit(self) -> float:
        return min(max(self._ms / self._units, self.FASTEST_MS), self.SLOWEST_MS)

    def learn(self, text: str, frames: int) -> None:
        """Take in a reply that was spoken to its end: its text and all its frames. Old ones fade."""
        units = sum(weigh(text))
        if not units or not frames:
            return
        self._units += units
        self._ms += frames * FRAME_MS
        if self._units > self._MOST_UNITS:
            fade = self._MOST_UNITS / self._units
            self._units *= fade
            self._ms *= fade


def heard(pieces: Sequence[str], frames: int, ended: bool, played: float, pace: Pace) -> Heard:
    """What was heard of a reply.

    `pieces` are the texts of the tokens in the order they were fed or will be, `frames` how many frames were made,
    `ended` whether the talker has ended the speech, `played` how many frames were played, in parts of a frame too.
    """
    text = "".join(pieces)
    ends = list(accumulate(map(len, pieces)))
    if played <= 0 or not text:
        return Heard(0, 0)
    if ended and played >= frames - _STEP_FRAMES:
        return Heard(len(text), len(pieces))
    spoken = list(accumulate(weigh(text), initial=0.0))
    reached = _reached(spoken[-1], len(pieces), frames, ended, played, pace)
    fed = min(len(pieces), max(1, -int(-played // 1)))
    characters = _cut(text, spoken, reached, ends[fed - 1])
    return Heard(characters, sum(end <= characters for end in ends))


def _reached(units: float, pieces: int, frames: int, ended: bool, played: float, pace: Pace) -> float:
    """How many units were spoken within `played` frames."""
    share = units * min(1.0, played / max(frames, 1))
    if ended:
        return share
    paced = played * FRAME_MS / pace.ms_per_unit
    return min(paced, share) if pieces < frames else paced


def _cut(text: str, spoken: Sequence[float], reached: float, limit: int) -> int:
    """The end of the last word that was heard, within the first `limit` characters."""
    end = 0
    for begin, word_end, after in words(text):
        needed = spoken[begin] + HEARD_SHARE * (spoken[word_end] - spoken[begin])
        if word_end > limit or reached < needed:
            break
        end = after if after <= limit else word_end
    return end


def words(text: str) -> list[tuple[int, int, int]]:
    """The words of `text`: from, to, and to with the marks that follow without a blank.

    In scripts without blanks every character is one.
    """
    found: list[tuple[int, int, int]] = []
    for run in re.finditer(r"\S+", text):
        starts = _starts(run.group())
        for start, following in pairwise([*starts, run.end() - run.start()]):
            last = max(i for i in range(start, following) if run.group()[i].isalnum())
            found.append((run.start() + start, run.start() + last + 1, run.start() + following))
    return found


def _starts(run: str) -> list[int]:
    """Where the words of a run without blanks begin; none if nothing in it is said."""
    starts: list[int] = []
    fresh = True
    for index, character in enumerate(run):
        if not character.isalnum():
            continue
        alone = _SCRIPT_WITHOUT_BLANKS.match(character) is not None
        if fresh or alone:
            starts.append(index if starts else 0)
        fresh = alone
    return starts


def weigh(text: str) -> list[float]:
    """How long each character of `text` takes to say, in units of about an English syllable."""
    weights = [0.0] * len(text)
    japanese = _KANAS.search(text) is not None
    for match in _TOKEN.finditer(text):
        token, start, end = match.group(), match.start(), match.end()
        if (token[0].isascii() and token[0].isalpha()) or len(token) > 1:
            each = _word(token) / len(token)
            weights[start:end] = [each] * len(token)
        else:
            before, after = text[start - 1 : start], text[end : end + 1]
            weights[start] = _single(token, before, after, japanese)
    return weights


def _word(word: str) -> float:
    if word.isupper() and 2 <= len(word) <= 5:
        return _SPELLED * len(word)
    lower = word.lower()
    syllables = len(_VOWELS.findall(lower)) - (len(_VOWELS.findall(lower)) > 1 and bool(_SILENT_E.search(lower)))
    return _WORD + _SYLLABLE * max(1, syllables) + _LETTER * len(word)


def _single(character: str, before: str, after: str, japanese: bool) -> float:
    """A character that is no part of a word of Latin letters."""
    if character.isdigit():
        return _DIGIT
    if character in _SIGNS:
        return _SIGNS[character]
    if character in _SENTENCE_MARKS or character in _CLAUSE_MARKS:
        if before.isdigit() and after.isdigit():
            return 1.0 if character in ".," else 0.0
        if after and not after.isspace() and character.isascii():
            return 0.0
        return _SENTENCE if character in _SENTENCE_MARKS else _CLAUSE
    if _KANAS.match(character):
        return 0.0 if character in _GLIDES else _KANA
    if _SCRIPT_WITHOUT_BLANKS.match(character):
        return _KANJI if japanese else 1.0
    if "\uac00" <= character <= "\ud7a3":
        return 1.0
    return _OTHER_LETTER if unicodedata.category(character)[0] == "L" else 0.0
