"""The transcripts that are still to be written, and when one may be gone on with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from omni_rt.engine.api import Transcript
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.reply import Reply
from omni_rt.engine.qwen3_omni.requests import Read
from omni_rt.engine.qwen3_omni.transcription import Transcription
from omni_rt.engine.qwen3_omni.utterance import Utterance

TRANSCRIPT_S = 2.5
"""Seconds before its deadline that a transcript always is: nobody needs it at once, and whatever somebody does need
goes first, however long."""


class Transcripts:
    """Those of one conversation, in order. `tell` hears each final one, also of what was not understood."""

    def __init__(self, parts: Parts, context: Context, tell: Callable[[Transcript], None]) -> None:
        self._parts = parts
        self._context = context
        self._tell = tell
        self._asked: deque[Transcription] = deque()

    def close(self) -> None:
        for transcription in self._asked:
            transcription.close()

    def ask(self, utterance: Utterance, item_id: str) -> None:
        """Where none are wanted, it is told as not understood at once."""
        if not self._parts.settings.transcripts:
            self.done(item_id)
            return
        self._asked.append(Transcription(self._parts, utterance, item_id))

    def due(self, reply: Reply | None, now: float) -> Transcription | None:
        """The one to go on with, if it is time; while a reply is made only those that lie before it."""
        if reply is None:
            return self._asked[0] if self._asked else None
        if not self._asked or reply.deadline(now) < now + TRANSCRIPT_S:
            return None
        return next((t for t in self._asked if self._context.holds(t.turn)), None)

    def request(self, transcription: Transcription) -> Read | None:
        """Its next step; None if there is nothing to write, and then it is done."""
        request = transcription.request(self._context)
        if request is None:
            self._write(transcription, "")
        return request

    def take(self, transcription: Transcription, token: int) -> None:
        text = transcription.take(token)
        if text is not None:
            self._write(transcription, text)

    def _write(self, transcription: Transcription, text: str) -> None:
        self._asked.remove(transcription)
        self.done(transcription.item_id, text)

    def done(self, item_id: str, text: str = "") -> None:
        self._tell(Transcript(item_id, text, final=True))

    def drop(self, transcriptions: Sequence[Transcription], *, lost: bool) -> None:
        """Write these no more; `lost` tells that they were not understood."""
        for transcription in transcriptions:
            transcription.close()
            self._asked.remove(transcription)
            if lost:
                self.done(transcription.item_id)

    def of(self, turns: set[int]) -> list[Transcription]:
        """Those of turns, by identity."""
        return [transcription for transcription in self._asked if id(transcription.turn) in turns]

    def take_all(self) -> Iterable[Transcription]:
        """All of them, for `ask_again`."""
        asked, self._asked = self._asked, deque()
        return asked

    def ask_again(self, asked: Iterable[Transcription], turns: Sequence[Turn], items: set[str]) -> None:
        """Keep those of `turns`; what was said in others is told as not understood, unless it is among `items`."""
        again = {transcription.item_id for transcription in self._asked}
        for transcription in asked:
            if transcription.turn in turns:
                self._asked.append(transcription)
                continue
            transcription.close()
            if transcription.item_id not in again | items:
                self.done(transcription.item_id)
