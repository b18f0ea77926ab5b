"""One conversation in the local engine: what is heard, seen, remembered and answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from omni_rt.engine.api import (
    Chunk,
    ContextItem,
    EngineError,
    EngineListener,
    Mark,
    Pcm,
    RespondOptions,
    Rgb,
    Role,
    SessionClosed,
    SessionSettings,
    Transcript,
)
from omni_rt.engine.local.chat import PREFILL_TOKENS
from omni_rt.engine.local.context import Context, Turn
from omni_rt.engine.local.ears import Ears, Place
from omni_rt.engine.local.eyes import check_picture
from omni_rt.engine.local.overhearing import Overhearing
from omni_rt.engine.local.parts import Parts
from omni_rt.engine.local.priorities import Work
from omni_rt.engine.local.prompt import system_text, user_text
from omni_rt.engine.local.reply import Reply
from omni_rt.engine.local.sight import Sight
from omni_rt.engine.local.slot import Slot
from omni_rt.engine.local.tools import call_text, called, result_text
from omni_rt.engine.local.utterance import Utterance
from omni_rt.engine.local.writer import Writer

log = logging.getLogger(__name__)

_KEPT_MARKS = 16
_KEPT_REPLIES = 32
# Tokens that are read at once while somebody speaks, who may stop at any moment and is to be answered then. What is so
# much more that it takes a while is read in larger pieces, which take less time a token.
_PREFILL_SPEAKING = 4
# Tokens that the next turn of the user may take before the context counts as full.
_USER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class _Remembered:
    """How many turns there were, the open utterance, and whether the camera's view was still to be told."""

    turns: int
    place: Place | None
    fresh: bool


class LocalSession:
    """Implements EngineSession. Made by LocalEngine.open."""

    def __init__(
        self,
        parts: Parts,
        slot: Slot,
        settings: SessionSettings,
        listener: EngineListener,
        on_close: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._slot = slot
        self._listener = listener
        self._on_close = on_close
        self._settings = settings
        self._context = Context(parts.marks, parts.chat.tokenise)
        self._writer = Writer(parts, slot, self._context, listener.on_ending)
        self._marks: OrderedDict[int, _Remembered] = OrderedDict()
        self._serial = 0
        self._turns: dict[Utterance, Turn] = {}
        self._replies: OrderedDict[int, Reply] = OrderedDict()
        self._reply: Reply | None = None
        self._recalling: set[asyncio.Task[None]] = set()
        self._closed = False
        self._ears = Ears(
            parts.recogniser,
            parts.priorities,
            parts.settings.partial_every_ms,
            self._partly,
            self._understood,
            self._failed,
        )
        self._overhearing = Overhearing(parts.recogniser, parts.priorities)
        self._sight = Sight(parts.eyes, parts.priorities, self._news, self._failed) if parts.eyes else None
        self._stale = asyncio.Event()
        self._prefilled = False
        self._partial = ""
        self._prefilling = asyncio.create_task(self._prefill())
        self.configure(settings)

    # -- settings

    def configure(self, settings: SessionSettings) -> None:
        self._parts.check(settings)
        self._settings = settings
        self._writer.settings = settings
        self._context.system = Turn("system", pending=system_text(settings.instructions, settings.tools))
        self._news()

    # -- what comes in

    def append_audio(self, pcm: Pcm) -> None:
        self._ears.append(pcm)

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        check_picture(rgb)
        self._eyes().show(rgb)

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        turn = Turn(role, item_id=item_id)
        self._context.add(turn)
        if role == "user":
            self._tell(turn, text.strip())
        else:
            turn.pending = text.strip()
        self._news()

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        self._context.add(Turn("tool", pending=result_text(output), item_id=item_id))
        self._news()

    def commit(self, item_id: str) -> None:
        turn = Turn("user", item_id=item_id)
        self._context.add(turn)
        self._turns[self._ears.commit(item_id)] = turn

    def discard(self) -> None:
        self._ears.discard()
        self._news()

    # -- places

    def mark(self) -> Mark:
        self._serial += 1
        fresh = self._sight is not None and self._sight.fresh
        self._marks[self._serial] = _Remembered(len(self._context.turns), self._ears.place(), fresh)
        while len(self._marks) > _KEPT_MARKS:
            self._marks.popitem(last=False)
        return Mark(self._serial)

    def rollback(self, mark: Mark) -> None:
        remembered = self._marks.get(mark.serial)
        if remembered is None:
            raise EngineError("unknown_mark", f"mark {mark.serial} was never set, or is void by now")
        for serial in [serial for serial in self._marks if serial > mark.serial]:
            del self._marks[serial]
        dropped = {id(turn) for turn in self._context.turns[remembered.turns :]}
        del self._context.turns[remembered.turns :]
        if self._reply is not None and id(self._reply.turn) in dropped:
            self._stop(self._reply)
        for generation, reply in list(self._replies.items()):
            if id(reply.turn) in dropped:
                del self._replies[generation]
        for utterance, turn in list(self._turns.items()):
            if id(turn) in dropped:
                del self._turns[utterance]
        self._ears.return_to(remembered.place)
        if self._sight is not None:
            self._sight.fresh = self._sight.fresh or remembered.fresh
        self._news()

    # -- replies

    def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        if self._closed:
            raise SessionClosed()
        if self._reply is not None:
            raise EngineError("reply_running", f"reply {self._reply.generation} is still being made; cancel it first")
        turn = Turn("assistant")
        self._context.add(turn)
        reply = self._reply = Reply(options, turn)
        self._replies[reply.generation] = reply
        while len(self._replies) > _KEPT_REPLIES:
            self._replies.popitem(last=False)
        reply.task = asyncio.create_task(self._answer(reply))
        return self._chunks(reply)

    def cancel(self, generation: int) -> None:
        reply = self._reply
        if reply is not None and reply.generation == generation:
            self._stop(reply)

    def keep_heard(self, generation: int, audio_ms: int) -> Awaitable[str]:
        self.cancel(generation)
        reply = self._replies.get(generation)
        text = ""
        if reply is not None:
            text = reply.cut(audio_ms)
            self._news()
        heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        heard.set_result(text)
        return heard

    # -- beside the conversation

    def overhear(self, pcm: Pcm) -> Awaitable[str]:
        return self._overhearing.hear(pcm)

    # -- the whole

    def restore(self, items: Sequence[ContextItem]) -> None:
        if self._reply is not None:
            self._stop(self._reply)
        self._forget()
        self._marks.clear()
        self._replies.clear()
        self._turns.clear()
        self._context.turns.clear()
        for item in items:
            self._take_up(item)
        self._news()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._reply is not None:
            self._stop(self._reply)
        self._prefilling.cancel()
        self._forget()
        self._ears.close()
        self._overhearing.close()
        if self._sight is not None:
            self._sight.close()
        self._on_close()

    @property
    def idle(self) -> bool:
        """Whether all that was heard is understood and the cache holds what the next reply builds on."""
        return self._prefilled and not (self._stale.is_set() or self._ears.busy or self._recalling)

    # -- inside

    def _eyes(self) -> Sight:
        if self._sight is None:
            raise EngineError("no_eyes", "this server does not look at pictures; its setting local.eyes is false")
        return self._sight

    def _tell(self, turn: Turn, said: str) -> None:
        """Make a user's words, behind what the camera shows, the content of `turn`."""
        scene = self._sight.tell() if self._sight is not None else ""
        turn.said, turn.ids, turn.pending = said, [], user_text(scene, said)

    def _forget(self) -> None:
        self._ears.forget()
        for task in self._recalling:
            task.cancel()

    def _take_up(self, item: ContextItem) -> None:
        text = item.text.strip()
        if item.call is not None:
            last = self._context.turns[-1] if self._context.turns else None
            if last is None or last.role != "assistant":
                last = Turn("assistant", item_id=item.id)
                self._context.add(last)
            last.pending += ("\n" if last.pending else "") + call_text(item.call)
            with contextlib.suppress(ValueError):
                last.calls.append(called(item.call))
        elif item.result_of:
            self._context.add(Turn("tool", pending=result_text(item.text), item_id=item.id))
        elif item.role == "user":
            turn = Turn("user", pending=user_text("", text), said=text, item_id=item.id)
            self._context.add(turn)
            if item.images or (not text and item.audio is not None):
                task = asyncio.create_task(self._recall(turn, item))
                self._recalling.add(task)
                task.add_done_callback(self._recalling.discard)
        else:
            self._context.add(Turn(item.role, pending=text, item_id=item.id))

    async def _recall(self, turn: Turn, item: ContextItem) -> None:
        """Look at a restored item's picture and listen to its audio again."""
        scene, text = "", turn.said
        try:
            if item.images and self._sight is not None:
                scene = await self._sight.describe(item.images[-1])
        except EngineError as error:
            self._failed(error)
        if not text and item.audio is not None:
            failed = ""
            try:
                text = await self._ears.transcribe(item.audio)
            except EngineError as error:
                failed = str(error)
            self._listener.on_transcript(Transcript(item.id, text, final=True, error=failed))
        turn.said, turn.ids, turn.pending = text, [], user_text(scene, text)
        self._news()

    def _partly(self, utterance: Utterance) -> None:
        assert utterance.latest is not None
        if utterance.latest.text != self._partial:
            self._partial = utterance.latest.text
            self._listener.on_transcript(Transcript("", self._partial, final=False))
        self._news()

    def _understood(self, utterance: Utterance) -> None:
        turn = self._turns.pop(utterance, None)
        text, self._partial = utterance.final or "", ""
        if turn is not None and text:
            self._tell(turn, text)
        self._listener.on_transcript(Transcript(utterance.item_id, text, final=True, error=utterance.error))
        self._news()

    def _failed(self, error: EngineError) -> None:
        self._listener.on_error(error)

    def _news(self) -> None:
        self._stale.set()

    async def _chunks(self, reply: Reply) -> AsyncIterator[Chunk]:
        try:
            async for chunk in reply.chunks():
                yield chunk
        finally:
            if not reply.ended:
                self.cancel(reply.generation)

    def _stop(self, reply: Reply) -> None:
        reply.end("cancelled")
        if reply.task is not None:
            reply.task.cancel()
        self._done(reply)

    def _done(self, reply: Reply) -> None:
        if self._reply is reply:
            self._reply = None
        self._news()

    async def _answer(self, reply: Reply) -> None:
        try:
            await self._ears.settled()
            while self._recalling:
                await asyncio.wait(self._recalling)
            await self._look_first(reply)
            await self._writer.answer(reply)
        except EngineError as error:
            reply.end("failed", str(error))
        except Exception as error:
            log.exception("a reply failed")
            reply.end("failed", f"{type(error).__name__}: {error}")
        finally:
            self._done(reply)

    async def _look_first(self, reply: Reply) -> None:
        """If the camera shows something else than what is known, the user's last turn is to tell it."""
        if self._sight is not None and await self._sight.settled():
            asked = [turn for turn in self._context.shown(until=reply.turn) if turn.role == "user"]
            if asked:
                self._tell(asked[-1], asked[-1].said)

    async def _prefill(self) -> None:
        """Keep the cache at what the next reply will build on, a few tokens at a time."""
        while True:
            self._prefilled = True
            await self._stale.wait()
            self._stale.clear()
            self._prefilled = False
            try:
                while self._reply is None and await self._prefill_some():
                    pass
            except EngineError as error:
                self._failed(error)
            except Exception as error:
                log.exception("prefilling failed")
                self._failed(EngineError("prefill_failed", f"{type(error).__name__}: {error}"))

    async def _prefill_some(self) -> bool:
        """Whether there may be more to do. When a pause begins the cores are left to those that hear what it is."""
        open_utterance = self._ears.utterance
        if open_utterance is not None and open_utterance.fading:
            return False
        if open_utterance is None and not self._turns:
            await self._writer.make_room(_USER_TOKENS + self._parts.settings.max_reply_tokens)
        expected, _ = await self._expected()
        if len(expected) >= self._parts.chat.context_tokens or not self._slot.missing(expected):
            return False
        async with self._parts.priorities.turn(Work.PREFILL), self._slot.lock:
            expected, judge = await self._expected()
            if self._reply is None and self._slot.missing(expected):
                ends = self._context.marks.end if judge else None
                speaking = self._ears.utterance is not None and not self._ears.utterance.complete
                few = speaking and self._slot.missing(expected) <= PREFILL_TOKENS
                most = _PREFILL_SPEAKING if few else PREFILL_TOKENS
                evaluated = await self._slot.advance(expected, most, judge=ends)
                if self._reply is not None:
                    self._reply.evaluated_tokens += evaluated
        return True

    async def _expected(self) -> tuple[list[int], bool]:
        """The prompt of the next reply, as far as it can be told; and whether it breaks off where its ending is to be
        judged, after the words of what may be a whole utterance."""
        context = self._context
        utterance = self._ears.utterance or next(iter(self._turns), None)
        scene = self._sight.scene if self._sight is not None else ""
        if utterance is not None and utterance.latest is not None and utterance.complete:
            turn = Turn("user", pending=user_text(scene, utterance.latest.text))
            if utterance.latest.text and self._slot.missing(words := await context.unended(turn)):
                return words, True
            ids = [*await context.ids(turn), *context.marks.assistant]
        elif utterance is None and (shown := context.shown()) and shown[-1].role in ("user", "tool"):
            ids = [*await context.ids(), *context.marks.assistant]
        else:
            turn = Turn("user", pending=user_text(scene, utterance.expected if utterance is not None else ""))
            return [*await context.ids(), *await context.opened(turn)], False
        return ids[:-1], False  # the last token is read again anyway, to choose the next one
