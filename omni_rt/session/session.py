"""One person's conversation: hears, lets the core decide, and carries out what it decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from omni_rt.config import Settings
from omni_rt.core.actions import (
    AbandonReply,
    Action,
    CloseUtterance,
    DropUtterance,
    Duck,
    FinishReply,
    Hold,
    JudgeEnd,
    OpenUtterance,
    Overhear,
    ReleaseReply,
    StartReply,
    StopReply,
    TimeOut,
    Unduck,
)
from omni_rt.core.conversation import Conversation, Item, Speech
from omni_rt.core.duplex import Duplex, ReplyPhase
from omni_rt.core.overheard import Meaning
from omni_rt.core.timeline import Activity, EarlyActivity, EndScore, Heard, Timeline
from omni_rt.engine.api import Ending, Engine, EngineError, EngineLost, Pcm, Rgb, Transcript
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.response_params import ResponseParams
from omni_rt.realtime.settings import WireSession
from omni_rt.realtime.writer import EventWriter, new_id
from omni_rt.session.audio_log import AudioLog
from omni_rt.session.engine_link import EngineLink
from omni_rt.session.hearing import MakeHearing
from omni_rt.session.inbox import Inbox
from omni_rt.session.moments import Moments, monotonic_ms
from omni_rt.session.overhearing import BEFORE_MS, Overhearing
from omni_rt.session.policy import duplex_policy, engine_settings, idle_params
from omni_rt.session.replies import Replies
from omni_rt.session.room import Room
from omni_rt.session.side_replies import SideReplies
from omni_rt.session.transcripts import Transcripts
from omni_rt.session.utterance import Utterance
from omni_rt.transport.base import SentAudio, Transport

log = logging.getLogger(__name__)

# Audio kept while nobody speaks: pre-roll, onset and the judging of an overlap fit in.
KEPT_SILENCE_MS = 5000
# A muted microphone's zeros come out of Opus as a few steps; a sound has more.
SILENCE_PEAK = 16


class Session:
    """Listens to a transport, to hearing and to an engine, all on one event loop.

    `asked` is the response that the client asked for and that has not begun, with the event's id. `ended` is set once.
    `active_at` (monotonic seconds) is when the client last sent an event or a sound that is not mere silence.
    `watchers` get each server event beside the transport.
    """

    def __init__(
        self,
        session_id: str,
        settings: Settings,
        engine: Engine,
        make_hearing: MakeHearing,
        wire: WireSession,
        on_moments: Callable[[Moments], None] = lambda _: None,
    ) -> None:
        self.id = session_id
        self.settings = settings
        self.capabilities = engine.capabilities
        self.wire = wire
        self.conversation = Conversation()
        self.transport: Transport | None = None
        self.events = EventWriter(self._send)
        self.duplex = Duplex(duplex_policy(wire, settings.turn, engine.capabilities))
        self.link = EngineLink(
            engine, session_id, self, lambda: engine_settings(self.wire), lambda: self.conversation.context()
        )
        self.replies = Replies(
            self.link, self.conversation, self.events, self.duplex, self.act, on_moments, self._restore_context
        )
        self._transcripts = Transcripts(self.conversation, self.events)
        self._room = Room(self.conversation, engine.capabilities.context_tokens, settings.server.max_items)
        self.side_replies = SideReplies(engine, session_id, self.events)
        self._overhearing = Overhearing(
            self.link, lambda: self._language, lambda: self.replies.new_words, self._on_overheard
        )
        self._turn: Moments | None = None
        self.asked: tuple[ResponseParams, str | None] | None = None
        self._timeline = Timeline()
        self._log = AudioLog(KEPT_SILENCE_MS)
        self._clock_offset_ms = 0.0
        self._utterance: Utterance | None = None
        self._hearing = make_hearing(self._on_heard)
        self.inbox = Inbox()
        self._reader: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self.active_at = time.monotonic()
        self.watchers: set[Callable[[dict[str, Any]], None]] = set()
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take a place in the engine. Raises EngineError when there is none."""
        await self.link.open()

    def attach(self, transport: Transport, read_events: Callable[[Session], Any]) -> None:
        """Give the session its transport; `read_events(self)` consumes client events until it is cancelled."""
        self.transport = transport
        self.replies.attach(transport)
        self._reader = asyncio.get_running_loop().create_task(read_events(self))

    async def close(self, reason: str) -> None:
        """End everything; safe to call twice."""
        if self.ended.is_set():
            return
        self.ended.set()
        self.inbox.close()
        if self._reader is not None:
            self._reader.cancel()
        self._hearing.close()
        await self.replies.close()
        await self.side_replies.close()
        await self._overhearing.close()
        await self.link.close()
        if self.transport is not None:
            await self.transport.close()
        log.info("session %s ended: %s", self.id, reason)

    @property
    def now_ms(self) -> int:
        return self._timeline.now_ms

    @property
    def replying(self) -> bool:
        """Whether a reply is being made or played."""
        return self.duplex.making or self.replies.active_response is not None

    @property
    def utterance_ms(self) -> int:
        """Length of the open utterance, 0 if there is none."""
        return self.now_ms - self._utterance.from_ms if self._utterance else 0

    async def until_taken(self) -> None:
        """Wait until most of the client's events have been carried out."""
        await self.inbox.until_taken()

    # -- from the transport

    def on_open(self) -> None:
        self.events.session("session.created", self.wire)

    def on_audio(self, pcm: Pcm, concealed: bool) -> None:
        if not len(pcm) or self.ended.is_set():
            return
        if not concealed and max(pcm.max(), -int(pcm.min())) > SILENCE_PEAK:
            self.active_at = time.monotonic()
        self.act(self.duplex.open_by_client(self.now_ms))
        self._log.append(pcm, self._utterance.from_ms if self._utterance else self.duplex.idle_from_ms)
        self._timeline.advance(len(pcm))
        self._clock_offset_ms = monotonic_ms() - self.now_ms
        self._hearing.feed(pcm)
        if self._utterance is not None and self._utterance.held_ms is None and self.link.session is not None:
            self.link.session.append_audio(pcm)
        if self.utterance_ms > self.settings.server.max_buffered_audio_s * 1000:
            self._end_long_utterance()

    def on_frame(self, rgb: Rgb) -> None:
        if self.capabilities.image_input and self.link.session is not None:
            self.link.session.append_image(rgb, self.now_ms)

    def on_event(self, raw: str | bytes) -> None:
        self.active_at = time.monotonic()
        self.inbox.put(raw)

    def on_sent(self, sent: SentAudio) -> None:
        self._hearing.played(sent.pcm, sent.stream_ms, self.transport is not None and self.transport.server_plays)
        self.replies.sent(sent)

    def on_heard(self, stream_ms: float) -> None:
        self.replies.heard(stream_ms)

    def on_silenced(self, stream_ms: float) -> None:
        self.replies.silenced(stream_ms)

    def on_closed(self, reason: str) -> None:
        if self.ended.is_set():
            return
        self.act(self.duplex.transport_lost())
        self._closing = asyncio.get_running_loop().create_task(self.close(reason))

    # -- from the engine

    def on_transcript(self, transcript: Transcript) -> None:
        utterance = self._utterance
        if not transcript.final:
            delta = utterance.words.update(transcript.text) if utterance is not None else ""
            if utterance is not None and delta and self.wire.audio.input.transcription is not None:
                self.events.transcript_delta(utterance.item_id, delta)
            return
        if utterance is not None and transcript.item_id == utterance.item_id:
            known = utterance.transcribed(transcript, self.capabilities, self._language)
            if known is not None:
                words, final = known
                self.act(self.duplex.understood(words, final=final))
            return
        self._transcripts.take(transcript, self.wire.audio.input.transcription is not None)

    def on_ending(self, ending: Ending) -> None:
        words = self._utterance.ends(ending, self.capabilities, self._language) if self._utterance else None
        if words is not None:
            self.act(self.duplex.understood(words))

    def on_error(self, error: EngineError) -> None:
        self.events.error(WireError(error.code, str(error), kind="server_error"))

    def on_lost(self, error: EngineLost) -> None:
        self.events.error(WireError(error.code, f"{error} It is being restarted.", kind="server_error"))
        self.link.lost()
        if self._utterance is not None:
            self._utterance.go_on()
        self.act(self.duplex.engine_lost())

    def rebuild_context(self) -> None:
        """For what cannot be appended: the engine keeps its cache as far as the items agree."""
        self.stop_for_new_context()
        self._restore_context()

    def stop_for_new_context(self) -> None:
        """A reply that is being made ends, as its context is void; one that is only still being heard goes on."""
        if self.link.session is not None and (self.duplex.making or not self.duplex.reply_active):
            self.act(self.duplex.cancel_reply())

    def _restore_context(self) -> None:
        if self.link.session is not None:
            self.link.session.restore(self.conversation.context())
            self.on_engine_back()

    def on_engine_back(self) -> None:
        self.replies.context_restored()
        if self._utterance is not None and self.link.session is not None:
            self.link.session.append_audio(self._log.slice(self._utterance.from_ms))

    # -- from hearing

    def _on_heard(self, heard: Heard) -> None:
        if self.ended.is_set():
            return
        match heard:
            case Activity():
                self.act(self.duplex.activity(heard))
            case EarlyActivity():
                self.act(self.duplex.early_activity(heard))
            case EndScore():
                self.act(self.duplex.score(heard))

    def _on_overheard(self, at_ms: int, kind: Meaning) -> None:
        if not self.ended.is_set():
            self.act(self.duplex.overheard(at_ms, kind))

    # -- what the core wants

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case OpenUtterance(from_ms, _):
                    self._open_utterance(from_ms)
                case JudgeEnd(at_ms):
                    self._hearing.score_end(at_ms, self._utterance.from_ms if self._utterance else 0)
                case CloseUtterance(speech_end_ms):
                    self._close_utterance(speech_end_ms)
                case DropUtterance():
                    self._drop_utterance()
                case TimeOut(from_ms, at_ms):
                    self._time_out(from_ms, at_ms)
                case StartReply(generation, speculative):
                    self._start_reply(generation, speculative)
                case ReleaseReply(generation):
                    self._turn = None
                    self.replies.release(generation)
                case AbandonReply(generation):
                    self._abandon_reply(generation)
                case StopReply(_, _, onset_ms):
                    self._hearing.stopped()
                    self.replies.stop(action, None if onset_ms is None else self._wall(onset_ms))
                case FinishReply(generation):
                    self.replies.finish(generation)
                    self._fit_context()
                case Duck():
                    self.replies.loudness(self.settings.turn.duck_gain)
                case Hold():
                    self.replies.loudness(self.settings.turn.duck_gain, held=True)
                case Unduck():
                    self.replies.loudness(1.0)
                case Overhear(from_ms, to_ms):
                    self._overhearing.ask(self._log.slice(from_ms - BEFORE_MS, to_ms), to_ms)

    def _open_utterance(self, from_ms: int) -> None:
        self._utterance = Utterance(new_id("item"), from_ms, self.duplex.policy.turns is not None)
        if self._utterance.told:
            self.events.speech_started(from_ms, self._utterance.item_id)
        audio = self._log.slice(from_ms)
        if len(audio) and self.link.session is not None:
            self.link.session.append_audio(audio)

    def _close_utterance(self, speech_end_ms: int) -> None:
        utterance, self._utterance = self._utterance, None
        assert utterance is not None
        if utterance.held_ms is None and self.link.session is not None:
            self.link.session.commit(utterance.item_id)
        if self._turn is None or self._turn.get("turn_end_decided") is not None:  # of a turn that nothing answered
            self._turn = Moments()
        self._turn.mark("user_speech_end", self._wall(speech_end_ms))
        self._turn.mark("turn_end_decided")
        if utterance.told:
            self.events.speech_stopped(self.duplex.judged_ms or self.now_ms, utterance.item_id)
        self._commit(utterance.item_id, self._log.slice(utterance.from_ms))
        if utterance.understood is not None:
            self.on_transcript(utterance.understood)
        if self.duplex.phase is ReplyPhase.NONE and self._shed():
            self.rebuild_context()

    def _commit(self, item_id: str, pcm: Pcm) -> None:
        item = Item(item_id, "message", "user", (Speech(None, pcm, len(pcm) // 16),))
        previous = self.conversation.last_id()
        self.events.committed(item.id, previous)
        self.conversation.add(item)
        self.events.item(item, previous)

    def _time_out(self, from_ms: int, at_ms: int) -> None:
        item_id, pcm = new_id("item"), self._log.slice(from_ms, at_ms)
        self.events.timeout_triggered(from_ms, at_ms, item_id)
        if self.link.session is not None:
            self.link.session.append_audio(pcm)
            self.link.session.commit(item_id)
        self._commit(item_id, pcm)
        self.asked = idle_params(self.wire), None

    def _drop_utterance(self) -> None:
        self._utterance = None
        if self.link.session is not None:
            self.link.session.discard()

    def _start_reply(self, generation: int, speculative: bool) -> None:
        if not speculative:
            moments, self._turn = self._turn or Moments(), None
            params, event_id = self.asked or (None, None)
            self.asked = None
            refused = self._room.refusal(self.wire, event_id)
            self.replies.start(generation, self.wire, moments, params, refused=refused)
            return
        utterance, engine = self._utterance, self.link.session
        assert utterance is not None
        if engine is None:
            self.act(self.duplex.engine_lost())
            return
        self._turn = Moments()
        utterance.held_ms = self.now_ms
        mark = engine.mark()
        engine.commit(utterance.item_id)
        self.replies.start(generation, self.wire, self._turn, mark=mark)

    def _abandon_reply(self, generation: int) -> None:
        mark = self.replies.abandon(generation)
        self._turn = None
        utterance, engine = self._utterance, self.link.session
        if utterance is None or utterance.held_ms is None:
            return
        missed = self._log.slice(utterance.held_ms)
        utterance.go_on()
        if engine is not None and mark is not None:
            engine.rollback(mark)
            engine.append_audio(missed)

    def _fit_context(self) -> None:
        """After a reply: what does not fit any more leaves, unless the next reply is being made on it."""
        self._room.counted(self.replies.latest_usage, self.wire)
        if self.duplex.phase is ReplyPhase.NONE and self._room.forget(self.wire) | self._shed():
            self.rebuild_context()

    def _shed(self) -> bool:
        gone = self._room.shed()
        for item_id in gone:
            self.events.item_deleted(item_id)
        return bool(gone)

    def _end_long_utterance(self) -> None:
        """Commit it where turns are found; clear it where the client finds them, as it may hold nothing at all."""
        found = self.duplex.policy.turns is not None
        limit, what = self.settings.server.max_buffered_audio_s, "committed" if found else "cleared"
        message = f"An utterance may last {limit} s (server.max_buffered_audio_s); this one was {what}. Pause sooner."
        self.events.error(WireError("utterance_too_long", message))
        self.act(self.duplex.commit_by_client(self.now_ms) if found else self.duplex.clear_by_client())

    @property
    def _language(self) -> str:
        return engine_settings(self.wire).language

    def _wall(self, at_ms: int) -> float:
        """Server monotonic ms of a place on the timeline."""
        return at_ms + self._clock_offset_ms

    def _send(self, event: dict[str, Any]) -> None:
        if self.transport is not None:
            self.transport.send_event(event)
        for watcher in self.watchers.copy():
            watcher(event)
