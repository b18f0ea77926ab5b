"""Seconds of dialogue in microseconds: scripted actors on one timeline around Duplex, Playout and Conversation.

The dialogue drives the core as omni_rt/session does and keeps what was decided when, what came out of the loudspeaker,
and what the history says. All times are ms of the session's audio; nothing sleeps and nothing is random.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

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
from omni_rt.core.duplex import Duplex, DuplexPolicy
from omni_rt.core.overheard import Meaning
from omni_rt.core.overlap import OverlapPolicy
from omni_rt.core.playout import Playout
from omni_rt.core.timeline import WINDOW_MS, EndScore
from omni_rt.core.turns import TurnPolicy, Words
from omni_rt.engine.api import ToolCall
from tests.core.actors import Judge, Loudspeaker, Plan, Sound, Voice, words_of
from tests.core.order import Order

FRAME_MS = 20
POLL_MS = 20
DUCKED = 0.2

TURNS = TurnPolicy(
    threshold=0.5,
    onset_ms=96,
    pre_roll_ms=300,
    check_silence_ms=160,
    least_silence_ms=160,
    complete_score=0.5,
    sure_score=0.5,
    silence_limit_ms=1600,
)
SEMANTIC = DuplexPolicy(TURNS, OverlapPolicy(224))
SERVER_VAD = replace(SEMANTIC, turns=replace(TURNS, fixed_silence_ms=512))
SPECULATIVE = replace(SEMANTIC, turns=replace(TURNS, speculate_ms=96))
BY_WORDS = replace(SEMANTIC, overlap=OverlapPolicy(224, by_words=True), duck_threshold=0.15)
PUSH_TO_TALK = DuplexPolicy(None, OverlapPolicy(224))

Deed = (
    Literal["create", "cancel", "commit", "clear", "hush", "transport lost", "engine lost", "engine back"]
    | Words
    | DuplexPolicy
)
Chunk = Literal["text", "call", "end"] | int
Overhearing = Callable[[Voice, int, int], tuple[Meaning, int | None]]
"""What the words between two places are, and after how long that is known; None: never."""

# What comes first of things at the same ms.
_MICROPHONE, _CLIENT, _ENGINE, _JUDGE, _HEARING, _TRANSPORT, _REPORT, _WATCH = range(8)


@dataclass(slots=True)
class _Utterance:
    item_id: str
    from_ms: int


@dataclass(slots=True)
class _Reply:
    generation: int
    plan: Plan
    held: list[Chunk] | None
    alive: bool = True
    stopped: bool = False
    item_id: str | None = None
    audio_ms: int = 0


class Dialogue:
    """Plays the whole script when it is made; read the outcome afterwards."""

    def __init__(
        self,
        *sounds: Sound,
        until: int,
        policy: DuplexPolicy = SEMANTIC,
        judge: Judge | None = None,
        replies: Sequence[Plan] = (Plan(),),
        loudspeaker: Loudspeaker | None = None,
        client: Sequence[tuple[int, Deed]] = (),
        overhear: Overhearing | None = None,
        room: float | None = None,
    ) -> None:
        self.log: list[tuple[int, Action]] = []
        self.conversation = Conversation()
        self.claimed: dict[int, int] = {}
        """what the server took as heard of each reply when it ended"""
        self.truly_heard: dict[int, int] = {}
        """what had come out of the loudspeaker by then"""
        self.duplex = Duplex(policy)
        self.playout = Playout()
        self.order = Order()
        self.loudspeaker = loudspeaker or Loudspeaker()
        self._voice = Voice(sounds, room)
        self._judge = judge or Judge()
        self._overhearing = overhear
        self._plans = replies
        self._replies: list[_Reply] = []
        self._utterance: _Utterance | None = None
        self._engine_up = True
        self._online = True
        self._waiting: list[_Reply] = []
        self._queue: list[tuple[int, int, int, Callable[[], None]]] = []
        self._serial = 0
        self.now = self._recorded_ms = 0
        for at, deed in client:
            self._at(at, _CLIENT, partial(self._client, deed))
        for at in self.loudspeaker.reports:
            self._at(at, _REPORT, self._report)
        self._at(0, _TRANSPORT, self._frame)
        self._at(FRAME_MS, _MICROPHONE, self._packet)
        self._at(WINDOW_MS, _HEARING, self._window)
        self._run(until)

    # -- the outcome

    @property
    def actions(self) -> list[tuple[int, Action]]:
        """All decisions with their times, without what was only asked."""
        return [(at, action) for at, action in self.log if not isinstance(action, JudgeEnd | Overhear)]

    @property
    def judged(self) -> list[int]:
        return [action.at_ms for _, action in self.log if isinstance(action, JudgeEnd)]

    @property
    def history(self) -> list[tuple[str, str]]:
        return [(item.kind if item.kind != "message" else item.role, item.text) for item in self.conversation]

    @property
    def idle(self) -> bool:
        """Nobody has the turn and nothing is under way."""
        duplex = self.duplex
        open_ = duplex.utterance_open and duplex.policy.turns is not None
        return not (open_ or duplex.reply_active or self.loudspeaker.gain != 1.0 or self.order.reply is not None)

    def left(self, generation: int) -> list[tuple[int, int, float]]:
        """When speech of a reply left, in stretches of one loudness: (from, to, gain)."""
        out: list[tuple[int, int, float]] = []
        for piece in (p for p in self.loudspeaker.played if p.generation == generation):
            start, end = piece.sent_ms, piece.sent_ms + piece.duration_ms
            if out and out[-1][1:] == (start, piece.gain):
                start = out.pop()[0]
            out.append((start, end, piece.gain))
        return out

    def heard(self, generation: int) -> str:
        """The words that came out of the loudspeaker until the end of the script."""
        return words_of(self.loudspeaker.heard(generation, self.now))

    # -- time

    def _at(self, ms: int, rank: int, deed: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (ms, rank, self._serial, deed))

    def _run(self, until: int) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, _, deed = heapq.heappop(self._queue)
            deed()
            self._check()
        self.now = until

    def _check(self) -> None:
        if self._replies:
            reply = self._replies[-1]
            heard = self.playout.heard_ms(reply.generation, self.now)
            assert 0 <= heard <= self.playout.sent_ms(reply.generation) <= reply.audio_ms

    # -- the user, the client, the loudspeaker

    def _packet(self) -> None:
        if not self._online:
            return
        self._at(self.now + FRAME_MS, _MICROPHONE, self._packet)
        self._act(self.duplex.open_by_client(self._recorded_ms))
        self._recorded_ms = self.now

    def _window(self) -> None:
        if not self._online:
            return
        self._at(self.now + WINDOW_MS, _HEARING, self._window)
        self._act(self.duplex.activity(self._voice.activity(self.now)))

    def _client(self, deed: Deed) -> None:
        if not self._online:
            return
        match deed:
            case "create":
                if not self.duplex.making:
                    self._act(self.duplex.create_reply())
            case "cancel":
                if self.duplex.making:
                    self._act(self.duplex.cancel_reply())
            case "commit":
                self._act(self.duplex.commit_by_client(self._recorded_ms))
            case "clear":
                self._act(self.duplex.clear_by_client())
            case "hush":
                self._act(self.duplex.clear_output())
            case "transport lost":
                self._act(self.duplex.transport_lost())
                self._online = False
            case "engine lost":
                self._lose_engine()
            case "engine back":
                self._engine_up = True
                waiting, self._waiting = self._waiting, []
                for reply in waiting:
                    self._ask(reply)
            case Words():
                self._act(self.duplex.understood(deed))
            case DuplexPolicy():
                self._act(self.duplex.set_policy(deed))

    def _frame(self) -> None:
        if not self._online:
            return
        self._at(self.now + FRAME_MS, _TRANSPORT, self._frame)
        self._send()

    def _send(self) -> None:
        piece = self.loudspeaker.take(self.now, FRAME_MS)
        if piece is None:
            return
        first = not self.playout.started(piece.generation)
        stream_ms = float(piece.heard_ms - self.loudspeaker.delay_ms)
        self.playout.sent(piece.generation, piece.reply_ms, stream_ms, piece.duration_ms, self.now)
        if first:
            self._act(self.duplex.reply_sent(piece.generation))

    def _report(self) -> None:
        self.playout.report(float(self.now - self.loudspeaker.delay_ms), self.now)

    # -- the engine

    def _ask(self, reply: _Reply) -> None:
        if not self._engine_up:
            self._waiting.append(reply)
            return
        plan, start = reply.plan, self.now

        def due(after_ms: int, chunk: Chunk) -> None:
            self._at(start + after_ms, _ENGINE, lambda: self._take(reply, chunk) if reply.alive else None)

        due(plan.first_text_ms, "text")
        for after_ms, audio_ms in plan.chunks():
            due(after_ms, audio_ms)
        if plan.call:
            due(plan.made_ms, "call")
        due(plan.made_ms, "end")

    def _lose_engine(self) -> None:
        self._engine_up = False
        for reply in self._replies:
            reply.alive = False
        self._act(self.duplex.engine_lost())

    def _take(self, reply: _Reply, chunk: Chunk) -> None:
        if reply.stopped:
            return
        if reply.held is not None:
            reply.held.append(chunk)
            return
        match chunk:
            case int():
                self._speak(reply, chunk)
            case "call":
                call = ToolCall(f"call {reply.generation}", "lamp", "{}")
                self.conversation.add(Item(call.call_id, "function_call", "assistant", call=call))
            case "end":
                self.loudspeaker.ended.add(reply.generation)
                self.playout.end(reply.generation)
                self._close_item(reply, "completed" if reply.plan.end == "completed" else "incomplete")
                self._act(self.duplex.reply_made(reply.generation))
                self._at(self.now, _WATCH, lambda: self._watch(reply))

    def _speak(self, reply: _Reply, audio_ms: int) -> None:
        if reply.item_id is None:
            reply.item_id = f"reply {reply.generation}"
            self.conversation.add(
                Item(reply.item_id, "message", "assistant", (Speech(""),), status="in_progress"),
            )
        reply.audio_ms += audio_ms
        self.conversation.set_transcript(reply.item_id, words_of(reply.audio_ms))
        self.playout.queue(reply.generation, audio_ms)
        self.loudspeaker.put(reply.generation, audio_ms)
        if self.loudspeaker.client_plays and self._online:
            self._send()

    def _close_item(self, reply: _Reply, status: Literal["completed", "incomplete"]) -> None:
        if reply.item_id is not None:
            self.conversation.put(replace(self.conversation.get(reply.item_id), status=status))

    def _watch(self, reply: _Reply) -> None:
        if reply.stopped:
            return
        if self.playout.finished(reply.generation, self.now):
            self._act(self.duplex.reply_played(reply.generation))
        else:
            self._at(self.now + POLL_MS, _WATCH, lambda: self._watch(reply))

    # -- what the core wants

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            self.log.append((self.now, action))
            self.order.see(action, self.now, self.duplex.policy.turns is not None)
            match action:
                case OpenUtterance(from_ms, _):
                    self._utterance = _Utterance(f"user {len(self.log)}", from_ms)
                case JudgeEnd(at_ms):
                    self._ask_judge(at_ms)
                case CloseUtterance():
                    self._close_utterance()
                case DropUtterance():
                    self._utterance = None
                case TimeOut(from_ms, at_ms):
                    said = self._voice.words(from_ms, at_ms)
                    self.conversation.add(Item(f"user {len(self.log)}", "message", "user", (Speech(said),)))
                case StartReply(generation, speculative):
                    plan = self._plans[min(generation, len(self._plans)) - 1]
                    self._replies.append(_Reply(generation, plan, [] if speculative else None))
                    self._ask(self._replies[-1])
                case ReleaseReply(generation):
                    self._release(self._replies[generation - 1])
                case AbandonReply(generation):
                    self._replies[generation - 1].stopped = True
                case StopReply(generation):
                    self._stop(self._replies[generation - 1])
                case FinishReply(generation):
                    self._note_heard(generation)
                    self.playout.forget(generation)
                case Duck():
                    self.loudspeaker.gain, self.loudspeaker.held = DUCKED, False
                case Hold():
                    self.loudspeaker.held = True
                case Unduck():
                    self.loudspeaker.gain, self.loudspeaker.held = 1.0, False
                case Overhear(from_ms, to_ms):
                    self._overhear(from_ms, to_ms)

    def _ask_judge(self, at_ms: int) -> None:
        if self._judge.delay_ms is not None:
            score = EndScore(at_ms, self._judge.score(at_ms))
            self._at(self.now + self._judge.delay_ms, _JUDGE, lambda: self._act(self.duplex.score(score)))

    def _overhear(self, from_ms: int, to_ms: int) -> None:
        assert self._overhearing is not None
        kind, delay_ms = self._overhearing(self._voice, from_ms, to_ms)
        if delay_ms is not None:
            self._at(self.now + delay_ms, _JUDGE, lambda: self._act(self.duplex.overheard(to_ms, kind)))

    def _close_utterance(self) -> None:
        utterance, self._utterance = self._utterance, None
        assert utterance is not None
        words = self._voice.words(utterance.from_ms, self.now)
        self.conversation.add(Item(utterance.item_id, "message", "user", (Speech(words),)))

    def _release(self, reply: _Reply) -> None:
        held, reply.held = reply.held or [], None
        for chunk in held:
            self._take(reply, chunk)

    def _stop(self, reply: _Reply) -> None:
        reply.stopped = True
        self.loudspeaker.clear(self.now)
        self._note_heard(reply.generation)
        heard = words_of(self.claimed[reply.generation])
        self._close_item(reply, "incomplete")
        if reply.item_id is not None:
            if heard:
                self.conversation.set_transcript(reply.item_id, heard)
            else:
                self.conversation.remove(reply.item_id)
        self.playout.forget(reply.generation)

    def _note_heard(self, generation: int) -> None:
        self.claimed[generation] = round(self.playout.heard_ms(generation, self.now))
        self.truly_heard[generation] = self.loudspeaker.heard(generation, self.now)
