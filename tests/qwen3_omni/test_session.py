"""The engine's contract, call by call, on tiny random weights: order, turning back, replies beside everything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pytest

from omni_rt.config import Settings, cache_dir, validate
from omni_rt.engine.api import (
    AudioDelta,
    Chunk,
    ContextItem,
    Ending,
    EngineError,
    EngineLost,
    Mark,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
    Tool,
    ToolCall,
    Transcript,
)
from omni_rt.engine.qwen3_omni import engine as engines
from omni_rt.engine.qwen3_omni import scheduler
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.engine.qwen3_omni.session import QwenSession
from omni_rt.models.store import ModelStore
from tests.qwen3_omni.qwen_tokenizer import tokenizer
from tests.qwen3_omni.small_engine import all_free, ids, sound, tiny

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("brief")]

T = TypeVar("T")

TOOL = Tool("look_up", "Looks a word up.", {"type": "object", "properties": {"word": {"type": "string"}}})


def settings() -> Settings:
    return validate(
        {
            "engine": {"kind": "qwen3_omni"},
            "qwen": {"weights": "random:tiny", "device": "cpu", "context_tokens": 1024, "max_reply_tokens": 64},
            "server": {"max_sessions": 2},
        }
    )


def _share(patch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded twice."""
    patch.setattr(engines, "load", lambda *_, **__: tiny())
    patch.setattr(QwenEngine, "_tokenizer", lambda *_: tokenizer())


@pytest.fixture(scope="module")
def engine() -> Iterator[QwenEngine]:
    """Not held back by how fast a reply is heard."""
    patch = pytest.MonkeyPatch()
    patch.setattr(scheduler, "AHEAD_S", 1e9)
    _share(patch)
    engine = QwenEngine(settings(), ModelStore(cache_dir()))
    asyncio.run(engine.start())
    yield engine
    asyncio.run(engine.close())
    patch.undo()


@dataclass
class Listener:
    transcripts: list[Transcript] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)

    def on_transcript(self, transcript: Transcript) -> None:
        self.transcripts.append(transcript)

    def on_ending(self, ending: Ending) -> None:
        self.endings.append(ending)

    def on_error(self, error: EngineError) -> None:
        self.errors.append(error)

    def on_lost(self, error: EngineLost) -> None:
        raise error


class Caller:
    """A session with its listener, and what tests ask of both."""

    def __init__(self, session: QwenSession, listener: Listener) -> None:
        self.session = session
        self.listener = listener
        self.generation = 0

    async def ask(self, question: Callable[[Conversation], T]) -> T:
        """Something about the conversation, asked behind all calls made so far, on the thread that owns it."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()

        def put() -> None:
            given = question(self.session._conversation)
            loop.call_soon_threadsafe(answered.set_result, given)

        self.session._parts.scheduler.post(put)
        return await asyncio.wait_for(answered, 30)

    async def at_rest(self) -> None:
        """Everything is prefilled, written down and told."""
        while await self.ask(lambda conversation: conversation.deadline(0.0)) is not None:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)

    async def turns(self) -> list[str]:
        """The roles of the turns that hold something."""
        return await self.ask(lambda conversation: [turn.role for turn in conversation.context.turns if len(turn)])

    def respond(self, **options: Any) -> Reply:
        self.generation += 1
        return Reply(self.session.respond(RespondOptions(self.generation, **options)), self.generation)


class Reply:
    """Reads one reply's chunks in the background."""

    def __init__(self, chunks: AsyncIterator[Chunk], generation: int) -> None:
        self.generation = generation
        self.chunks: list[Chunk] = []
        self._some = asyncio.Event()
        self._task = asyncio.create_task(self._read(chunks))

    async def _read(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            self.chunks.append(chunk)
            self._some.set()

    async def audible(self) -> None:
        while not self.frames:
            assert not self._task.done()
            self._some.clear()
            await asyncio.wait_for(self._some.wait(), 30)

    async def whole(self) -> Reply:
        await asyncio.wait_for(self._task, 60)
        assert [isinstance(chunk, ReplyEnd) for chunk in self.chunks] == [False] * (len(self.chunks) - 1) + [True]
        assert {chunk.generation for chunk in self.chunks} == {self.generation}
        return self

    @property
    def end(self) -> ReplyEnd:
        last = self.chunks[-1]
        assert isinstance(last, ReplyEnd)
        return last

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks if isinstance(chunk, TextDelta))

    @property
    def frames(self) -> list[AudioDelta]:
        return [chunk for chunk in self.chunks if isinstance(chunk, AudioDelta)]


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    loop.call_soon_threadsafe(function)


Open = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def opened(engine: QwenEngine, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Open]:
    """Opens sessions; closes them and sees that nothing failed unseen and that all their memory came back."""
    callers: list[Caller] = []

    async def open_one(instructions: str = "Be brief.", tools: tuple[Tool, ...] = ()) -> Caller:
        listener = Listener()
        session = await engine.open("test", SessionSettings(instructions, tools), listener)
        callers.append(Caller(session, listener))
        return callers[-1]

    with caplog.at_level(logging.ERROR):
        yield open_one
    for caller in callers:
        caller.session.close()
        caller.session.close()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    assert engine._parts is not None
    engine._parts.scheduler.post(partial(_call, loop, done.set))
    await asyncio.wait_for(done.wait(), 60)
    assert all_free(engine._parts)
    assert not caplog.records


@pytest.fixture
async def caller(opened: Open) -> Caller:
    return await opened()


# -- replies


async def test_sound_and_text_of_a_reply_are_the_same_reply(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = await caller.respond(max_tokens=3).whole()
    assert reply.end.reason in ("completed", "max_tokens")
    assert "".join(frame.text for frame in reply.frames) == reply.text
    assert len(reply.text) > 0
    samples = sum(len(frame.pcm) for frame in reply.frames)
    assert samples > 0
    assert samples % 1920 == 0
    usage = reply.end.usage
    assert usage.output_audio_ms == 80 * samples // 1920
    assert usage.output_tokens == 3 if reply.end.reason == "max_tokens" else usage.output_tokens < 3
    assert 0 < usage.evaluated_tokens <= usage.input_tokens


async def test_only_what_is_missing_is_evaluated(caller: Caller) -> None:
    caller.session.append_text("Hello " * 40, "user", "a")
    await caller.at_rest()
    usage = (await caller.respond(audio=False, max_tokens=1).whole()).end.usage
    assert usage.evaluated_tokens == len(caller.session._parts.prompt.assistant_open)
    assert usage.input_tokens > 40 + usage.evaluated_tokens
    assert usage.output_audio_ms == 0


async def test_a_reply_without_audio_has_none(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = await caller.respond(audio=False, max_tokens=3).whole()
    assert not reply.frames
    assert reply.text


async def test_one_reply_at_a_time(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    first = caller.respond(max_tokens=2)
    second = caller.respond(max_tokens=2)
    await second.whole()
    assert second.end.reason == "failed"
    assert second.end.error.startswith("reply_running")
    await first.whole()
    assert first.end.reason != "failed"
    third = await caller.respond(audio=False, max_tokens=1).whole()
    assert third.end.reason == "max_tokens"


async def test_cancelling_stops_the_reply_and_no_other(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=60)
    caller.session.cancel(reply.generation + 5)
    await reply.audible()
    caller.session.cancel(reply.generation)
    caller.session.cancel(reply.generation)
    await reply.whole()
    assert reply.end.reason == "cancelled"
    assert await caller.turns() == ["system", "user", "assistant"]


async def test_a_reader_who_leaves_cancels(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    chunks = caller.session.respond(RespondOptions(1, max_tokens=60))
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    assert await caller.ask(lambda conversation: conversation._reply) is None


async def test_what_was_heard_can_be_said_again_with_more_or_less(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=6, temperature=0.0)
    heard = [await caller.session.keep_heard(7, 100)]
    assert heard == [""]
    await reply.whole()
    length = reply.end.usage.output_audio_ms
    heard = [await caller.session.keep_heard(1, ms) for ms in (length, 0, length // 2, length, -5, 10 * length)]
    assert heard[0] == heard[3] == heard[5] == reply.text.strip()
    assert heard[1] == heard[4] == ""
    assert reply.text.strip().startswith(heard[2])
    assert await caller.turns() == ["system", "user", "assistant"]
    await caller.session.keep_heard(1, 0)
    assert await caller.turns() == ["system", "user"]


async def test_what_was_heard_stops_a_reply_that_is_made(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=60)
    await reply.audible()
    heard = caller.session.keep_heard(reply.generation, 0)
    await reply.whole()
    assert reply.end.reason == "cancelled"
    assert await heard == ""
    assert await caller.turns() == ["system", "user"]


async def test_an_older_reply_is_cut_while_a_newer_one_is_made(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    old = await caller.respond(max_tokens=6).whole()
    caller.session.append_text("Go on", "user", "b")
    new = caller.respond(max_tokens=12)
    await new.audible()
    assert await caller.session.keep_heard(old.generation, 0) == ""
    assert await caller.turns() == ["system", "user", "assistant", "user", "assistant"]
    await new.whole()
    assert new.end.reason in ("completed", "max_tokens")
    assert await caller.turns() == ["system", "user", "user", "assistant"]
    await caller.session.keep_heard(old.generation, 10**6)
    assert await caller.turns() == ["system", "user", "assistant", "user", "assistant"]


async def test_settings_change_behind_the_reply_that_is_made(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=12)
    await reply.audible()
    before = await caller.ask(lambda conversation: ids(conversation.context))
    caller.session.configure(SessionSettings("Answer in rhymes only."))
    assert await caller.ask(lambda conversation: ids(conversation.context)[: len(before)]) == before
    await reply.whole()
    assert reply.end.reason in ("completed", "max_tokens")
    system = caller.session._parts.prompt.system("Answer in rhymes only.")
    await caller.at_rest()
    assert await caller.ask(lambda conversation: ids(conversation.context)[: len(system)]) == list(system)
    assert await caller.ask(lambda conversation: conversation.context.missing) == 0


async def test_the_same_settings_again_cost_nothing(caller: Caller) -> None:
    caller.session.append_audio(sound(1.5))
    caller.session.commit("a")
    await caller.at_rest()
    computed = await caller.ask(lambda conversation: conversation.context.computed)
    caller.session.configure(SessionSettings("Be brief."))
    await caller.at_rest()
    assert await caller.ask(lambda conversation: conversation.context.computed) == computed


async def test_instructions_of_one_reply_leave_nothing_behind(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(audio=False, max_tokens=1, instructions="Rhyme.", tools=(TOOL,))
    await reply.whole()
    plain = len(caller.session._parts.prompt.turn("user", "Hello"))
    assert reply.end.usage.input_tokens > plain + 60
    assert await caller.turns() == ["system", "user", "assistant"]


async def test_a_forced_call_begins_as_one(opened: Open) -> None:
    caller = await opened(tools=(TOOL,))
    caller.session.append_text("What is a newt?", "user", "a")
    reply = await caller.respond(audio=False, max_tokens=12, tool_choice="look_up").whole()
    assert reply.text == ""
    prompt = caller.session._parts.prompt
    assert reply.end.usage.output_tokens >= min(12, len(prompt.forced_prefix("look_up", (TOOL,))))
    # random weights make no call of it, so history does not hold the beginning of one
    assert await caller.turns() == ["system", "user"]


async def test_what_cannot_be_answered_is_refused_by_name(caller: Caller, engine: QwenEngine) -> None:
    with pytest.raises(EngineError, match="Ethan") as error:
        await engine.open("other", SessionSettings(voice="nobody"), Listener())
    assert error.value.code == "unknown_voice"
    with pytest.raises(EngineError) as error:
        caller.session.respond(RespondOptions(1, tools=(TOOL,), tool_choice="nothing"))
    assert error.value.code == "unknown_tool"
    with pytest.raises(EngineError) as error:
        caller.session.append_image(np.zeros((0, 5, 3), np.uint8), 0)
    reply = await caller.respond(tool_choice="required").whole()
    assert reply.end.reason == "failed"
    assert reply.end.error.startswith("no_tools")
    reply = await caller.respond(temperature=-1.0).whole()
    assert reply.end.reason == "failed"
    assert "temperature" in reply.end.error
    assert (await caller.respond(audio=False, max_tokens=1).whole()).end.reason == "max_tokens"


async def test_more_sessions_than_places(opened: Open, engine: QwenEngine) -> None:
    first, _ = await opened(), await opened()
    with pytest.raises(EngineError) as error:
        await engine.open("third", SessionSettings(), Listener())
    assert error.value.code == "busy"
    first.session.close()
    await opened()


# -- beside a reply


async def test_what_comes_during_a_reply_comes_behind_it(caller: Caller) -> None:
    session = caller.session
    session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=12)
    await reply.audible()
    session.append_audio(sound(0.7))
    session.append_tool_result("c", "found", "b")
    session.append_image(np.zeros((64, 64, 3), np.uint8), 0)
    session.commit("said")
    session.append_text("And this", "user", "d")
    assert (await caller.turns())[-1] == "assistant"
    await reply.whole()
    assert reply.end.reason in ("completed", "max_tokens")
    await caller.at_rest()
    told = await caller.ask(lambda conversation: [turn.item_id for turn in conversation.context.turns])
    assert told == ["", "a", "", "b", "said", "d"]
    assert [transcript.item_id for transcript in caller.listener.transcripts] == ["said"]


async def test_speech_that_goes_on_is_answered_next(caller: Caller) -> None:
    caller.session.append_audio(sound(0.7))
    reply = await caller.respond(max_tokens=1).whole()
    assert reply.end.reason == "max_tokens"
    assert await caller.turns() == ["system", "assistant", "user"]
    caller.session.append_audio(sound(0.7))
    caller.session.commit("said")
    await caller.at_rest()
    seconds = await caller.ask(lambda conversation: sum(i == 151675 for i in ids(conversation.context)) / 13)
    assert 1.3 < seconds < 1.5


async def test_what_is_written_while_somebody_speaks_comes_before_it(caller: Caller) -> None:
    caller.session.append_audio(sound(0.3))
    caller.session.append_text("Look", "user", "text")
    caller.session.append_tool_result("c", "found", "result")
    caller.session.append_tool_result("c", "found too", "another")
    caller.session.commit("said")
    told = await caller.ask(lambda conversation: [turn.item_id for turn in conversation.context.turns])
    assert told == ["", "text", "another", "said"]


async def test_closing_ends_the_reply(opened: Open) -> None:
    caller = await opened()
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=60)
    await reply.audible()
    heard = caller.session.keep_heard(99, 10)
    caller.session.close()
    await reply.whole()
    assert reply.end.reason == "cancelled"
    assert await asyncio.wait_for(heard, 30) == ""
    assert await asyncio.wait_for(caller.session.keep_heard(reply.generation, 10), 30) == ""
    caller.session.append_text("Nobody hears this", "user", "b")
    with pytest.raises(EngineError) as error:
        caller.session.respond(RespondOptions(9))
    assert error.value.code == "session_closed"


async def test_closing_the_engine_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    _share(monkeypatch)
    engine = QwenEngine(settings(), ModelStore(cache_dir()))
    await engine.start()
    caller = Caller(await engine.open("test", SessionSettings(), Listener()), Listener())
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=60)
    await reply.audible()
    heard = caller.session.keep_heard(99, 10)
    await engine.close()
    await engine.close()
    await reply.whole()
    assert reply.end.reason == "cancelled"
    assert await asyncio.wait_for(heard, 30) == ""
    with pytest.raises(EngineError):
        await engine.open("test", SessionSettings(), Listener())


# -- transcripts


async def test_every_commit_is_followed_by_its_transcript(caller: Caller) -> None:
    caller.session.commit("nothing")
    caller.session.append_audio(sound(0.005))
    caller.session.commit("a click")
    caller.session.append_audio(sound(0.8))
    caller.session.commit("something")
    await caller.at_rest()
    assert [(t.item_id, t.final) for t in caller.listener.transcripts] == [
        ("nothing", True),
        ("a click", True),
        ("something", True),
    ]
    assert [t.text for t in caller.listener.transcripts[:2]] == ["", ""]
    assert caller.listener.transcripts[2].text
    assert await caller.turns() == ["system", "user"]


async def test_a_transcript_leaves_nothing_behind(caller: Caller) -> None:
    caller.session.append_audio(sound(0.8))
    caller.session.commit("said")
    await caller.at_rest()
    computed, rows = await caller.ask(lambda conversation: (conversation.context.computed, conversation.context.rows))
    assert computed == rows
    reply = await caller.respond(audio=False, max_tokens=1).whole()
    assert reply.end.usage.evaluated_tokens == len(caller.session._parts.prompt.assistant_open)


# -- beside the conversation


async def test_a_clip_is_overheard_beside_a_reply(caller: Caller) -> None:
    session = caller.session
    session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=8)
    heard = session.overhear(sound(0.5))
    forgotten = asyncio.ensure_future(session.overhear(sound(3.0)))
    await asyncio.sleep(0.01)
    forgotten.cancel()
    assert isinstance(await asyncio.wait_for(heard, 30), str)
    await reply.whole()
    assert reply.end.reason in ("completed", "max_tokens")
    assert await caller.turns() == ["system", "user", "assistant"]
    for clip in (sound(0.05), sound(3.1), sound(0.5).astype(np.float32)):
        with pytest.raises(EngineError) as error:
            await session.overhear(clip)
        assert error.value.code == "bad_clip"
    assert not caller.listener.errors
    assert not caller.listener.transcripts


async def test_closing_ends_what_is_overheard(opened: Open) -> None:
    caller = await opened()
    heard = caller.session.overhear(sound(3.0))
    caller.session.close()
    for asked in (heard, caller.session.overhear(sound(0.5))):
        with pytest.raises(EngineError) as error:
            await asyncio.wait_for(asked, 30)
        assert error.value.code == "session_closed"


# -- places


async def test_an_utterance_open_at_the_mark_is_open_again(caller: Caller) -> None:
    session = caller.session
    session.append_audio(sound(1.2, 1))
    mark = session.mark()
    session.commit("guess")
    reply = caller.respond(max_tokens=60)
    await reply.audible()
    session.rollback(mark)
    await reply.whole()
    assert reply.end.reason == "cancelled"
    session.append_audio(sound(1.2, 2))
    session.commit("said")
    await caller.at_rest()
    assert [transcript.item_id for transcript in caller.listener.transcripts if transcript.item_id != "guess"] == [
        "said"
    ]
    assert await caller.turns() == ["system", "user"]
    tokens = await caller.ask(lambda conversation: sum(i == 151675 for i in ids(conversation.context)))
    assert tokens == 26 + 5
    assert await session.keep_heard(reply.generation, 1000) == ""
    assert not caller.listener.errors


async def test_marks_behind_the_one_turned_back_to_are_void(caller: Caller) -> None:
    session = caller.session
    marks = [session.mark()]
    for number in range(3):
        session.append_text("words", "user", f"item {number}")
        marks.append(session.mark())
    session.rollback(marks[1])
    session.rollback(marks[1])
    session.rollback(marks[2])
    session.rollback(Mark(99))
    assert await caller.turns() == ["system", "user"]
    assert [error.code for error in caller.listener.errors] == ["unknown_mark"] * 2
    session.rollback(marks[0])
    assert await caller.turns() == ["system"]


async def test_a_mark_set_during_a_reply_keeps_the_reply(caller: Caller) -> None:
    session = caller.session
    session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=12)
    await reply.audible()
    session.append_audio(sound(0.5))
    mark = session.mark()
    session.append_text("and", "user", "b")
    session.commit("said")
    session.rollback(mark)
    await reply.whole()
    assert reply.end.reason in ("completed", "max_tokens")
    session.commit("said after all")
    await caller.at_rest()
    told = await caller.ask(lambda conversation: [turn.item_id for turn in conversation.context.turns])
    assert told == ["", "a", "", "said after all"]


async def test_discarded_speech_was_never_said(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    await caller.at_rest()
    rows = await caller.ask(lambda conversation: conversation.context.rows)
    caller.session.append_audio(sound(1.5))
    caller.session.discard()
    caller.session.discard()
    await caller.at_rest()
    assert await caller.ask(lambda conversation: conversation.context.rows) == rows
    assert not caller.listener.transcripts


# -- the whole


async def test_restoring_reuses_what_agrees(caller: Caller) -> None:
    session = caller.session
    session.append_audio(sound(3.0))
    session.commit("said")
    session.append_text("And this", "user", "text")
    await caller.at_rest()
    computed, rows = await caller.ask(lambda conversation: (conversation.context.computed, conversation.context.rows))
    said = ContextItem("said", "user", "as understood", sound(3.0))
    session.restore([said, ContextItem("text", "user", "And that"), ContextItem("answer", "assistant", "Yes.")])
    await caller.at_rest()
    again = await caller.ask(lambda conversation: conversation.context.computed)
    assert again - computed < 20 < rows
    assert await caller.turns() == ["system", "user", "user", "assistant"]
    assert len(caller.listener.transcripts) == 1
    session.restore([])
    assert await caller.turns() == ["system"]


async def test_what_is_restored_without_words_is_written_down(caller: Caller) -> None:
    session = caller.session
    session.append_audio(sound(1.0))
    session.commit("removed")
    session.append_audio(sound(1.1))
    session.commit("kept")
    session.restore([ContextItem("kept", "user", "", sound(1.1)), ContextItem("other", "user", "", sound(1.2))])
    await caller.at_rest()
    told = [transcript.item_id for transcript in caller.listener.transcripts]
    assert sorted(told) == ["kept", "other", "removed"]
    assert not next(t for t in caller.listener.transcripts if t.item_id == "removed").text


async def test_calls_are_restored_into_the_turn_that_made_them(caller: Caller) -> None:
    call = ToolCall("c", "look_up", '{"word": "newt"}')
    items = [
        ContextItem("a", "user", "What is a newt?"),
        ContextItem("b", "assistant", "Let me see."),
        ContextItem("c", "assistant", call=call),
        ContextItem("d", "user", "an animal", result_of="c"),
        ContextItem("e", "user", "a word", result_of="c"),
        ContextItem("f", "assistant", ""),
        ContextItem("g", "assistant", "An animal."),
    ]
    caller.session.restore(items)
    parts = caller.session._parts
    written = await caller.ask(lambda conversation: parts.tokenizer.decode(ids(conversation.context)))
    assert written.count("assistant\n") == 2
    assert "Let me see.\n<tool_call>\n" in written
    assert await caller.turns() == ["system", "user", "assistant", "user", "assistant"]


async def test_restoring_ends_the_reply(caller: Caller) -> None:
    caller.session.append_text("Hello", "user", "a")
    reply = caller.respond(max_tokens=60)
    await reply.audible()
    caller.session.restore([ContextItem("a", "user", "Hello")])
    await reply.whole()
    assert reply.end.reason == "cancelled"
    assert await caller.turns() == ["system", "user"]
