"""From the end of a turn being decided to the first packet of a reply that was made, and held, before."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from omni_rt.client.report import Row
from omni_rt.core.actions import (
    AbandonReply,
    Action,
    DropUtterance,
    OpenUtterance,
    ReleaseReply,
    StartReply,
    StopReply,
)
from omni_rt.core.duplex import Duplex, DuplexPolicy
from omni_rt.core.overlap import OverlapPolicy
from omni_rt.core.playout import Playout
from omni_rt.core.timeline import SAMPLES_PER_MS, WINDOW_MS, Activity, EndScore
from omni_rt.core.turns import TurnPolicy
from omni_rt.engine.api import (
    OUTPUT_RATE,
    AudioDelta,
    Chunk,
    Ending,
    EngineError,
    EngineLost,
    Mark,
    Pcm,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    Transcript,
)
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.session import QwenSession
from omni_rt.media.reply_queue import FRAME, FRAME_MS, ReplyQueue
from tools.gpu.engine import blocks, noise, words

POLICY = DuplexPolicy(
    TurnPolicy(
        threshold=0.5,
        onset_ms=96,
        pre_roll_ms=300,
        check_silence_ms=32,
        least_silence_ms=64,
        complete_score=0.5,
        sure_score=0.93,
        silence_limit_ms=1600,
        speculate_ms=64,
        brief_silence_ms=480,
    ),
    overlap=OverlapPolicy(224),
)
"""The server's defaults (TurnSettings)."""
_WINDOW = WINDOW_MS * SAMPLES_PER_MS
_PATIENCE_S = 60.0


class Call:
    """A session as the server has it, of the core's turn-taking, an engine session and an outgoing queue, without the
    wire's events and without a codec: which windows are speech, and whether a turn is over, is said by whoever calls.

    Implements EngineListener. To be made and used on one event loop.
    """

    def __init__(self, parts: Parts, max_tokens: int) -> None:
        self.errors: list[EngineError] = []
        self.sent_at: list[float] = []
        """When each 20 ms of the latest reply left, in seconds of `perf_counter`."""
        self.speaks = asyncio.Event()
        """The latest reply's first packet has left."""
        self.held: list[Chunk] | None = None
        """What the reply that nobody may hear yet has made."""
        self.waiting = asyncio.Event()
        """The held reply has a packet, or has ended without one."""
        self.engine = QwenSession(parts, SessionSettings(), self, 0, lambda: None)
        self._max_tokens = max_tokens
        self._duplex = Duplex(POLICY)
        self._queue = ReplyQueue()
        self._playout = Playout()
        self._stream_ms = 0.0
        self._now_ms = 0
        self._log: list[Pcm] = []
        self._feeding = False
        self._heard: int | None = None
        self._mark: Mark | None = None
        self._making: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._track = asyncio.get_running_loop().create_task(self._send())

    @property
    def has_packet(self) -> bool:
        """Whether the held reply has a first packet of sound."""
        chunks = self.held or []
        return sum(len(chunk.pcm) for chunk in chunks if isinstance(chunk, AudioDelta)) >= FRAME

    def hear(self, window: Pcm, *, speech: bool) -> None:
        """32 ms of the microphone."""
        self._now_ms += WINDOW_MS
        if self._feeding:
            self.engine.append_audio(window)
        else:
            self._log.append(window)
        self._act(self._duplex.activity(Activity(self._now_ms, float(speech))))

    def decide(self) -> None:
        """The turn is surely over."""
        self._act(self._duplex.score(EndScore(self._now_ms, 1.0)))

    async def stop(self) -> None:
        """End the reply, heard or not, and wait until the engine has done so."""
        making, generation = self._making, self._duplex.generation
        self._act(self._duplex.cancel_reply() if self.held is None else self._duplex.clear_by_client())
        if making is not None:
            await making
        await self.engine.keep_heard(generation, FRAME_MS)

    async def close(self) -> None:
        self._track.cancel()
        await asyncio.gather(self._track, return_exceptions=True)
        self.engine.close()

    # -- what the core wants

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case OpenUtterance():
                    self.engine.append_audio(np.concatenate(self._log))
                    self._log, self._feeding = [], True
                case StartReply(generation, True):
                    self._speculate(generation)
                case DropUtterance():
                    self.engine.discard()
                    self._feeding = False
                case ReleaseReply(generation):
                    held, self.held, self._heard = self.held or [], None, generation
                    for chunk in held:
                        self._take(generation, chunk)
                case AbandonReply(generation):
                    self.held = None
                    self.engine.cancel(generation)
                    assert self._mark is not None
                    self.engine.rollback(self._mark)
                case StopReply(generation):
                    self._heard = None
                    self._queue.clear()
                    self.engine.cancel(generation)
                    self._playout.forget(generation)

    def _speculate(self, generation: int) -> None:
        self.held, self._feeding = [], False
        self.sent_at.clear()
        self.waiting.clear()
        self.speaks.clear()
        self._mark = self.engine.mark()
        self.engine.commit(f"item-{generation}")
        self._making = asyncio.get_running_loop().create_task(self._make(generation))

    async def _make(self, generation: int) -> None:
        async for chunk in self.engine.respond(RespondOptions(generation, max_tokens=self._max_tokens)):
            if self.held is not None:
                self.held.append(chunk)
            else:
                self._take(generation, chunk)
            if self.has_packet or isinstance(chunk, ReplyEnd):
                self.waiting.set()

    def _take(self, generation: int, chunk: Chunk) -> None:
        if generation != self._heard:
            return
        match chunk:
            case AudioDelta(_, pcm, _):
                self._playout.queue(generation, len(pcm) * 1000 / OUTPUT_RATE)
                if self._queue.put(generation, pcm) and self._queue.ready:
                    self._hurry.set()
            case ReplyEnd():
                self._queue.end(generation)
                self._playout.end(generation)
                self._act(self._duplex.reply_made(generation))

    async def _send(self) -> None:
        """A packet every 20 ms; the first of speech at once, as transport/speaker.py does."""
        while True:
            self._hurry.clear()
            frame = self._queue.next()
            if frame.generation is None:
                await self._hurry.wait()
                continue
            now_ms = time.monotonic() * 1000
            self._playout.sent(frame.generation, frame.reply_ms, self._stream_ms, frame.duration_ms, now_ms)
            self._stream_ms += FRAME_MS
            self._act(self._duplex.reply_sent(frame.generation))
            self.sent_at.append(time.perf_counter())
            self.speaks.set()
            await asyncio.sleep(FRAME_MS / 1000)

    # -- what the engine tells

    def on_transcript(self, transcript: Transcript) -> None: ...

    def on_ending(self, ending: Ending) -> None: ...

    def on_error(self, error: EngineError) -> None:
        self.errors.append(error)

    def on_lost(self, error: EngineLost) -> None:
        self.errors.append(error)


def speculated_release(parts: Parts, n: int, history: int, *, max_tokens: int = 16) -> Row:
    """`parts` with a running scheduler. Raises RuntimeError if the engine tells of errors, TimeoutError if no sound
    comes."""
    return Row.of("speculated_release", "ms", asyncio.run(_released(parts, n, history, max_tokens)))


async def _released(parts: Parts, n: int, history: int, max_tokens: int) -> list[float]:
    rng = np.random.default_rng(3)
    call = Call(parts, max_tokens)
    call.engine.append_text(words(rng, history), "user", "history")
    taken: list[float] = []
    unheard = 0
    while len(taken) < n + 3 and unheard <= n and not call.errors:
        for window in blocks(noise(rng, 2.0), _WINDOW):
            call.hear(window, speech=True)
            await asyncio.sleep(0)
        while call.held is None:
            call.hear(np.zeros(_WINDOW, np.int16), speech=False)
        await asyncio.wait_for(call.waiting.wait(), _PATIENCE_S)
        if call.has_packet:
            await asyncio.sleep(float(rng.uniform(0, 0.1)))  # a decision finds the engine at any of its work
            begun = time.perf_counter()
            call.decide()
            await asyncio.wait_for(call.speaks.wait(), _PATIENCE_S)
            taken.append((call.sent_at[0] - begun) * 1e3)
        else:
            unheard += 1
        await call.stop()
    await call.close()
    if len(taken) < n + 3:
        raise RuntimeError(f"{unheard} replies had no sound; the engine told of errors: {call.errors[:3]}")
    return taken[3:]
