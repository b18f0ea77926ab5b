"""A test engine and nothing else, hosted by real worker processes: it says what was last written to it as one tone per
word, and obeys words like `!crash`. With it, what tests of workers need."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omni_rt.config import Settings
from omni_rt.engine.api import (
    OUTPUT_RATE,
    AudioDelta,
    Capabilities,
    Chunk,
    ContextItem,
    Ending,
    EngineError,
    EngineListener,
    EngineLost,
    EngineSession,
    Mark,
    Pcm,
    ReplyEnd,
    RespondOptions,
    Rgb,
    Role,
    SessionSettings,
    TextDelta,
    Transcript,
    Usage,
)
from omni_rt.engine.link import Limits

WORD_MS = 100
TONE = (np.sin(np.arange(OUTPUT_RATE * WORD_MS // 1000) * 2 * np.pi * 440 / OUTPUT_RATE) * 8000).astype(np.int16)
ECHO = f"{__name__}:EchoEngine"
QUICK = Limits(beat_s=0.1, hung_beats=30, close_s=3.0, backoff_s=0.05)


class EchoEngine:
    def __init__(self, settings: Settings) -> None:
        self.voice = settings.local.chat_model
        self.sessions: set[EchoSession] = set()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("echo", ("tone",), ("en",), True, False, 1000, 2, overhears=True)

    async def start(self) -> None:
        word = os.environ.get("ECHO_START", "")
        if word:
            _obey(word)

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> EchoSession:
        if session_id.startswith("!"):
            _obey(session_id)
        if session_id == "slow":
            await asyncio.sleep(0.3)
        if len(self.sessions) >= 2:
            raise EngineError("busy", "two sessions are open; try again later")
        session = EchoSession(self, settings, listener)
        self.sessions.add(session)
        return session

    async def close(self) -> None:
        if os.environ.get("ECHO_CLOSE") == "never":
            await asyncio.Event().wait()


class EchoSession(EngineSession):
    def __init__(self, engine: EchoEngine, settings: SessionSettings, listener: EngineListener) -> None:
        self.engine = engine
        self.settings = settings
        self.listener = listener
        self.context: list[str] = []
        self.samples = 0
        self.loudest = 0
        self.picture = ""
        self.marks: dict[int, tuple[int, int]] = {}
        self.words: dict[int, list[str]] = {}
        self.running: int | None = None
        self.cancelled = asyncio.Event()

    def configure(self, settings: SessionSettings) -> None:
        self.settings = settings

    def append_audio(self, pcm: Pcm) -> None:
        if pcm.dtype != np.int16:
            raise EngineError("bad_audio", f"audio is int16, not {pcm.dtype}")
        self.samples += len(pcm)
        self.loudest = max(self.loudest, int(np.abs(pcm).max(initial=0)))
        self.listener.on_transcript(Transcript("", f"{self.samples} samples", False))

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        self.picture = f"{rgb.shape[1]}x{rgb.shape[0]} sum {int(rgb.sum())} at {at_ms}"

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        if text.startswith("!"):
            _obey(text, self)
        else:
            self.context.append(text)

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        self.context.append(f"{call_id} gave {output}")

    def commit(self, item_id: str) -> None:
        text = f"{self.samples} samples up to {self.loudest} {self.picture}".strip()
        self.context.append(text)
        self.samples = self.loudest = 0
        self.listener.on_transcript(Transcript(item_id, text, True))

    def discard(self) -> None:
        self.samples = self.loudest = 0

    def mark(self) -> Mark:
        mark = Mark(1000 + len(self.marks))
        self.marks[mark.serial] = (len(self.context), self.samples)
        return mark

    def rollback(self, mark: Mark) -> None:
        length, self.samples = self.marks[mark.serial]
        del self.context[length:]

    def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        if self.running is not None:
            raise EngineError("reply_active", f"reply {self.running} is not over; cancel it first")
        self.running = options.generation
        self.cancelled.clear()
        if options.judge_ending:
            self.listener.on_ending(Ending("echo", len(self.context) / 100))
        return self._say(options.generation, self.context[-1].split() if self.context else [])

    async def _say(self, generation: int, words: list[str]) -> AsyncIterator[Chunk]:
        said = self.words[generation] = []
        reason = "completed"
        try:
            for word in words:
                if word == "!forever":
                    await self.cancelled.wait()
                if word.startswith("!bug"):
                    raise ValueError("a bug")
                await asyncio.sleep(0)
                if self.cancelled.is_set():
                    reason = "cancelled"
                    break
                said.append(word)
                yield TextDelta(generation, word + " ")
                yield AudioDelta(generation, TONE, word + " ")
            yield ReplyEnd(generation, reason, Usage(1, 2, len(said), len(said) * WORD_MS))  # type: ignore[arg-type]
        finally:
            self.running = None
            self.context.append(" ".join(said))

    def cancel(self, generation: int) -> None:
        if generation == self.running:
            self.cancelled.set()

    async def keep_heard(self, generation: int, audio_ms: int) -> str:
        if generation not in self.words:
            raise EngineError("no_such_reply", f"there is no reply {generation}")
        if "!stall" in self.words[generation]:
            await asyncio.Event().wait()
        heard = " ".join(self.words[generation][: audio_ms // WORD_MS])
        self.context[-1:] = [heard]
        return heard

    async def overhear(self, pcm: Pcm) -> str:
        """How many samples; a clip of one sample is never understood, an empty one is refused."""
        if not len(pcm):
            raise EngineError("bad_clip", "a clip is not empty")
        if len(pcm) == 1:
            await asyncio.Event().wait()
        return f"{len(pcm)} samples"

    def restore(self, items: Sequence[ContextItem]) -> None:
        self.context = [
            f"{item.text} {0 if item.audio is None else len(item.audio)} {len(item.images)}" for item in items
        ]

    def close(self) -> None:
        self.engine.sessions.discard(self)


def _obey(word: str, session: EchoSession | None = None) -> None:
    match word:
        case "!crash":
            print("the echo engine was told to crash", file=sys.stderr)
            os._exit(3)
        case "!abort":
            os.abort()
        case "!load":
            time.sleep(3)
        case "!hang":
            time.sleep(1000)
        case "!busy":
            # Native code for several seconds in a thread, without the interpreter's lock.
            asyncio.get_running_loop().run_in_executor(None, hashlib.pbkdf2_hmac, "sha512", b"a", b"b", 6_000_000)
        case "!print":
            print("printed by the engine", flush=True)
            os.write(1, b"written by native code\n")
            logging.getLogger("echo").warning("logged by the engine")
        case "!refuse":
            raise EngineError("refused", "the echo engine was told to refuse; do not tell it to")
        case "!bug":
            raise ValueError("a bug")
        case "!lose" if session is not None:
            session.listener.on_lost(EngineLost("this session's memory was lost"))


@dataclass
class Heard:
    """A listener that notes what it is told."""

    transcripts: list[Transcript] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)
    lost: list[EngineLost] = field(default_factory=list)

    def on_transcript(self, transcript: Transcript) -> None:
        self.transcripts.append(transcript)

    def on_ending(self, ending: Ending) -> None:
        self.endings.append(ending)

    def on_error(self, error: EngineError) -> None:
        self.errors.append(error)

    def on_lost(self, error: EngineLost) -> None:
        self.lost.append(error)


async def until(true: Callable[[], Any]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def plain(chunk: Chunk) -> Any:
    if isinstance(chunk, AudioDelta):
        return ("audio", chunk.generation, chunk.pcm.dtype, chunk.pcm.tolist(), chunk.text)
    return chunk


async def answer(session: EngineSession, generation: int) -> str:
    """The text of one reply, which must have been completed."""
    chunks = [chunk async for chunk in session.respond(RespondOptions(generation))]
    assert isinstance(chunks[-1], ReplyEnd)
    assert chunks[-1].reason == "completed", chunks[-1]
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta)).strip()


def exists(pid: int) -> bool:
    """Also a zombie exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
