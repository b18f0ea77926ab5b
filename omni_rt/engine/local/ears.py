"""Hears one session: recognises the open utterance again and again while it grows, and for good when it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.priorities import Priorities, Work
from omni_rt.engine.local.utterance import Understood, Utterance, next_cut

# Recognising the growing utterance may take one part in so many of the time.
_SHARE = 5
_AFTER_ERROR_S = 1.0
# The recogniser mistakes words right at the end of its audio. What nobody speaks in for a moment is heard with so much
# silence after it, without waiting for it.
HEARD_OUT = INPUT_RATE // 5


@dataclass(frozen=True, slots=True)
class Place:
    """An open utterance and how much of it there was."""

    utterance: Utterance
    chunks: int


@dataclass(frozen=True, slots=True)
class _Running:
    """A recognition under way of the first `samples` samples of an utterance."""

    utterance: Utterance
    samples: int
    task: asyncio.Future[float]


@dataclass(frozen=True, slots=True)
class _Result:
    """A piece of an utterance; `whole` if it is the last one."""

    part: Understood
    tokens: tuple[int, ...]
    whole: bool
    seconds: float


class Ears:
    """`on_partial` is called when the open utterance is understood further, `on_final` when a closed one is, in the
    order of closing. What goes wrong with a partial result is told to `on_error`."""

    def __init__(
        self,
        recogniser: Recogniser,
        priorities: Priorities,
        partial_every_ms: int,
        on_partial: Callable[[Utterance], None],
        on_final: Callable[[Utterance], None],
        on_error: Callable[[EngineError], None],
    ) -> None:
        self.utterance: Utterance | None = None
        self._recogniser = recogniser
        self._priorities = priorities
        self._every = partial_every_ms * INPUT_RATE // 1000
        self._on_partial, self._on_final, self._on_error = on_partial, on_final, on_error
        self._news = asyncio.Event()
        self._running: _Running | None = None
        self._closing: dict[Utterance, asyncio.Task[None]] = {}
        self._partials = asyncio.create_task(self._hear())

    @property
    def busy(self) -> bool:
        """Whether there is anything to be understood now."""
        return bool(self._closing) or (self.utterance is not None and self.utterance.worth_hearing(self._every))

    def append(self, pcm: Pcm) -> None:
        if not len(pcm):
            return
        if self.utterance is None:
            self.utterance = Utterance()
        self.utterance.append(pcm)
        self._news.set()

    def commit(self, item_id: str) -> Utterance:
        """Close the open utterance, or an empty one if there is none."""
        utterance, self.utterance = self.utterance or Utterance(), None
        utterance.item_id = item_id
        self._recognise(utterance)
        return utterance

    def _recognise(self, utterance: Utterance) -> None:
        before = tuple(self._closing.values())
        task = asyncio.create_task(self._close(utterance, before))
        self._closing[utterance] = task
        task.add_done_callback(lambda _: self._closing.pop(utterance, None))

    async def transcribe(self, audio: Pcm) -> str:
        """The words of audio that is no utterance of this session. Raises EngineError."""
        utterance = Utterance()
        utterance.append(audio)
        await self._understand(utterance, Work.FINAL)
        return utterance.latest.text if utterance.latest else ""

    def discard(self) -> None:
        self.utterance = None

    def place(self) -> Place | None:
        return Place(self.utterance, self.utterance.chunks) if self.utterance else None

    def return_to(self, place: Place | None) -> None:
        """Make the utterance open again that was open at `place`, as it was."""
        self.utterance = None
        if place is not None:
            utterance = place.utterance
            if closing := self._closing.pop(utterance, None):
                closing.cancel()
            utterance.item_id, utterance.final, utterance.error = "", None, ""
            utterance.cut(place.chunks)
            self.utterance = utterance

    def forget(self) -> None:
        """Drop what is open or about to be understood."""
        self.utterance = None
        for task in self._closing.values():
            task.cancel()
        self._closing.clear()

    async def settled(self) -> None:
        """Wait until every closed utterance is understood."""
        while self._closing:
            await asyncio.wait(self._closing.values())

    def close(self) -> None:
        self._partials.cancel()
        self.forget()

    async def _hear(self) -> None:
        while True:
            self._news.clear()
            utterance = self.utterance
            if utterance is None or not utterance.worth_hearing(self._every):
                await self._news.wait()
                continue
            try:
                took = await self._understand(utterance, Work.PARTIAL)
            except EngineError as error:
                self._on_error(error)
                await asyncio.sleep(_AFTER_ERROR_S)
                continue
            if utterance is self.utterance:
                self._on_partial(utterance)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until_pause(utterance), took * (_SHARE - 1))

    async def _until_pause(self, utterance: Utterance) -> None:
        while not (utterance.pausing and utterance.worth_hearing(self._every)) and utterance is self.utterance:
            self._news.clear()
            await self._news.wait()

    async def _close(self, utterance: Utterance, before: tuple[asyncio.Task[None], ...]) -> None:
        try:
            running = self._running
            if running and running.utterance is utterance and running.samples >= utterance.needed:
                await asyncio.wait([running.task])
            if not utterance.complete and utterance.samples:
                await self._understand(utterance, Work.FINAL)
        except EngineError as error:
            utterance.error = str(error)
        if before:
            await asyncio.wait(before)
        utterance.final = utterance.latest.text if utterance.latest and not utterance.error else ""
        self._on_final(utterance)

    async def _understand(self, utterance: Utterance, work: Work) -> float:
        """Recognise what there is of `utterance`, a piece at each turn; returns the seconds that the last took."""
        growing = work is Work.PARTIAL

        def prepare() -> Callable[[], _Result | None]:
            if growing and utterance is not self.utterance:
                return lambda: None
            start = utterance.settled[-1].samples if utterance.settled else 0
            audio = utterance.audio(start)
            if growing:
                self._running = _Running(utterance, start + len(audio), task)
            silence = 0 if growing and not utterance.pausing else HEARD_OUT
            return partial(self._transcribe, audio, start, silence, utterance.draft(start))

        async def run() -> float:
            while True:
                cuts = utterance.cuts
                result = await self._priorities.run(work, prepare)
                if result is None or utterance.cuts != cuts:
                    return 0.0
                if result.whole:
                    utterance.understand(result.part, result.tokens)
                    return result.seconds
                utterance.settled.append(result.part)

        task = asyncio.ensure_future(run())
        try:
            return await task
        except Exception as error:
            raise EngineError("recognition_failed", f"speech could not be recognised: {error}") from error
        finally:
            if growing:
                self._running = None

    def _transcribe(self, audio: Pcm, start: int, silence: int, draft: tuple[int, ...]) -> _Result:
        started = time.monotonic()
        cut = next_cut(audio)
        audio = audio if cut is None else audio[:cut]
        found = self._recogniser.recognise(np.pad(audio, (0, silence)) if cut is None else audio, draft)
        part = Understood(start + len(audio), found.text)
        return _Result(part, found.tokens, cut is None, time.monotonic() - started)
