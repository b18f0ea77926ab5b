"""The whole engine with its real models; the small chat model, as only what is built around it is tested."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import jsonschema
import numpy as np
import pytest
import pytest_asyncio

from omni_rt.client.words import edits, normalise, word_error_rate
from omni_rt.config import Settings, cache_dir, validate
from omni_rt.engine.api import (
    ContextItem,
    EngineError,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
    Tool,
    ToolCall,
)
from omni_rt.engine.local.engine import LocalEngine
from omni_rt.engine.local.session import LocalSession
from omni_rt.engine.witness import WitnessedEngine
from omni_rt.models.manifest import CHAT_SMALL
from omni_rt.models.store import ModelStore
from tests.support.local import Listener, Made, at_rest, collect, hear, photo, sign, spoken, to_input_rate
from tests.support.scripted import ScriptedEngine
from tests.support.server import THREADS
from tests.support.speech import clip, silence

pytestmark = [pytest.mark.models, pytest.mark.asyncio(loop_scope="module")]

WEATHER = Tool(
    "get_weather",
    "Tells the weather of a city",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
BOOK = Tool(
    "book_room",
    "Books a meeting room for guests",
    {
        "type": "object",
        "properties": {
            "room": {"enum": ["red", "blue"]},
            "time": {"$ref": "#/$defs/time"},
            "guests": {"type": "array", "items": {"$ref": "#/$defs/guest"}, "minItems": 1, "maxItems": 2},
        },
        "required": ["room", "time", "guests"],
        "$defs": {
            "time": {"type": "string", "pattern": "^(morning|noon)$"},
            "guest": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        },
    },
)
WHOLE = (
    "What is the capital of France?",
    "I would like to know what time it is.",
    "Turn off the lights in the kitchen.",
)
BROKEN_OFF = ("What is the capital of", "I would like to know what", "Turn off the lights in the.")
LONG_QUESTION = "Tell me a long story about a dragon that lives in a mountain."

Open = Callable[..., Awaitable[tuple[LocalSession, Listener]]]


def settings() -> Settings:
    sizes = {"context_tokens": 1024, "max_reply_tokens": 48, "threads": THREADS}
    return validate({"local": {"chat_model": CHAT_SMALL, "temperature": 0.0, **sizes}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(settings(), ModelStore(cache_dir()))
    await engine.start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def open_session(engine: LocalEngine) -> AsyncIterator[Open]:
    sessions: list[LocalSession] = []

    async def make(instructions: str = "", tools: tuple[Tool, ...] = ()) -> tuple[LocalSession, Listener]:
        listener = Listener()
        session = await engine.open("test", SessionSettings(instructions, tools), listener)
        sessions.append(session)
        await at_rest(session)
        return session, listener

    yield make
    for session in sessions:
        session.close()


async def ask(session: LocalSession, generation: int, text: str = "", **options: object) -> Made:
    if text:
        session.append_text(text, "user", f"item_{generation}")
    return await collect(session.respond(RespondOptions(generation, **options)))  # type: ignore[arg-type]


async def prompt(session: LocalSession) -> list[int]:
    """What the model would read; its answers alone could differ, as numbers do with the size of a batch."""
    return await session._context.ids()


async def test_a_reply_is_text_and_its_sound(open_session: Open) -> None:
    session, _ = await open_session()
    made = await ask(session, 7, "What is the capital of France?")
    assert "Paris" in made.text
    assert "".join(chunk.text for chunk in made.audio) == made.text
    assert {chunk.generation for chunk in (*made.audio, made.end)} == {7}
    assert made.end.reason == "completed"
    assert made.end.usage.output_tokens > 0
    assert abs(made.end.usage.output_audio_ms - len(made.sound) / 24) < 2


async def test_the_sound_says_the_text(engine: LocalEngine, open_session: Open) -> None:
    session, listener = await open_session()
    made = await ask(session, 1, "Why is the sky blue?")
    hear(session, to_input_rate(made.sound))
    session.commit("echo")
    await at_rest(session)
    assert word_error_rate(made.text, listener.finals["echo"]) < 0.25


async def test_each_reply_evaluates_only_what_is_new(open_session: Open) -> None:
    session, listener = await open_session()
    names = ("goforward", "something", "card5", "lv_0880", "card1", "lv_0930")
    inputs = []
    for generation, name in enumerate(names):
        hear(session, np.concatenate([clip(name).pcm, silence(0.2)]))
        if generation % 2:
            await at_rest(session)
        session.commit(name)
        usage = (await ask(session, generation)).end.usage
        inputs.append(usage.input_tokens)
        # what was read while the user was still speaking costs nothing; otherwise it is the utterance and its frame
        assert usage.evaluated_tokens <= (2 if generation % 2 else 40), (name, usage)
        await at_rest(session)
        assert normalise(listener.finals[name]), name
    assert inputs == sorted(inputs)
    assert inputs[-1] > 200


async def test_words_come_while_the_user_speaks(open_session: Open) -> None:
    session, listener = await open_session()
    pcm = clip("lv_0920").pcm
    for start in range(0, len(pcm), 4800):
        hear(session, pcm[start : start + 4800])
        await at_rest(session)
    session.commit("said")
    await at_rest(session)
    assert len(listener.partials) >= 4
    assert len(listener.partials[1]) < len(listener.finals["said"]) / 2
    assert word_error_rate(clip("lv_0920").words, listener.finals["said"]) < 0.1


async def test_what_is_no_speech_is_understood_as_nothing(open_session: Open) -> None:
    session, listener = await open_session()
    hear(session, np.random.default_rng(0).normal(0, 800, 24_000).astype(np.int16))
    session.commit("noise")
    session.append_audio(silence(0))
    session.commit("nothing")
    session.discard()
    await at_rest(session)
    assert listener.finals == {"noise": "", "nothing": ""}
    assert "Paris" in (await ask(session, 1, "What is the capital of France?")).text
    assert listener.errors == []


async def test_discarded_speech_leaves_no_trace(open_session: Open) -> None:
    session, listener = await open_session()
    hear(session, clip("card5").pcm)
    session.discard()
    hear(session, clip("goforward").pcm)
    session.commit("kept")
    await at_rest(session)
    assert normalise(listener.finals["kept"]) == normalise(clip("goforward").words)


async def test_going_back_is_as_if_it_had_not_been(open_session: Open) -> None:
    session, _ = await open_session()
    await ask(session, 1, "My name is Anna.")
    mark = session.mark()
    await ask(session, 2, "Tell me about the moon.")
    session.append_text("And about cats.", "user", "more")
    session.rollback(mark)
    after = await ask(session, 3, "Name the capital of Italy.")
    session.rollback(mark)
    again = await ask(session, 4, "Name the capital of Italy.")
    assert after.text == again.text
    assert after.end.usage.input_tokens == again.end.usage.input_tokens
    straight, _ = await open_session()
    await ask(straight, 1, "My name is Anna.")
    assert (await ask(straight, 2, "Name the capital of Italy.")).text == after.text


async def test_a_speculative_reply_is_taken_back_with_its_utterance(open_session: Open) -> None:
    session, listener = await open_session()
    pcm = clip("beckett").pcm
    hear(session, pcm[:80_000])
    mark = session.mark()
    session.commit("first")
    chunks = session.respond(RespondOptions(1))
    assert isinstance(await anext(chunks), TextDelta)
    session.cancel(1)
    session.rollback(mark)
    end = [chunk async for chunk in chunks][-1]
    assert isinstance(end, ReplyEnd)
    assert end.reason == "cancelled"
    hear(session, pcm[80_000:])
    session.commit("second")
    made = await ask(session, 2)
    assert made.end.reason == "completed"
    assert word_error_rate(clip("beckett").words, listener.finals["second"]) < 0.2


async def test_marks_after_the_one_returned_to_are_void(open_session: Open) -> None:
    session, _ = await open_session()
    first, second = session.mark(), session.mark()
    session.rollback(first)
    with pytest.raises(EngineError, match="void"):
        session.rollback(second)


async def test_cancelling_ends_the_reply_at_once_and_the_session_goes_on(open_session: Open) -> None:
    session, _ = await open_session()
    session.append_text(LONG_QUESTION, "user", "story")
    chunks = session.respond(RespondOptions(1))
    text = ""
    async for chunk in chunks:
        if isinstance(chunk, TextDelta):
            text += chunk.text
        if len(text) > 20:
            session.cancel(1)
            break
    rest = [chunk async for chunk in chunks]
    assert isinstance(rest[-1], ReplyEnd)
    assert rest[-1].reason == "cancelled"
    assert rest[-1].usage.output_tokens < 40
    assert "Paris" in (await ask(session, 2, "What is the capital of France?")).text
    session.respond(RespondOptions(3))
    with pytest.raises(EngineError) as refused:
        session.respond(RespondOptions(4))
    assert refused.value.code == "reply_running"


async def test_a_reply_nobody_reads_on_is_cancelled(open_session: Open) -> None:
    session, _ = await open_session()
    session.append_text(LONG_QUESTION, "user", "story")
    chunks = session.respond(RespondOptions(1))
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    assert (await ask(session, 2, "Say yes.")).end.reason == "completed"


async def test_only_what_was_heard_is_remembered(open_session: Open) -> None:
    session, listener = await open_session()
    question = "Count from one to twelve in words."
    made = await ask(session, 1, question)
    written = normalise(made.text)
    for share in (0.25, 0.5, 0.8):
        heard_ms = round(len(made.sound) / 24 * share)
        kept = normalise(await session.keep_heard(1, heard_ms))
        assert kept == written[: len(kept)]
        assert 0 < len(kept) < len(written)
        sound = np.concatenate([to_input_rate(made.sound[: heard_ms * 24]), silence(0.5)])
        hear(session, sound)
        session.commit(f"echo {share}")
        await at_rest(session)
        assert edits(kept, normalise(listener.finals[f"echo {share}"])) <= 2
    fresh, _ = await open_session()
    kept_text = await session.keep_heard(1, heard_ms)
    fresh.restore([_item("u", "user", question), _item("a", "assistant", kept_text)])
    lived, _ = await open_session()
    assert (await ask(lived, 1, question)).text == made.text
    assert await lived.keep_heard(1, heard_ms) == kept_text
    assert await prompt(lived) == await prompt(fresh)


async def test_a_reply_of_which_nothing_was_heard_is_forgotten(open_session: Open) -> None:
    session, _ = await open_session()
    mark = session.mark()
    session.append_text("What is the capital of France?", "user", "q")
    before = (await ask(session, 1)).end.usage.input_tokens
    assert await session.keep_heard(1, 0) == ""
    assert (await ask(session, 2)).end.usage.input_tokens == before
    assert await session.keep_heard(99, 1000) == ""
    session.rollback(mark)


async def test_restored_items_equal_a_conversation_lived_through(open_session: Open) -> None:
    session, _ = await open_session()
    questions = ("My name is Anna.", "Name the capital of Italy.")
    items = []
    for generation, question in enumerate(questions):
        made = await ask(session, generation, question)
        items += [_item(f"u{generation}", "user", question), _item(f"a{generation}", "assistant", made.text)]
    await at_rest(session)
    before = await prompt(session)
    expected = await ask(session, 8, "And of Spain?")
    session.restore(items)
    await at_rest(session)
    restored = await prompt(session)
    again = await ask(session, 9, "And of Spain?")
    assert again.text == expected.text
    assert before == restored
    assert again.end.usage.evaluated_tokens <= 12, "the cache agrees with what is restored"


async def test_speech_and_pictures_are_restored(open_session: Open) -> None:
    session, listener = await open_session()
    audio, picture = clip("goforward").pcm, photo("cat")
    session.restore([ContextItem("said", "user", audio=audio, images=(picture,)), _item("a", "assistant", "I will.")])
    session.append_text("What animal did the camera show?", "user", "q")
    assert "cat" in (await ask(session, 1)).text.lower()
    assert normalise(listener.finals["said"]) == normalise(clip("goforward").words)


async def test_a_clip_is_overheard_beside_a_reply_and_changes_nothing(open_session: Open) -> None:
    question = "Count from one to twelve in words."
    alone, _ = await open_session()
    expected = await ask(alone, 1, question)
    session, listener = await open_session()
    session.append_text(question, "user", "q")
    chunks = session.respond(RespondOptions(1))
    begun = await anext(chunks)
    assert normalise(await session.overhear(spoken("Stop."))) == ["stop"]
    assert await session.overhear(silence(0.3)) == ""
    forgotten = asyncio.ensure_future(session.overhear(spoken("Hold on.")))
    await asyncio.sleep(0)
    forgotten.cancel()
    made = await collect(chunks)
    assert isinstance(begun, TextDelta)
    assert begun.text + made.text == expected.text
    assert made.end.reason == "completed"
    assert await prompt(session) == await prompt(alone)
    assert (listener.partials, listener.finals, listener.errors) == ([], {}, [])
    for clip_ms in (50, 3100):
        with pytest.raises(EngineError) as bad:
            await session.overhear(silence(clip_ms / 1000))
        assert bad.value.code == "bad_clip"
    waiting = session.overhear(spoken("Hold on."))
    session.close()
    for asked in (waiting, session.overhear(silence(0.3))):
        with pytest.raises(EngineError) as closed:
            await asked
        assert closed.value.code == "session_closed"


@pytest.mark.parametrize("text", ["Stop talking.", "Never mind."])
async def test_a_stop_word_is_answered_with_silence(open_session: Open, text: str) -> None:
    session, listener = await open_session()
    hear(session, spoken(text))
    session.commit("stop")
    made = await ask(session, 1)
    assert normalise(listener.finals["stop"]) == normalise(text)
    assert (made.text, made.audio, made.end.reason) == ("", [], "completed")
    assert "Paris" in (await ask(session, 2, "What is the capital of France?")).text


async def test_a_silence_is_broken_where_the_reply_is_told_to(open_session: Open) -> None:
    """Of itself the model answers silence with silence."""
    session, listener = await open_session()
    assert (await ask(session, 1, "What is the capital of France?")).text
    hear(session, silence(2.0))
    session.commit("silent")
    made = await ask(session, 2, instructions="The user has said nothing for a while. Ask if they are still there.")
    assert listener.finals["silent"] == ""
    assert made.text
    assert made.end.reason in ("completed", "max_tokens")


async def test_a_tool_is_called_and_its_result_used(open_session: Open) -> None:
    session, _ = await open_session(tools=(WEATHER,))
    made = await ask(session, 1, "What is the weather in Paris?", tool_choice="required")
    assert (made.text, made.audio) == ("", [])
    (call,) = made.calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    session.append_tool_result(call.call_id, '{"sky": "heavy snow", "celsius": -7}', "result")
    answer = await ask(session, 2)
    assert (answer.calls, answer.end.reason) == ([], "completed"), "not the same call again"
    assert await session.keep_heard(2, 0) == ""
    session.append_text("Does it snow in Paris?", "user", "again")
    answer = await ask(session, 2, tool_choice="none")
    assert "snow" in answer.text.lower()
    lived = answer.end.usage.input_tokens
    session.restore(
        [
            _item("u", "user", "What is the weather in Paris?"),
            ContextItem("c", "assistant", call=ToolCall(call.call_id, call.name, call.arguments)),
            ContextItem("r", "user", '{"sky": "heavy snow", "celsius": -7}', result_of=call.call_id),
            _item("again", "user", "Does it snow in Paris?"),
        ]
    )
    restored = await ask(session, 3, tool_choice="none")
    assert abs(restored.end.usage.input_tokens - lived) <= 8, "but for the form in which the model wrote the call"


async def test_a_named_tool_is_called_and_an_unknown_one_refused(open_session: Open) -> None:
    other = Tool(
        "lamp", "Switches the lamp", {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    )
    session, _ = await open_session(tools=(WEATHER, other))
    made = await ask(session, 1, "Hello there.", tool_choice="lamp")
    assert [call.name for call in made.calls] == ["lamp"]
    assert set(json.loads(made.calls[0].arguments)) == {"on"}
    refused = await ask(session, 2, "Hello.", tool_choice="nothing")
    assert refused.end.reason == "failed"
    assert "get_weather, lamp" in refused.end.error
    assert (await ask(session, 3, "Hello there.")).end.reason == "completed"


async def test_arguments_fit_a_schema_with_all_that_schemas_have(open_session: Open) -> None:
    """What the model makes of them is its own; that they fit is certain."""
    session, _ = await open_session(tools=(BOOK,))
    text = "Book the red room for Ann and Bob, in the morning."
    made = await ask(session, 1, text, tool_choice="book_room", max_tokens=200)
    (call,) = made.calls
    jsonschema.validate(json.loads(call.arguments), BOOK.parameters, jsonschema.Draft202012Validator)
    assert json.loads(call.arguments)["room"] in ("red", "blue")


async def test_a_schema_that_cannot_be_enforced_is_refused(open_session: Open) -> None:
    odd = Tool("odd", "Does something odd", {"type": "object", "properties": {"x": {"not": {"type": "null"}}}})
    with pytest.raises(EngineError, match=r"tools\[1\]\.parameters of 'odd' cannot be enforced: properties\.x\.not"):
        await open_session(tools=(WEATHER, odd))


async def test_a_schema_of_which_only_the_model_knows_that_nothing_fits_fails_the_reply_only(
    open_session: Open,
) -> None:
    never = {"type": "string", "pattern": "^(aa)+$", "minLength": 3, "maxLength": 3}
    odd = Tool("odd", "Does something odd", {"type": "object", "properties": {"x": never}, "required": ["x"]})
    session, _ = await open_session(tools=(odd,))
    made = await ask(session, 1, "Do something odd.", tool_choice="required")
    assert made.end.reason == "failed"
    assert "tools[0].parameters of 'odd'" in made.end.error
    session.configure(SessionSettings())
    assert (await ask(session, 2, "Hello.")).end.reason == "completed"


async def test_what_the_camera_shows_is_known(open_session: Open) -> None:
    session, _ = await open_session()
    session.append_image(photo("cat"), 0)
    made = await ask(session, 1, "What animal do you see?")
    assert "cat" in made.text.lower()
    session.append_image(sign("EXIT", "Platform 4"), 1000)
    made = await ask(session, 2, "Which words are printed there?")
    assert "exit" in made.text.lower() or "platform" in made.text.lower()
    plain = made.end.usage.input_tokens
    made = await ask(session, 3, "Thank you.")
    assert made.end.usage.input_tokens - plain < 48 + 12, "without a new picture nothing is told again"


async def test_new_instructions_are_read_at_once(open_session: Open) -> None:
    session, _ = await open_session()
    before = (await ask(session, 1, "Hello.")).end.usage
    session.configure(SessionSettings("Every answer must begin with the word Ahoy and mention the sea. " * 3))
    await at_rest(session)
    after = (await ask(session, 2)).end.usage
    assert after.evaluated_tokens <= 2
    assert after.input_tokens > before.input_tokens + 30


async def test_instructions_for_one_reply_hold_for_one_reply(open_session: Open) -> None:
    session, _ = await open_session()
    mark = session.mark()
    plain = await ask(session, 1, "What is two plus two?", audio=False)
    session.rollback(mark)
    told = await ask(session, 2, "What is two plus two?", audio=False, instructions="Answer in capital letters only.")
    session.rollback(mark)
    again = await ask(session, 3, "What is two plus two?", audio=False)
    assert plain.audio == []
    assert plain.text == again.text
    assert told.end.usage.input_tokens > plain.end.usage.input_tokens


async def test_the_oldest_turns_leave_when_the_context_is_full(engine: LocalEngine, open_session: Open) -> None:
    session, listener = await open_session()
    limit = engine.capabilities.context_tokens
    inputs = []
    for generation in range(11):
        session.append_text(f"Number {generation}. {'The lazy dog sleeps in the sun. ' * 12}", "user", f"{generation}")
        usage = (await ask(session, generation, audio=False, max_tokens=8)).end.usage
        inputs.append(usage.input_tokens)
        assert usage.evaluated_tokens < 140, "never the whole prompt"
        await at_rest(session)
    assert max(inputs) < limit
    assert any(after < before for before, after in pairwise(inputs))
    assert listener.errors == []


async def test_a_turn_that_does_not_fit_is_refused_and_can_be_taken_back(open_session: Open) -> None:
    session, _ = await open_session()
    mark = session.mark()
    made = await ask(session, 1, "word " * 3000)
    assert made.end.reason == "failed"
    assert "1024" in made.end.error
    session.rollback(mark)
    assert (await ask(session, 2, "Hello.")).end.reason == "completed"


async def test_three_sessions_keep_to_themselves_and_a_fourth_is_told_busy(
    engine: LocalEngine, open_session: Open
) -> None:
    opened = [await open_session() for _ in range(3)]
    with pytest.raises(EngineError, match="max_sessions") as refused:
        await engine.open("fourth", SessionSettings(), Listener())
    assert refused.value.code == "busy"
    names = ("goforward", "card3", "lv_0930")
    cities = (("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"))

    async def talk(session: LocalSession, name: str, country: str) -> tuple[Made, Made]:
        hear(session, clip(name).pcm)
        session.commit(name)
        first = await ask(session, 1)
        return first, await ask(session, 2, f"What is the capital of {country}?")

    talks = (
        talk(session, name, country) for (session, _), name, (country, _) in zip(opened, names, cities, strict=True)
    )
    for (_, listener), name, (_, city), (first, second) in zip(
        opened, names, cities, await asyncio.gather(*talks), strict=True
    ):
        assert word_error_rate(clip(name).words, listener.finals[name]) < 0.3
        assert list(listener.finals) == [name]
        assert first.end.reason in ("completed", "max_tokens")
        assert city in second.text
        assert not any(other in second.text for _, other in cities if other != city)
    opened[0][0].close()
    opened[0][0].close()
    session, _ = await open_session()
    assert "Paris" in (await ask(session, 1, "What is the capital of France?")).text


@pytest.mark.parametrize(
    ("wrong", "code"),
    [(SessionSettings(voice="nobody"), "unknown_voice"), (SessionSettings(language="fi"), "unknown_language")],
)
async def test_what_cannot_be_is_refused_at_the_door(engine: LocalEngine, wrong: SessionSettings, code: str) -> None:
    for _ in range(4):
        with pytest.raises(EngineError) as refused:
            await engine.open("x", wrong, Listener())
        assert refused.value.code == code
    session = await engine.open("x", SessionSettings(language="en-US", voice="heart"), Listener())
    with pytest.raises(EngineError):
        session.configure(wrong)
    session.close()


async def test_bad_pictures_are_refused_and_cost_nothing(open_session: Open) -> None:
    session, _ = await open_session()
    with pytest.raises(EngineError) as refused:
        session.append_image(np.zeros((4, 4), np.uint8), 0)
    assert refused.value.code == "invalid_image"
    assert (await ask(session, 1, "Hello.")).end.reason == "completed"


async def test_capabilities(engine: LocalEngine) -> None:
    capabilities = engine.capabilities
    assert capabilities.voices[0] == "heart"
    assert capabilities.languages == ("en",)
    assert capabilities.image_input
    assert (capabilities.context_tokens, capabilities.max_sessions) == (1024, 3)


def _item(item_id: str, role: str, text: str) -> ContextItem:
    return ContextItem(item_id, role, text)  # type: ignore[arg-type]


async def test_a_sentence_that_breaks_off_is_told_from_a_whole_one(open_session: Open) -> None:
    """However the recogniser ends it, and with no effect on the answer."""
    endings: dict[str, float] = {}
    for said in (*WHOLE, *BROKEN_OFF):
        session, listener = await open_session()
        session.append_text(said, "user", "said")
        judged = await collect(session.respond(RespondOptions(1, audio=False, judge_ending=True)))
        (ending,) = listener.endings
        assert ending.item_id == "said"
        assert ending.probability is not None
        endings[said] = ending.probability
        session.close()
        other, silent = await open_session()
        other.append_text(said, "user", "said")
        plain = await collect(other.respond(RespondOptions(1, audio=False)))
        assert (plain.text, silent.endings) == (judged.text, [])
        other.close()
    assert min(endings[said] for said in WHOLE) > 0.2, endings
    assert max(endings[said] for said in BROKEN_OFF) < 0.01, endings


async def test_speech_is_judged_before_it_is_answered(open_session: Open) -> None:
    session, listener = await open_session()
    hear(session, np.concatenate([spoken("What is the capital of France?"), silence(0.3)]))
    await at_rest(session)
    session.commit("said")
    await collect(session.respond(RespondOptions(1, audio=False, judge_ending=True)))
    assert list(listener.finals) == [ending.item_id for ending in listener.endings] == ["said"]
    assert listener.endings[0].probability > 0.2


async def test_nothing_said_is_not_judged(open_session: Open) -> None:
    session, listener = await open_session()
    hear(session, silence(0.5))
    session.commit("said")
    await collect(session.respond(RespondOptions(1, audio=False, judge_ending=True)))
    assert (listener.finals, listener.endings) == ({"said": ""}, [])


async def test_as_a_witness_it_tells_another_engine_how_turns_end(engine: LocalEngine) -> None:
    """Twice each, in one conversation: a turn before changes nothing."""
    both = WitnessedEngine(ScriptedEngine(), engine)
    listener = Listener()
    session = await both.open("test", SessionSettings(), listener)
    said = ("What is the capital of France?", "I would like to know what the")
    for number, words in enumerate(said * 2):
        hear(session, np.concatenate([spoken(words), silence(0.3)]))
        await asyncio.sleep(0.1)  # the witness is opened by the first sound
        session.mark()
        session.commit(f"said {number}")
        await collect(session.respond(RespondOptions(number, audio=False, judge_ending=True)))
        async with asyncio.timeout(60):
            while len(listener.endings) <= number:
                await asyncio.sleep(0.01)
    session.close()
    assert [(ending.words or "").lower().rstrip(".?,") for ending in listener.endings[:2]] == [
        "what is the capital of france",
        "i would like to know what the",
    ]
    judged = [ending.probability for ending in listener.endings if ending.probability is not None]
    whole, broken, again, broken_again = judged
    assert (again, broken_again) == (pytest.approx(whole, rel=0.2), pytest.approx(broken, rel=0.2))
    assert whole > 0.2
    assert broken < 0.01
