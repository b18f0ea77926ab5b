"""Makes, holds, plays, stops and settles a session's replies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from omni_rt.core.actions import Action, StopReply
from omni_rt.core.conversation import Conversation, Item
from omni_rt.core.duplex import Duplex
from omni_rt.core.playout import Playout
from omni_rt.engine.api import (
    OUTPUT_RATE,
    AudioDelta,
    CallDelta,
    Chunk,
    EngineError,
    Mark,
    Pcm,
    ReplyEnd,
    TextDelta,
    Usage,
)
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.response_params import ResponseParams
from omni_rt.realtime.settings import WireSession
from omni_rt.realtime.writer import EventWriter, ResponseStatus, ResponseWriter, new_id
from omni_rt.session.engine_link import EngineLink
from omni_rt.session.heard import Cut, HeardWords
from omni_rt.session.moments import Moments, monotonic_ms
from omni_rt.session.reply import ENDS, Reply
from omni_rt.transport.base import SentAudio, Transport

log = logging.getLogger(__name__)

# How often the end of a reply's playing is looked for.
PLAYED_POLL_S = 0.02
# Replies that a client may still truncate.
KEPT_REPLIES = 16

_STOPS: dict[str, tuple[ResponseStatus, str | None]] = {
    "turn_detected": ("cancelled", "turn_detected"),
    "client_cancelled": ("cancelled", "client_cancelled"),
    "transport_lost": ("cancelled", "client_cancelled"),
    "engine_lost": ("failed", None),
}
# As long as the echo of a voice is looked for (media/echo.py).
_NEW_MS = 5000


class Replies:
    """`act` carries out what the duplex controller wants after it was told of progress; `restore` makes the engine's
    context anew."""

    def __init__(
        self,
        link: EngineLink,
        conversation: Conversation,
        events: EventWriter,
        duplex: Duplex,
        act: Callable[[list[Action]], None],
        on_moments: Callable[[Moments], None],
        restore: Callable[[], None],
    ) -> None:
        self._link = link
        self._conversation = conversation
        self._events = events
        self._duplex = duplex
        self._act = act
        self._on_moments = on_moments
        self._transport: Transport | None = None
        self._current: Reply | None = None
        self._past: list[Reply] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = HeardWords(link, conversation, events, self._spawn, restore)
        self._held_at: float | None = None
        self.conversation_id = new_id("conv")
        self.playout = Playout()
        self.spoke = False
        self._sent_ms = 0.0

    def attach(self, transport: Transport) -> None:
        self._transport = transport
        self.playout = Playout()

    @property
    def active_response(self) -> str | None:
        """Id of the response being made or played."""
        return self._current.writer.id if self._current and self._current.held is None else None

    @property
    def speaking_item(self) -> str | None:
        """Id of the message being made or played."""
        return self._current.message_id if self._current else None

    @property
    def new_words(self) -> str:
        """Of the reply that is heard; none once so much was heard that its echo is known by its sound."""
        return self._current.writer.text if self._current and self._sent_ms < _NEW_MS else ""

    # -- what the controller wants

    def start(
        self,
        generation: int,
        session: WireSession,
        moments: Moments,
        params: ResponseParams | None = None,
        mark: Mark | None = None,
        refused: WireError | None = None,
    ) -> None:
        """Ask the engine for a reply; with `mark` it is held until `release` or `abandon`. One that is `refused` fails
        without the engine."""
        params = params or ResponseParams()
        options = replace(params.options(generation, session), judge_ending=mark is not None)
        writer = ResponseWriter(self._events, params.over(session), params.metadata, self.conversation_id)
        held: list[Chunk] | None = None if mark is None else []
        reply = Reply(options, writer, moments, mark, held, speed=session.audio.output.speed)
        self._current = reply
        self._past = [*self._past[-KEPT_REPLIES:], reply]
        if reply.held is None:
            writer.created()
        else:
            moments.mark("speculation_started")
        self._spawn(self._run(reply, refused))

    def release(self, generation: int) -> None:
        """The held reply may be heard."""
        reply = self._of(generation)
        if reply is None or reply.held is None:
            return
        held, reply.held = reply.held, None
        reply.writer.created()
        for chunk in held:
            self._take(reply, chunk)

    def abandon(self, generation: int) -> Mark | None:
        """The held reply never was; returns where to roll back to."""
        reply = self._of(generation)
        if reply is None:
            return None
        reply.stopped = True
        self._current = None
        self._past.remove(reply)
        if self._link.session is not None:
            self._link.session.cancel(generation)
        return reply.mark

    def stop(self, action: StopReply, onset_at: float | None = None) -> None:
        """Silence at once; the item is cut to what was heard as soon as the engine has said what that is.

        `onset_at` is when the speech began that interrupts it, in server monotonic ms.
        """
        reply = self._of(action.generation)
        if reply is None:
            return
        reply.stopped = True
        self._current = None
        if self._transport is not None:
            self._transport.clear()
        if onset_at is not None:
            reply.moments.mark("interrupt_onset", onset_at)
        reply.moments.mark("output_silent", self._held_at)
        if action.reason == "engine_lost":
            reply.known = False
        elif self._link.session is not None:
            self._link.session.cancel(reply.generation)
        self._store(reply.writer.close_message("incomplete"))
        status, reason = _STOPS[action.reason]
        reply.writer.done(status, reason, reply.usage, "the engine was lost" if status == "failed" else "")
        self._say_buffer(reply, "cleared")
        self._note(reply)
        if reply.options.audio:
            self._cut(reply, may_report=action.reason in ("turn_detected", "client_cancelled"))
        self.playout.forget(reply.generation)

    def _cut(self, reply: Reply, may_report: bool) -> None:
        """Keep what was heard by the server's estimate, which is all the client hears of where the server plays."""
        heard_ms = round(self.playout.heard_ms(reply.generation, monotonic_ms()))
        if self._transport is not None and not self._transport.server_plays:
            self._heard.cut(reply, heard_ms, Cut.GUESS)
            return
        trail = self.playout.trail(reply.generation) if self.playout.reported and may_report else None
        self._heard.cut(reply, heard_ms, Cut.SERVER, trail)

    def loudness(self, gain: float, held: bool = False) -> None:
        """How loud replies are played, 0 to 1, or that nothing is until this is called again."""
        if self._transport is not None:
            paused = held and self._transport.server_plays
            self._held_at = (self._held_at or monotonic_ms()) if paused else None
            self._transport.set_gain(gain)
            self._transport.hold(held)

    def finish(self, generation: int) -> None:
        """Everything was played."""
        reply = self._of(generation)
        if reply is None:
            return
        self._current = None
        self._say_buffer(reply, "stopped")
        self._note(reply)
        self.playout.forget(generation)

    def spoken(self, item_id: str) -> Reply:
        """The reply that is this item. Raises WireError for an item that is no spoken reply."""
        reply = next((r for r in reversed(self._past) if r.message_id == item_id), None)
        if reply is None:
            raise WireError("invalid_value", f"{item_id!r} is no spoken reply that can be truncated.", "item_id")
        return reply

    def truncate(self, reply: Reply, audio_ms: int) -> None:
        """The client says how much of a reply it played."""
        self._heard.cut(reply, min(audio_ms, round(reply.audio_ms)), Cut.CLIENT)

    def deleted(self, item_id: str) -> None:
        """The client deleted this item; one that it makes of the same id is no reply."""
        for reply in self._past:
            if reply.message_id == item_id:
                reply.message_id = None

    def context_restored(self) -> None:
        """The engine has the replies so far as items; it cannot cut them any more."""
        for reply in self._past:
            reply.known = False

    @property
    def latest_usage(self) -> Usage:
        """Of the newest reply."""
        return self._past[-1].usage if self._past else Usage()

    def is_unheard(self, item_id: str) -> bool:
        """The item was a reply and is deleted, as nothing of it was heard."""
        return any(reply.unheard and reply.message_id == item_id for reply in self._past)

    # -- what the engine and the transport tell

    def sent(self, sent: SentAudio) -> None:
        now = monotonic_ms()
        self._sent_ms += sent.duration_ms
        begun = self.playout.started(sent.generation)
        self.playout.sent(sent.generation, sent.reply_ms, sent.stream_ms, sent.duration_ms, now)
        reply = self._of(sent.generation)
        if reply is None or begun:
            return
        reply.moments.mark("first_audio_sent", now)
        self.spoke = True
        self._say_buffer(reply, "started")
        self._act(self._duplex.reply_sent(sent.generation))
        self._note(reply)

    def heard(self, stream_ms: float) -> None:
        now = monotonic_ms()
        self.playout.report(stream_ms, now)
        reply = self._current
        if reply is None or reply.moments.get("first_audio_played") is not None:
            return
        heard = self.playout.heard_ms(reply.generation, now)
        if heard > 0:
            reply.moments.mark("first_audio_played", now - heard)
            self._note(reply)

    def silenced(self, stream_ms: float) -> None:
        """The client's loudspeaker fell silent at this place of the stream."""
        self._heard.silenced(stream_ms)

    def audio_event(self, generation: int, pcm: Pcm | None) -> dict[str, Any] | None:
        """The event that carries a reply's audio over a transport without tracks; None if there is nothing to carry."""
        reply = self._of(generation)
        return None if reply is None else reply.writer.audio_delta(pcm)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inside

    async def _run(self, reply: Reply, refused: WireError | None) -> None:
        if refused is not None:
            self._made(reply, ReplyEnd(reply.generation, "failed", error=str(refused)), refused)
            return
        try:
            engine = self._link.session or await self._link.wait()
            if reply.stopped:  # before it was asked for
                return
            async for chunk in engine.respond(reply.options):
                self._take(reply, chunk)
        except EngineError as error:
            self._take(reply, ReplyEnd(reply.generation, "failed", error=f"{error.code}: {error}"))

    def _take(self, reply: Reply, chunk: Chunk) -> None:
        if reply.stopped:
            return
        if isinstance(chunk, TextDelta):
            reply.moments.mark("first_text")
        if reply.held is not None:
            reply.held.append(chunk)
            return
        match chunk:
            case TextDelta(_, text):
                self._open(reply)
                reply.writer.text_delta(text)
            case AudioDelta():
                self._open(reply)
                self._play(reply, reply.spoke(chunk))
            case CallDelta():
                self._conversation.add(reply.writer.call(chunk, self._conversation.last_id()))
            case ReplyEnd():
                self._made(reply, chunk)

    def _play(self, reply: Reply, pcm: Pcm) -> None:
        if not len(pcm):
            return
        self.playout.queue(reply.generation, len(pcm) * 1000 / OUTPUT_RATE)
        if self._transport is not None:
            self._transport.send_audio(reply.generation, pcm)

    def _open(self, reply: Reply) -> None:
        item = reply.writer.open_message(self._conversation.last_id())
        if item is not None:
            reply.message_id = item.id
            self._conversation.add(item)

    def _made(self, reply: Reply, end: ReplyEnd, refused: WireError | None = None) -> None:
        if reply.stopped:
            return
        reply.usage = end.usage
        self._play(reply, reply.rest())
        if self._transport is not None:
            self._transport.end_audio(reply.generation)
        self.playout.end(reply.generation)
        status, reason = ENDS[end.reason]
        self._store(reply.writer.close_message("completed" if status == "completed" else "incomplete"))
        if end.reason == "failed":
            self._events.error(refused or WireError("engine_failed", end.error, kind="server_error"))
        reply.writer.done(status, reason, end.usage, end.error)
        self._act(self._duplex.reply_made(reply.generation))
        self._spawn(self._watch(reply))

    async def _watch(self, reply: Reply) -> None:
        while not reply.stopped:
            if self.playout.finished(reply.generation, monotonic_ms()):
                self._act(self._duplex.reply_played(reply.generation))
                return
            await asyncio.sleep(PLAYED_POLL_S)

    def _store(self, item: Item | None) -> None:
        if item is not None and item.id in self._conversation:
            self._conversation.put(item)

    def _of(self, generation: int) -> Reply | None:
        reply = self._current
        return reply if reply is not None and reply.generation == generation else None

    def _say_buffer(self, reply: Reply, what: Any) -> None:
        if self._transport is not None and self._transport.server_plays and self.playout.started(reply.generation):
            reply.writer.buffer(what)

    def _note(self, reply: Reply) -> None:
        self._on_moments(reply.moments)
        if self._transport is not None:
            self._transport.send_note(
                {
                    "type": "omni.moments",
                    "response_id": reply.writer.id,
                    "clock_ms": round(monotonic_ms(), 1),
                    "moments": reply.moments.all(),
                }
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a reply's task failed", exc_info=error)
            self._events.error(WireError("internal", f"The server failed: {error}.", kind="server_error"))
