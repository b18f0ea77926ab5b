"""One reply: its chunks on their way out, its tokens in the context, and when each of its words is heard."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from omni_rt.engine.api import AudioDelta, CallDelta, Chunk, EndReason, ReplyEnd, RespondOptions, TextDelta, Usage
from omni_rt.engine.local.context import Turn
from omni_rt.engine.local.tts import Speech, TimedWord

# A word counts as heard when so much of it was.
_HEARD_SHARE = 0.6
# Playing is reported in steps; a reply that lacks no more than this was heard to its end.
_STEP_MS = 40


@dataclass(slots=True)
class Reply:
    """`turn` is its place in the context. `prompt_tokens` and `evaluated_tokens` are for Usage."""

    options: RespondOptions
    turn: Turn
    prompt_tokens: int = 0
    evaluated_tokens: int = 0
    ended: bool = False
    task: asyncio.Task[None] | None = None
    _chunks: asyncio.Queue[Chunk] = field(default_factory=asyncio.Queue)
    _ids: list[int] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)
    _written: str = ""
    _speech_end: int | None = None
    _words: list[TimedWord] = field(default_factory=list)
    _spoken: int = 0
    _audio_ms: float = 0.0
    _whole: bool = False

    @property
    def generation(self) -> int:
        return self.options.generation

    @property
    def text(self) -> str:
        """What is said; calls come after it."""
        return self._written[: self._speech_end]

    # -- while it is made

    def wrote(self, text: str, ids: tuple[int, ...], calling: bool) -> None:
        """Take tokens of the model into the context; from the first token of a call on `calling` is set."""
        if calling and self._speech_end is None:
            self._speech_end = len(self._written)
        self._ends += [len(self._written)] * (len(ids) - 1) + [len(self._written) + len(text)]
        self._written += text
        self._ids += ids
        self.turn.ids = list(self._ids)

    def start_over(self) -> None:
        """What was written is not kept; nothing of it has been told."""
        self._ids, self._ends, self._written, self._speech_end = [], [], "", None
        self.turn.ids = []

    def say(self, text: str) -> None:
        self._put(TextDelta(self.generation, text))

    def speak(self, text: str, speech: Speech) -> None:
        for word in speech.words:
            start_ms, end_ms = word.start_ms + self._audio_ms, word.end_ms + self._audio_ms
            self._words.append(TimedWord(self._spoken + word.end, start_ms, end_ms))
        self._spoken += len(text)
        self._audio_ms += speech.duration_ms
        self._put(AudioDelta(self.generation, speech.pcm, text))

    def call(self, call_id: str, name: str, arguments: str) -> None:
        self.turn.calls.append((name, arguments))
        self._put(CallDelta(self.generation, call_id, name, arguments))

    def end(self, reason: EndReason, error: str = "") -> None:
        """The last chunk; whatever comes later is not told."""
        self._whole = reason in ("completed", "max_tokens")
        usage = Usage(self.prompt_tokens, self.evaluated_tokens, len(self._ids), round(self._audio_ms))
        self._put(ReplyEnd(self.generation, reason, usage, error))
        self.ended = True

    async def chunks(self) -> AsyncIterator[Chunk]:
        while True:
            chunk = await self._chunks.get()
            yield chunk
            if isinstance(chunk, ReplyEnd):
                return

    def _put(self, chunk: Chunk) -> None:
        if not self.ended:
            self._chunks.put_nowait(chunk)

    # -- when it was heard

    def cut(self, audio_ms: int) -> str:
        """Leave in the context what was heard within the first `audio_ms` of sound, and the calls; returns the text.

        May be done again, with more or less.
        """
        length = self._heard(audio_ms)
        kept = bisect.bisect_right(self._ends, length) if length else 0
        told = self._ends[kept - 1] if kept else 0
        calls = len(self._ids) if self._speech_end is None else bisect.bisect_right(self._ends, self._speech_end)
        if length == len(self.text):
            self.turn.ids, self.turn.pending = list(self._ids), ""
        elif calls == len(self._ids):
            self.turn.ids, self.turn.pending = self._ids[:kept], self.text[told:length]
        else:
            self.turn.ids, self.turn.pending = self._ids[:kept] + self._ids[calls:], ""
        self.turn.gone = not self.turn.ids and not self.turn.pending
        return self.text[:length].strip()

    def _heard(self, audio_ms: int) -> int:
        """How many characters of the text were heard."""
        if audio_ms <= 0:
            return 0
        if not self.options.audio or (self._whole and audio_ms >= self._audio_ms - _STEP_MS):
            return len(self.text)
        heard = [
            word.end for word in self._words if audio_ms >= word.start_ms + _HEARD_SHARE * (word.end_ms - word.start_ms)
        ]
        return max(heard, default=0)
