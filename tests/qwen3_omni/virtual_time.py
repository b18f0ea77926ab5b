"""Many conversations on one scheduler in virtual time: real sessions, a stand-in for the machine.

The machine cannot be had without a GPU, and its results do not matter here: tokens and sound are made up, room in the
caches is taken as by a real one, and each pass takes as long as it was measured to take on an H200.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from omni_rt.engine.api import AudioDelta, EngineError, Pcm, RespondOptions, SessionSettings, Transcript
from omni_rt.engine.api import Chunk as ReplyChunk
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.machine import reserve
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.reply import Reply
from omni_rt.engine.qwen3_omni.requests import Chunk, Frame, Line, Made, Read, Request, Result
from omni_rt.engine.qwen3_omni.scheduler import Scheduler
from tests.qwen3_omni import small_engine as small

# Milliseconds of passes of up to so many tokens, frames, rows; of encoding a window of sound; of the host around each.
TOKENS = {1: 2.7, 2: 5.4, 4: 6.6, 8: 8.3, 16: 10.2, 32: 13.4, 64: 17.0}
FRAMES = {1: 3.6, 2: 8.0, 4: 8.5, 8: 9.0, 16: 9.3, 32: 11.0, 64: 14.0}
ROWS = {16: 8.0, 32: 9.3, 64: 11.5, 128: 15.0, 256: 21.0, 512: 29.0}
WINDOW, HOST = 2.5, 2.0

SAMPLES = 1920
LATE = 555


@dataclass(frozen=True, slots=True)
class Pass:
    begun: float
    requests: tuple[Request, ...]


@dataclass
class Machine:
    """Implements Machine. A reply's talker ends it after `frames` frames."""

    vocab: range
    width: int
    frames: int = 75
    now: float = 0.0
    passes: list[Pass] = field(default_factory=list)

    def run(self, requests: Sequence[Request]) -> list[Result]:
        self.passes.append(Pass(self.now, tuple(requests)))
        frames = [each for each in requests if isinstance(each, Frame)]
        reads = [each for each in requests if isinstance(each, Read)]
        rows = sum(read.rows for read in reads)
        if frames:
            took = _cost(FRAMES, len(frames))
        else:
            took = _cost(TOKENS, len(reads)) if reads[0].decoding else _cost(ROWS, rows)
        self.now += (took + HOST) / 1000
        return [self._frame(each) if isinstance(each, Frame) else self._read(each) for each in requests]

    def flush(self, line: Line) -> Pcm:
        return np.zeros(LATE, np.int16)

    def release(self, line: Line) -> None:
        line.state = None

    def encoded(self, *_: object) -> None:
        """A window of sound was."""
        self.now += WINDOW / 1000

    def _read(self, read: Read) -> int | None:
        if read.chunk is not None:
            self._chunk(read.chunk)
        if read.line is not None:
            read.line.state = self
            read.line.cache.truncate(read.line.rows)
            read.line.cache.reserve(8)
            read.line.cache.commit(8)
        if read.choice is None:
            return None
        return self.vocab[len(self.passes) % len(self.vocab)]

    def _chunk(self, chunk: Chunk) -> None:
        reserve(chunk)
        chunk.cache.commit(len(chunk))
        if chunk.listening is not None:
            chunk.listening.cache.commit(len(chunk.listening.rows))
        chunk.taken(torch.zeros(self.width))

    def _frame(self, frame: Frame) -> Made:
        line = frame.line
        line.cache.reserve(1)
        line.cache.commit(1)
        if line.frames == self.frames:
            return Made(None, ended=True)
        line.frames += 1
        return Made(np.zeros(SAMPLES - LATE * (line.frames == 1), np.int16), ended=False)


def _cost(table: dict[int, float], count: int) -> float:
    sizes = list(table)
    return table[sizes[bisect_left(sizes, count)]]


@dataclass
class Answer:
    asked_at: float
    reply: Reply
    sound: list[tuple[float, int]] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds from being asked to the first sound."""
        return self.sound[0][0] - self.asked_at

    @property
    def pauses(self) -> int:
        """How often who hears it from its first sound on has nothing left to hear."""
        needed, late = self.sound[0][0], 0
        for at, samples in self.sound:
            late += at > needed
            needed = max(at, needed) + samples / 24_000
        return late

    @property
    def lead(self) -> float:
        """The most sound, in seconds, that was made ahead of the ear."""
        heard = np.cumsum([samples for _, samples in self.sound]) / 24_000
        return max(float(made) - (at - self.sound[0][0]) for (at, _), made in zip(self.sound, heard, strict=True))


@dataclass
class Person:
    house: House
    number: int
    answers: list[Answer] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversation = Conversation(self.house.parts, SessionSettings(), self, self.number)
        self.house.scheduler.add(self.conversation)

    def say(self, begin: float, seconds: float) -> None:
        """Speech from `begin` on, as it comes in."""
        sound = small.sound(seconds, self.number)
        for start in range(0, len(sound), 1600):
            block = sound[start : start + 1600]
            self.house.at(begin + (start + 1600) / 16_000, lambda block=block: self.conversation.append_audio(block))

    def ask(self, at: float, tokens: int = 25) -> None:
        self.house.at(at, lambda: self._ask(tokens))

    def cancel(self) -> None:
        self.conversation.cancel(len(self.answers) - 1)

    def _ask(self, tokens: int) -> None:
        number = len(self.answers)
        reply = Reply(self.house.parts, RespondOptions(number, max_tokens=tokens), self._put)
        self.answers.append(Answer(self.house.machine.now, reply))
        self.conversation.commit(f"item-{number}")
        self.conversation.respond(reply)

    def _put(self, chunk: ReplyChunk) -> None:
        if isinstance(chunk, AudioDelta) and len(chunk.pcm):
            self.answers[-1].sound.append((self.house.machine.now, len(chunk.pcm)))

    def transcript(self, transcript: Transcript) -> None: ...

    def error(self, error: EngineError) -> None:
        self.errors.append(error)


class House:
    """People who talk to one engine."""

    def __init__(self, count: int) -> None:
        omni = small.tiny()
        self.machine = Machine(range(300, 400), omni.spec.text.hidden)
        self.scheduler = Scheduler(self.machine.run, lambda: self.machine.now)
        made: Any = replace(
            small.parts(omni, tokens=(count + 1) * 1024, context_tokens=1024),
            machine=self.machine,
            scheduler=self.scheduler,
        )
        self.parts: Parts = made
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.people = [Person(self, number) for number in range(count)]

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    @torch.inference_mode()
    def run(self, until: float, watch: Callable[[], None] = lambda: None) -> None:
        """`watch` is called after every step."""
        machine = self.machine
        while machine.now < until:
            while self._events and self._events[0][0] <= machine.now:
                heapq.heappop(self._events)[2]()
            wait = self.scheduler.turn()
            watch()
            if wait != 0.0:
                following = self._events[0][0] if self._events else until
                machine.now = min(following, machine.now + (wait if wait is not None else until))

    def close(self) -> None:
        for person in self.people:
            person.conversation.close()


@contextmanager
def house(count: int) -> Iterator[House]:
    made = House(count)
    hook = small.tiny().thinker.model.audio_tower.register_forward_pre_hook(made.machine.encoded)
    try:
        yield made
    finally:
        hook.remove()
        made.close()
