"""Stand-ins for what a session talks to, for tests of the session itself: an engine that says what it is told, ears
that hear what a test says, and a transport that keeps what was sent. Real ones are used in every other test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np

from omni_rt.core.timeline import Activity, EarlyActivity, EndScore
from omni_rt.engine.api import (
    AudioDelta,
    CallDelta,
    Capabilities,
    Chunk,
    ContextItem,
    Ending,
    EngineError,
    EngineListener,
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
from omni_rt.session.hearing import Heard
from omni_rt.transport.base import SentAudio, TransportListener


class ScriptedEngineSession:
    """Answers every turn with `words`, one chunk of 200 ms a word; notes every call in `calls`."""

    def __init__(self, listener: EngineListener) -> None:
        self.listener = listener
        self.calls: list[tuple[Any, ...]] = []
        self.words: list[str] = ["one", "two", "three"]
        self.tool: CallDelta | None = None
        self.fail = ""
        self.usage = Usage()
        self.go = asyncio.Event()
        self.go.set()
        self.understood = "hello there"
        self.understood_after_s = 0.0
        self.ending: float | None = None
        self.overheard: list[str | EngineError] = []
        self.cancelled: set[int] = set()
        self.said: dict[int, list[str]] = {}
        self._serial = 0

    def configure(self, settings: SessionSettings) -> None:
        self.calls.append(("configure", settings))

    def append_audio(self, pcm: Pcm) -> None:
        self.calls.append(("append_audio", len(pcm)))

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        self.calls.append(("append_image", rgb.shape, at_ms))

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        self.calls.append(("append_text", text, role))

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        self.calls.append(("append_tool_result", call_id, output))

    def commit(self, item_id: str) -> None:
        self.calls.append(("commit", item_id))
        loop, transcript = asyncio.get_running_loop(), Transcript(item_id, self.understood, True)
        if self.understood_after_s:
            loop.call_later(self.understood_after_s, self.listener.on_transcript, transcript)
        else:
            loop.call_soon(self.listener.on_transcript, transcript)

    def discard(self) -> None:
        self.calls.append(("discard",))

    def mark(self) -> Mark:
        self._serial += 1
        self.calls.append(("mark", self._serial))
        return Mark(self._serial)

    def rollback(self, mark: Mark) -> None:
        self.calls.append(("rollback", mark.serial))

    async def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        self.calls.append(("respond", options))
        if options.judge_ending and self.ending is not None:
            committed = next(call[1] for call in reversed(self.calls) if call[0] == "commit")
            self.listener.on_ending(Ending(committed, self.ending))
        generation = options.generation
        said = self.said.setdefault(generation, [])
        for word in self.words:
            await self.go.wait()
            if generation in self.cancelled:
                yield ReplyEnd(generation, "cancelled")
                return
            if self.fail:
                yield ReplyEnd(generation, "failed", error=self.fail)
                return
            said.append(word)
            yield TextDelta(generation, word + " ")
            if options.audio:
                yield AudioDelta(generation, np.full(4800, 1000, np.int16), word + " ")
            await asyncio.sleep(0)
        if self.tool is not None:
            yield CallDelta(generation, self.tool.call_id, self.tool.name, self.tool.arguments)
        yield ReplyEnd(generation, "completed", self.usage)

    def cancel(self, generation: int) -> None:
        self.calls.append(("cancel", generation))
        self.cancelled.add(generation)

    def keep_heard(self, generation: int, audio_ms: int) -> asyncio.Future[str]:
        self.calls.append(("keep_heard", generation, audio_ms))
        heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        heard.set_result(" ".join(self.said.get(generation, [])[: audio_ms // 200]))
        return heard

    async def overhear(self, pcm: Pcm) -> str:
        """The next of `overheard`, some words when there is none; waits for nothing."""
        self.calls.append(("overhear", len(pcm)))
        answer = self.overheard.pop(0) if self.overheard else "what about"
        if isinstance(answer, EngineError):
            raise answer
        return answer

    def restore(self, items: Sequence[ContextItem]) -> None:
        self.calls.append(("restore", tuple(item.text for item in items)))

    def close(self) -> None:
        self.calls.append(("close",))

    def names(self) -> list[str]:
        return [call[0] for call in self.calls if call[0] != "append_audio"]


class ScriptedEngine:
    """Opens ScriptedEngineSessions and keeps them in `sessions`."""

    def __init__(self) -> None:
        self.sessions: list[ScriptedEngineSession] = []
        self.capabilities = Capabilities(
            "scripted", ("tone", "bell"), ("en",), True, True, 4096, 8, overhears=True, judges_endings=True
        )
        self.refuses: EngineError | None = None
        """what `start` and `open` raise"""
        self.prepare: Callable[[ScriptedEngineSession], None] = lambda _: None
        """what each new session is done to"""
        self.closed = False

    async def start(self) -> None:
        if self.refuses is not None:
            raise self.refuses

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> ScriptedEngineSession:
        if self.refuses is not None:
            raise self.refuses
        self.sessions.append(ScriptedEngineSession(listener))
        self.prepare(self.sessions[-1])
        return self.sessions[-1]

    async def close(self) -> None:
        self.closed = True


class ScriptedEars:
    """Hears speech when the audio is louder than silence, window by window, with probability `speech`; the end-of-turn
    score is `score`."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell
        self._rest = np.zeros(0, np.int16)
        self._ms = 0
        self.speech = 1.0
        self.score = 0.9
        self.heard_playing: list[tuple[float, float]] = []
        self.stops = 0

    def feed(self, pcm: Pcm) -> None:
        self._rest = np.concatenate([self._rest, pcm])
        while len(self._rest) >= 512:
            window, self._rest = self._rest[:512], self._rest[512:]
            self._ms += 32
            heard: Heard = Activity(self._ms, self.speech if np.abs(window).max() > 100 else 0.0)
            self._tell(heard)

    def tell_early(self, speech: float) -> None:
        self._tell(EarlyActivity(self._ms + 16, speech, 500.0))

    def score_end(self, at_ms: int, from_ms: int) -> None:
        asyncio.get_running_loop().call_soon(self._tell, EndScore(at_ms, self.score))

    def played(self, pcm: Pcm, stream_ms: float, paced: bool) -> None:
        self.heard_playing.append((stream_ms, len(pcm) / 24))

    def stopped(self) -> None:
        self.stops += 1

    def close(self) -> None: ...


class KeptTransport:
    """Keeps events, audio and gains. `play` sends queued audio as a pacing transport would."""

    def __init__(self, listener: TransportListener, server_plays: bool = True) -> None:
        self.server_plays = server_plays
        self.listener = listener
        self.events: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.queue: list[tuple[int, float]] = []
        self.gains: list[float] = []
        self.stream_ms = 0.0
        self.reply_ms: dict[int, float] = {}
        self.closed = False
        self.held = False

    def send_audio(self, generation: int, pcm: Pcm) -> None:
        self.queue.append((generation, len(pcm) / 24))

    def end_audio(self, generation: int) -> None: ...

    def hold(self, on: bool) -> None:
        self.held = on

    def set_gain(self, gain: float) -> None:
        self.gains.append(gain)

    def clear(self) -> None:
        self.queue.clear()

    def send_event(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def send_note(self, note: dict[str, Any]) -> None:
        self.notes.append(note)

    async def close(self) -> None:
        self.closed = True

    def play(self, chunks: int = 1000) -> None:
        """Send up to this many queued chunks at once and report them heard."""
        for _ in range(min(chunks, len(self.queue))):
            generation, ms = self.queue.pop(0)
            at = self.reply_ms.get(generation, 0.0)
            self.listener.on_sent(SentAudio(generation, at, self.stream_ms, ms, np.zeros(round(ms * 24), np.int16)))
            self.reply_ms[generation] = at + ms
            self.stream_ms += ms
        self.listener.on_heard(self.stream_ms)

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]
