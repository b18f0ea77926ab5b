"""One session's state on the computing thread: what was said so far, what is being said, and the reply in the making.

Implements the scheduler's Work. Everything here runs on the scheduler's thread; `session.py` posts to it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from omni_rt.engine.api import (
    ContextItem,
    EngineError,
    Pcm,
    Rgb,
    Role,
    SessionSettings,
    ToolCall,
    Transcript,
)
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.context import Turn
from omni_rt.engine.qwen3_omni.heard import Pace
from omni_rt.engine.qwen3_omni.marks import Marks, Place
from omni_rt.engine.qwen3_omni.parts import Parts, told
from omni_rt.engine.qwen3_omni.reply import PREFILL_ROWS, Reply
from omni_rt.engine.qwen3_omni.requests import Read, Request, Result
from omni_rt.engine.qwen3_omni.room import Room
from omni_rt.engine.qwen3_omni.transcription import Transcription
from omni_rt.engine.qwen3_omni.transcripts import TRANSCRIPT_S, Transcripts
from omni_rt.engine.qwen3_omni.utterance import Utterance

log = logging.getLogger(__name__)

_KEPT_REPLIES = 32
# Seconds after which it is due to listen and to prefill while nobody waits for it.
_PREFILL_S = 0.5


class Tells(Protocol):
    """Where news of a conversation goes; called on the scheduler's thread."""

    def transcript(self, transcript: Transcript) -> None: ...

    def error(self, error: EngineError) -> None: ...


class Conversation:
    """Feeds the context, in order, with what comes; makes one reply at a time."""

    def __init__(self, parts: Parts, settings: SessionSettings, tells: Tells, seed: int) -> None:
        self._parts = parts
        self._tells = tells
        self._settings = settings
        self.context = parts.new_context()
        self.generator = torch.Generator().manual_seed(seed)
        self.pace = Pace()
        self._system = Turn("system")
        self.context.turns.append(self._system)
        self._utterance: Utterance | None = None
        self._pending: deque[Utterance] = deque()
        self._frame: Rgb | None = None
        self.prior: float | None = None
        """Loudest cell of the utterances so far."""
        self._waiting: list[Turn] = []
        self._reply: Reply | None = None
        self._replies: OrderedDict[int, Reply] = OrderedDict()
        self._marks = Marks()
        self._transcripts = Transcripts(parts, self.context, tells.transcript)
        self._room = Room(self.context, self._system, parts.context_tokens, parts.settings.max_reply_tokens)
        # Changes of what lies before the reply in the making; the caches it goes on from stay until it is over.
        self._later: list[Callable[[], None]] = []
        # Rows that could not be prefilled: not tried again before they change.
        self._stuck: int | None = None
        self._doing: Utterance | Transcription | None = None
        self._asked: Reply | None = None
        self._now = 0.0
        # When there was first something to listen to or to prefill.
        self._since: float | None = None
        self.configure(settings)

    def close(self) -> None:
        if self._reply is not None:
            self._reply.end("cancelled")
        self._transcripts.close()
        self.context.close()

    # -- settings

    def configure(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._when_free(self._instruct)

    # -- what comes in

    def append_audio(self, pcm: Pcm) -> None:
        if self._utterance is None:
            turn = self._add(Turn("user"))
            frame, self._frame = self._frame, None
            self._utterance = Utterance(self._parts, self.context, turn, self.prior, camera=frame is not None)
            if frame is not None:
                self._utterance.show(frame, camera=True)
        self._utterance.append(pcm)

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        if self._utterance is not None:
            self._utterance.show(rgb, camera=True)
        else:
            self._frame = rgb

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        turn = Turn(role, item_id=item_id)
        if role == "user" and self._frame is not None:
            self._written(turn, text, (self._frame,))
            self._frame = None
        else:
            turn.pieces = self._parts.text(role, text)
        self._add(turn)

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        self._result(output, item_id)

    def commit(self, item_id: str) -> None:
        utterance, self._utterance = self._utterance, None
        if utterance is None:
            self._transcripts.done(item_id)
            return
        utterance.turn.item_id = item_id
        utterance.close()
        self._pending.append(utterance)
        self._transcripts.ask(utterance, item_id)

    def discard(self) -> None:
        utterance, self._utterance = self._utterance, None
        if utterance is not None:
            self._remove({id(utterance.turn)})

    # -- places

    def mark(self, serial: int) -> None:
        utterance = self._utterance.copy(Turn("user")) if self._utterance is not None else None
        turns = [*self.context.turns, *self._waiting]
        if utterance is not None and self._utterance is not None:
            turns = [turn for turn in turns if turn is not self._utterance.turn]
        self._marks.set(serial, Place(tuple(turns), utterance, self._frame))

    def rollback(self, serial: int) -> None:
        place = self._marks.back_to(serial)
        kept = {id(turn) for turn in place.turns}
        self._remove({id(turn) for turn in [*self.context.turns, *self._waiting] if id(turn) not in kept})
        self._frame = self._frame if self._frame is not None else place.frame
        if place.utterance is not None:
            turn = self._add(Turn("user"))
            self._utterance = place.utterance.copy(turn)
        self.context.changed()

    # -- replies

    def respond(self, reply: Reply) -> None:
        if self._reply is not None:
            reply.fail("reply_running", f"reply {self._reply.generation} is still being made; cancel it first")
            return
        self._reply = reply
        self._replies[reply.generation] = reply
        while len(self._replies) > _KEPT_REPLIES:
            self._replies.popitem(last=False)
        if self._utterance is not None:  # what is said from here on comes behind the reply
            self._hold_back(self._utterance.turn)
        try:
            self._refuse_too_large()
            self._make_room(urgent=True)
            self._room.check(for_reply=True)
            reply.begin(self, self._settings)
        except Exception as error:
            reply.fail_of(told(error))
            self._replied()

    def cancel(self, generation: int) -> None:
        if self._reply is not None and self._reply.generation == generation:
            self._reply.end("cancelled")
            self._replied()

    def keep_heard(self, generation: int, audio_ms: int) -> str:
        self.cancel(generation)
        reply = self._replies.get(generation)
        if reply is None:
            return ""
        kept = reply.heard(audio_ms)
        self._when_free(lambda: reply.settle(kept.ids))
        return kept.text

    # -- the whole

    def restore(self, items: Sequence[ContextItem]) -> None:
        if self._reply is not None:
            self._reply.end("cancelled")
            self._replied()
        unfinished = {id(utterance.turn) for utterance in self._pending}
        before = {t.item_id: t for t in self.context.turns if t.item_id and id(t) not in unfinished}
        asked = self._transcripts.take_all()
        self._remove({id(turn) for turn in [*self.context.turns, *self._waiting] if turn is not self._system})
        self._marks.clear()
        self._replies.clear()
        for item in items:
            self._take_up(item, before.get(item.id))
        self._transcripts.ask_again(asked, self.context.turns, {item.id for item in items})
        self.context.changed()

    # -- work

    def deadline(self, now: float) -> float | None:
        self._now = now
        reply, waiting = self._reply, self._unready or self._listening
        self._since = None if not waiting else now if self._since is None else self._since
        if reply is not None and waiting:
            return reply.deadline(now)
        if self._since is not None:
            return self._since + _PREFILL_S
        if self._transcripts.due(reply, now) is not None:
            return now + TRANSCRIPT_S
        return None if reply is None else reply.deadline(now)

    def request(self) -> Request | None:
        """What the next step asks of the machine; None if it has work of its own, or nothing."""
        self._doing = self._asked = None
        if self._pending or self._listening:
            return None
        if self._behind and self._reply is None:  # a reply reads what is missing together with its own beginning
            self._refuse_too_large()
            self._make_room(urgent=False)
            chunk = self.context.chunk(PREFILL_ROWS)
            return None if chunk is None else Read(chunk)
        if (transcription := self._transcripts.due(self._reply, self._now)) is not None:
            self._doing = transcription
            return self._transcripts.request(transcription)
        if self._reply is None:
            return None
        self._asked = self._reply
        return self._reply.request()

    def take(self, request: Request, result: Result) -> None:
        """What became of the request last made. Raises what failed it; but what finds no room while no reply is made is
        taken out again, so that the rest goes on."""
        if isinstance(result, EngineError) and self._doing is None and self._reply is None:
            self._tells.error(result)
            self._remove({id(turn) for turn in self.context.turns[1:] if not self.context.holds(turn)}, lost=True)
            self._stuck = self.context.rows
            return
        if isinstance(result, Exception):
            raise result
        if isinstance(self._doing, Transcription):
            assert isinstance(result, int)
            self._transcripts.take(self._doing, result)
        elif self._asked is not None:
            self._asked.take(request, result)
            if self._asked.ended:
                self._replied()

    def step(self) -> None:
        """One step alone: the request, if there is one, or work of its own."""
        request = self.request()
        if request is not None:
            self.take(request, self._parts.machine.run([request])[0])
        elif self._pending:
            self._listen(self._pending[0])
            if self._pending[0].finished:
                self.prior = self._pending.popleft().maximum
        elif self._listening and self._utterance is not None:
            self._listen(self._utterance)
            self._make_room(urgent=False)
            self._room.check(for_reply=False)
        elif self._asked is not None:
            self._asked.finish()
            self._replied()

    def failed(self, error: Exception) -> None:
        cause, doing, self._doing = told(error), self._doing, None
        reply = self._reply
        if isinstance(doing, Transcription):
            self._transcripts.drop([doing], lost=True)
            reply = None
        elif doing is not None:
            reply = None if doing.turn in self._waiting else reply
            self._remove({id(doing.turn)}, lost=True)
        elif reply is None:
            self._stuck = self.context.rows
        if reply is None:
            self._tells.error(cause)
        else:
            reply.fail_of(cause)
            self._replied()

    # -- inside

    @property
    def _listening(self) -> bool:
        """Whether what is being said right now is to be worked on."""
        return self._reply is None and self._utterance is not None and self._utterance.due

    @property
    def _unready(self) -> bool:
        return bool(self._pending) or self._behind

    @property
    def _behind(self) -> bool:
        """Whether there is something to prefill that is not left to the reply."""
        if self._reply is not None:
            return self.context.missing > len(self._reply.turn)
        return self.context.missing > 0 and self.context.rows != self._stuck

    def _instruct(self) -> None:
        ids = self._parts.prompt.system(self._settings.instructions, self._settings.tools)
        if ids != tuple(token for piece in self._system.pieces for token in piece.ids):
            self._system.pieces = [pieces.text(ids)] if ids else []
            self.context.changed()

    def _when_free(self, change: Callable[[], None]) -> None:
        if self._reply is None:
            change()
        else:
            self._later.append(change)

    def _listen(self, utterance: Utterance) -> None:
        self._doing = utterance
        utterance.work()

    def _add(self, turn: Turn) -> Turn:
        """Put a turn behind all others but the one that is being said."""
        turns = self._waiting if self._reply is not None else self.context.turns
        turns.insert(len(turns) - self._saying(turns), turn)
        self.context.changed()
        return turn

    def _saying(self, turns: Sequence[Turn]) -> int:
        """1 if the open utterance is the last of `turns`, else 0."""
        return int(self._utterance is not None and bool(turns) and turns[-1] is self._utterance.turn)

    def _result(self, output: str, item_id: str) -> None:
        """What a tool gave; the results of the calls of one reply share a turn."""
        turns = self._waiting if self._reply is not None else self.context.turns
        last = turns[: len(turns) - self._saying(turns)][-1:]
        turn = last[0] if last and last[0].results else self._add(Turn("user"))
        turn.item_id = item_id
        turn.results += (output,)
        turn.pieces = [pieces.text(self._parts.prompt.tool_result(*turn.results))]
        self.context.changed()

    def _hold_back(self, turn: Turn) -> None:
        if turn in self.context.turns:
            self.context.turns.remove(turn)
            self._waiting.append(turn)
            self.context.changed()

    def _remove(self, gone: set[int], *, lost: bool = False) -> None:
        """Turns leave, by identity, with whatever is at work on them. With `lost` they were not called back: what was
        said in them is told as not understood, and what was heard of a reply can still be asked."""
        if self._reply is not None and id(self._reply.turn) in gone:
            self._reply.end("cancelled")
            self._replied()
        for turns in (self.context.turns, self._waiting):
            turns[:] = [turn for turn in turns if id(turn) not in gone]
        self._pending = deque(u for u in self._pending if id(u.turn) not in gone)
        if self._utterance is not None and id(self._utterance.turn) in gone:
            self._utterance = None
        if not lost:
            for generation in [g for g, reply in self._replies.items() if id(reply.turn) in gone]:
                del self._replies[generation]
        self._transcripts.drop(self._transcripts.of(gone), lost=lost)
        self.context.changed()

    def _replied(self) -> None:
        """The reply is over: what came meanwhile comes behind it, and the oldest turns leave if it is time."""
        self._reply = None
        self.context.turns += self._waiting
        self._waiting.clear()
        later, self._later = self._later, []
        for change in later:
            change()
        self.context.changed()
        self._make_room(urgent=False)

    def _refuse_too_large(self) -> None:
        """Turns that leave no room for a reply, whatever else leaves, are taken out, with an error."""
        most = self._room.largest_turn
        if self.context.missing <= most:
            return
        for turn in [turn for turn in self.context.turns[1:] if len(turn) > most]:
            self._remove({id(turn)}, lost=True)
            self._tells.error(self._room.too_large(turn))

    def _make_room(self, *, urgent: bool) -> None:
        """The oldest exchanges leave while the context is full."""
        if not self._room.full(urgent=urgent):
            return
        while oldest := self._room.oldest():
            log.info("the context is full (%d tokens): the oldest turns leave", self.context.rows)
            self._remove({id(turn) for turn in oldest}, lost=True)

    def _written(self, turn: Turn, text: str, images: Sequence[Rgb], audio: Pcm | None = None) -> Utterance:
        """Make what was written, shown and said the content of a user turn."""
        utterance = Utterance(self._parts, self.context, turn, self.prior)
        for rgb in images:
            utterance.show(rgb, camera=False)
        if audio is not None and not text:
            utterance.append(audio)
        utterance.write(text)
        utterance.close()
        self._pending.append(utterance)
        return utterance

    def _called(self, call: ToolCall) -> list[pieces.Piece]:
        """All rows of an assistant's turn with one more call; takes the last turn in if it is the assistant's."""
        turns = self.context.turns
        last = turns.pop() if turns and turns[-1].role == "assistant" and turns[-1].pieces else None
        before = [token for piece in last.pieces for token in piece.ids] if last is not None else []
        return [pieces.text(self._parts.prompt.turn_with_call(before, call.name, call.arguments))]

    def _take_up(self, item: ContextItem, known: Turn | None) -> None:
        if item.call is not None:
            turn = Turn("assistant", self._called(item.call), item.id)
        elif item.result_of:
            self._result(item.text, item.id)
            return
        elif item.role == "user" and known is not None and (item.audio is not None or item.images):
            turn = known
        elif item.role == "user" and (item.images or item.audio is not None):
            turn = Turn("user", item_id=item.id)
            said = self._written(turn, item.text.strip() if item.audio is None else "", item.images, item.audio)
            if item.audio is not None and not item.text and self._parts.settings.transcripts:
                self._transcripts.ask(said, item.id)
        else:
            turn = Turn(item.role, self._parts.text(item.role, item.text.strip()), item.id)
        self._add(turn)
