"""The whole engine at real or tiny shapes with random weights, without a server: sessions that are spoken to and asked,
and that note when each piece of their answers is in hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from omni_rt.engine.api import (
    AudioDelta,
    Chunk,
    EngineError,
    Pcm,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    Transcript,
)
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.eight_bit import NOTHING, EightBit
from omni_rt.engine.qwen3_omni.fast_machine import FastMachine
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.machine import Machine, PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.prompt import Prompt
from omni_rt.engine.qwen3_omni.reply import Reply
from omni_rt.engine.qwen3_omni.scheduler import Scheduler
from tools.exact.vocabulary import tokenizer


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine reads of its settings; a machine that only measures has nothing to validate them with."""

    voice: str = ""
    audio_window_s: int = 2
    max_reply_tokens: int = 1024
    frame_tokens: int = 300
    turn_frame_tokens: int = 3000
    mix: str = "separate"
    frame_pairs: bool = False
    transcripts: bool = True


def engine(
    omni: Omni,
    *,
    tokens: int,
    context: int,
    sessions: int,
    plain: bool = False,
    eight_bit: EightBit = NOTHING,
    **settings: Any,
) -> tuple[Parts, float]:
    """The parts of an engine whose caches hold `tokens`, and the seconds it took from weights to captured graphs."""
    _speak_on(omni)
    spec = omni.spec
    shape: dict[str, Any] = {"tokens": tokens, "device": omni.device, "dtype": omni.dtype}
    pool = KVPool(spec.text, **shape)
    assert spec.talker is not None
    talker_pool = KVPool(spec.talker.decoder, **shape)
    of = Settings(**settings)
    begun = time.perf_counter()
    machine: Machine = PlainMachine(omni)
    if not plain:
        machine = FastMachine(
            omni, pool, talker_pool, lines=max(sessions, 1), audio_window_s=of.audio_window_s, eight_bit=eight_bit
        )
    if omni.device.type == "cuda":
        torch.cuda.synchronize()
        torch.set_num_threads(1)  # as the engine does
    took = time.perf_counter() - begun
    words = tokenizer()
    parts = Parts(
        settings=cast(Any, of),
        omni=omni,
        machine=machine,
        tokenizer=words,
        prompt=Prompt(words),
        scheduler=Scheduler(machine.run),
        pool=pool,
        talker_pool=talker_pool,
        context_tokens=context,
        frames_per_second=1.0,
    )
    return parts, took


def _speak_on(omni: Omni) -> None:
    """Random weights would end what they say at random moments: here they do not."""
    talker = omni.talker
    assert talker is not None
    before, ends = talker._suppressed, torch.arange(talker.vocab, device=omni.device) == talker.codec.eos
    talker._suppressed = lambda: before() | ends  # type: ignore[method-assign]


@dataclass
class Answer:
    """One reply: when it was asked for, and when each piece of sound came, with its samples."""

    asked_at: float
    sound: list[tuple[float, int]] = field(default_factory=list)
    ended_at: float | None = None
    error: str = ""

    def put(self, chunk: Chunk) -> None:
        now = time.perf_counter()
        if isinstance(chunk, AudioDelta) and len(chunk.pcm):
            self.sound.append((now, len(chunk.pcm)))
        elif isinstance(chunk, ReplyEnd):
            self.ended_at, self.error = now, chunk.error

    @property
    def first_ms(self) -> float | None:
        return (self.sound[0][0] - self.asked_at) * 1e3 if self.sound else None

    @property
    def seconds(self) -> float:
        return sum(samples for _, samples in self.sound) / 24_000

    def underruns(self, lead_s: float = 0.0) -> int:
        """Times that a listener who begins `lead_s` after the first piece has nothing left to hear."""
        if not self.sound:
            return 0
        needed, late = self.sound[0][0] + lead_s, 0
        for at, samples in self.sound:
            if at > needed:
                late += 1
                needed = at
            needed += samples / 24_000
        return late


class Talker:
    """One session. Calls may come from any thread; implements Tells."""

    def __init__(self, parts: Parts, seed: int, instructions: str = "") -> None:
        self.parts = parts
        self.errors: list[EngineError] = []
        self._serial = 0
        self.conversation: Conversation
        self.call(lambda: self._begin(seed, instructions))

    def _begin(self, seed: int, instructions: str) -> None:
        self.conversation = Conversation(self.parts, SessionSettings(instructions=instructions), self, seed)
        self.parts.scheduler.add(self.conversation)

    def call(self, command: Callable[[], Any]) -> None:
        self.parts.scheduler.post(command)

    def hear(self, pcm: Pcm) -> None:
        self.call(lambda: self.conversation.append_audio(pcm))

    def show(self, rgb: np.ndarray) -> None:
        self.call(lambda: self.conversation.append_image(rgb, 0))

    def ask(self, *, max_tokens: int) -> Answer:
        """Commit what was said and ask for a reply."""
        self._serial += 1
        answer = Answer(time.perf_counter())
        reply = Reply(self.parts, RespondOptions(self._serial, max_tokens=max_tokens), answer.put)
        item = f"item-{self._serial}"

        def ask() -> None:
            self.conversation.commit(item)
            self.conversation.respond(reply)

        self.call(ask)
        return answer

    def stop(self) -> None:
        number = self._serial
        self.call(lambda: self.conversation.cancel(number))

    def close(self) -> None:
        def end() -> None:
            self.parts.scheduler.remove(self.conversation)
            self.conversation.close()

        self.call(end)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Wait until nothing is left to do."""
        wait_until(lambda: self.conversation.deadline(time.monotonic()) is None, self.parts, timeout_s)

    def transcript(self, transcript: Transcript) -> None: ...

    def error(self, error: EngineError) -> None:
        self.errors.append(error)


def wait_until(done: Callable[[], bool], parts: Parts, timeout_s: float) -> None:
    """`done` is asked on the scheduler's thread."""
    seen: list[bool] = []
    end = time.perf_counter() + timeout_s
    while not (seen and seen[-1]):
        if time.perf_counter() > end:
            raise TimeoutError("the engine does not come to rest")
        before = len(seen)
        parts.scheduler.post(lambda: seen.append(done()))
        while len(seen) == before and time.perf_counter() < end:
            time.sleep(0.002)


def noise(rng: np.random.Generator, seconds: float) -> Pcm:
    """Sound of changing loudness, 16 kHz."""
    n = round(seconds * 16_000)
    loudness = np.repeat(rng.uniform(10, 6000, n // 1600 + 1), 1600)[:n]
    pcm: Pcm = (rng.standard_normal(n) * loudness).clip(-32768, 32767).astype(np.int16)
    return pcm


def picture(rng: np.random.Generator) -> np.ndarray:
    """640 x 480, RGB."""
    rgb: np.ndarray = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
    return rgb


def words(rng: np.random.Generator, count: int) -> str:
    """Text of about so many tokens of the tokenizer at hand, which has a token for each byte."""
    return "".join(chr(int(letter)) for letter in rng.integers(97, 123, count))


def blocks(pcm: Pcm, each: int = 1600) -> Sequence[Pcm]:
    return [pcm[start : start + each] for start in range(0, len(pcm), each)]
