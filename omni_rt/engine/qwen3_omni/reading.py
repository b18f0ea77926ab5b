"""What the thinker writes, told apart token by token: speech, thoughts, tool calls."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from itertools import dropwhile
from typing import Any

from omni_rt.engine.qwen3_omni.tokenizer import FIRST_MARKER, MARKERS, Tokenizer


@dataclass(frozen=True, slots=True)
class Speak:
    """Text to be spoken, and the ids of exactly this text for the talker."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """One complete tool call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read and is left out.

    `code` is `bad_call` (no call could be made of a block), `unknown_tool`, `unfinished_call`, `unfinished_thought`
    (the reply ended inside) or `stray_marker` (the end of a block that never began).
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """The model ended its turn."""


Event = Speak | Thought | Call | Problem | End

_CALL, _CALL_END, _THINK, _THINK_END = _BLOCKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
_ENDS = frozenset(MARKERS[text] for text in ("<|im_end|>", "<|endoftext|>"))
_BLOCK_OF = {MARKERS[text]: text for text in _BLOCKS}


class _In(Enum):
    SPEECH = auto()
    THOUGHT = auto()
    CALL = auto()


# the markers that mean something where the reader is; others are text there
_MEANT = {_In.SPEECH: _BLOCKS, _In.THOUGHT: (_THINK_END,), _In.CALL: (_CALL, _CALL_END)}


class ReplyReader:
    """Reads one reply. A block's markers count as their own ids and equally when they come spelled out as text.

    The ids of all Speak events are the reply's ids without its blocks, the whitespace tokens next to blocks, other
    markers, and a last character that was cut off. A token that completes no character, is nothing but whitespace, or
    may be the beginning of a spelled-out marker waits for the next one.

    A `<tool_call>` inside a call closes the one before it; inside a thought, calls are thoughts. A call that the end of
    the reply cuts off counts if it is whole but for its end marker. `names` are the tools that may be called, None any.
    `in_thought` is for a prompt that has opened the thought already.
    """

    def __init__(self, tokenizer: Tokenizer, *, names: Collection[str] | None = None, in_thought: bool = False) -> None:
        self._tokenizer = tokenizer
        self._names = names
        self._stream = tokenizer.stream()
        self._in = _In.THOUGHT if in_thought else _In.SPEECH
        self._text = ""
        # held speech: the ids of whole characters, each group with its end in _text
        self._held: list[tuple[tuple[int, ...], int]] = []
        self._after_block = False
        self._events: list[Event] = []
        self.ended = False

    @property
    def speaking(self) -> bool:
        """Whether the model is writing speech; what it writes in a block is never spoken."""
        return self._in is _In.SPEECH

    def feed(self, token: int) -> list[Event]:
        """The events that the next id brings; none after the End."""
        if self.ended:
            return []
        if token in _ENDS:
            self._finish()
            self._events.append(End())
        elif token >= FIRST_MARKER:
            self._cut_off()
            self._special(token)
        else:
            begun = self._held.pop()[0] if self._stream.pending and self._held else ()
            self._take(self._stream.push(token), (*begun, token))
        return self._drain()

    def finish(self) -> list[Event]:
        """The events of a reply that ended without an end marker: by length or because it was cancelled."""
        if not self.ended:
            self._finish()
        return self._drain()

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _cut_off(self) -> None:
        """Forget a character that is not complete; text before it in the same tokens stays."""
        if self._stream.pending:
            del self._held[-1:]
            self._stream.reset()

    def _special(self, token: int) -> None:
        marker = _BLOCK_OF.get(token, "")
        if marker in _MEANT[self._in]:
            self._leave_text(len(self._text))
            self._text, self._held = "", []
            self._mark(marker)
        elif self._in is not _In.SPEECH:
            self._take(self._tokenizer.decode((token,)), ())

    def _take(self, text: str, ids: tuple[int, ...]) -> None:
        """Read `text`, which came with `ids`."""
        self._text += text
        self._held.append((ids, len(self._text)))
        while (found := self._spelled()) is not None:
            at, marker = found
            rest = self._text[at + len(marker) :]
            self._leave_text(at)
            self._mark(marker)
            self._text = rest
            self._held = [(tuple(self._tokenizer.encode(rest)), len(rest))] if rest else []
        if self._in is not _In.CALL:
            self._pass_on()

    def _spelled(self) -> tuple[int, str] | None:
        """The first spelled-out marker and where it is."""
        found = ((self._text.find(marker), marker) for marker in _MEANT[self._in])
        return min(((at, marker) for at, marker in found if at >= 0), default=None)

    def _pass_on(self) -> None:
        """Give out what need not wait."""
        if self._in is _In.SPEECH:
            if self._stream.pending or self._waiting() or not self._text.strip():
                return
            self._speak(len(self._text))
            self._text, self._held = "", []
        else:
            clear = len(self._text) - self._waiting()
            self._think(clear)
            self._text, self._held = self._text[clear:], []

    def _waiting(self) -> int:
        """How many characters at the end may be the beginning of a spelled-out marker."""
        longest = max(map(len, _BLOCKS)) - 1
        tails = (self._text[-n:] for n in range(min(longest, len(self._text)), 0, -1))
        return next(
            (len(tail) for tail in tails if any(marker.startswith(tail) for marker in _MEANT[self._in])),
            0,
        )

    def _leave_text(self, end: int) -> None:
        """Give out the text before a marker."""
        if self._in is _In.THOUGHT:
            self._think(end)
        elif self._in is _In.SPEECH and self._text[:end].strip():
            self._speak(end)
        elif self._in is _In.CALL:
            self._text = self._text[:end]
            self._call()

    def _speak(self, end: int) -> None:
        groups, start = [], 0
        for ids, at in [held for held in self._held if held[1] <= end]:
            groups.append((self._text[start:at], ids))
            start = at
        if start < end:
            rest = self._text[start:end]
            groups.append((rest, tuple(self._tokenizer.encode(rest))))
        if self._after_block:
            groups = list(dropwhile(lambda group: group[0].isspace(), groups))
        text = "".join(text for text, _ in groups)
        self._events.append(Speak(text, tuple(token for _, ids in groups for token in ids)))
        self._after_block = False

    def _think(self, end: int) -> None:
        if end:
            self._events.append(Thought(self._text[:end]))

    def _mark(self, marker: str) -> None:
        if self._in is _In.SPEECH and marker in (_CALL_END, _THINK_END):
            self._events.append(Problem("stray_marker", f"{marker} ends nothing that had begun"))
        self._in = {_CALL: _In.CALL, _THINK: _In.THOUGHT}.get(marker, _In.SPEECH)
        self._after_block = True

    def _finish(self) -> None:
        self._cut_off()
        if self._in is _In.CALL:
            self._call(whole=False)
        elif self._in is _In.THOUGHT:
            self._think(len(self._text))
            self._events.append(Problem("unfinished_thought", "the reply ended inside a thought"))
        elif self._text.strip() or (self._text and not self._after_block):
            self._speak(len(self._text))
        self._text, self._held = "", []
        self.ended = True

    def _call(self, *, whole: bool = True) -> None:
        """Make a call of the block that _text is."""
        try:
            name, arguments = _parsed(self._text)
        except ValueError as error:
            code, what = ("bad_call", "is no call") if whole else ("unfinished_call", "was cut off by the reply's end")
            self._events.append(Problem(code, f"the block {self._text.strip()!r:.200} {what}: {error}"))
            return
        if self._names is not None and name not in self._names:
            there = ", ".join(self._names) or "none"
            self._events.append(Problem("unknown_tool", f"the model called {name!r:.80}; there are: {there}"))
            return
        self._events.append(Call(name, arguments))


def _parsed(text: str) -> tuple[str, str]:
    """Name and JSON arguments of a call. Raises ValueError."""
    try:
        call = json.loads(text, parse_constant=_no_number)
        arguments = call.get("arguments", {}) if isinstance(call, dict) else None
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}", parse_constant=_no_number)
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
            raise ValueError("it names no tool")
        if not isinstance(arguments, dict):
            raise ValueError("its arguments are no JSON object")
        return _written(call["name"]), _json(arguments)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _written(text: str) -> str:
    text.encode()  # half a surrogate pair, which JSON can spell, is a ValueError
    return text


def _json(arguments: dict[str, Any]) -> str:
    try:
        return _written(json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    except UnicodeEncodeError:
        return json.dumps(arguments, allow_nan=False)
