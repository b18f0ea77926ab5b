"""An engine that cannot tell how words end, with one beside it that can. Both are scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from starlette.requests import Request

from omni_rt.config import validate
from omni_rt.engine.api import Ending, EngineError, EngineLost, SessionSettings
from omni_rt.engine.witness import WitnessedEngine, WitnessedSession, witness_settings
from omni_rt.server.app import Server
from tests.support.scripted import ScriptedEngine, ScriptedEngineSession
from tests.support.stage import Stage, open_stage

COMPLETED = "conversation.item.input_audio_transcription.completed"
GONE = EngineLost("the engine's worker died")
CLIP = np.zeros(8000, np.int16)


class Court:
    """A session of an engine that writes nothing down, and its witness."""

    def __init__(self, stage: Stage, witness: ScriptedEngine) -> None:
        self.stage = stage
        self.engine = witness
        stage.session.capabilities = replace(stage.session.capabilities, transcribes=False)
        stage.model.understood = ""
        stage.ears[0].score = 0.9
        self.says("would you tell me more", 0.6)

    @property
    def witness(self) -> ScriptedEngineSession:
        return self.engine.sessions[-1]

    def says(self, words: str, ending: float | None) -> None:
        def say(session: ScriptedEngineSession) -> None:
            session.understood, session.ending = words, ending

        self.engine.prepare = say
        for session in self.engine.sessions:
            say(session)

    def witness_is_stuck(self) -> None:
        def stick(session: ScriptedEngineSession) -> None:
            session.understood, session.ending = "would you tell me more", None
            session.go.clear()

        self.engine.prepare = stick

    def committed(self) -> bool:
        return "input_audio_buffer.committed" in self.stage.transport.kinds()

    async def over_after(self) -> int:
        """After how many ms of silence a turn of a second is over."""
        self.stage.transport.events.clear()
        await self.stage.listen(1000, True)
        silent = 0
        while not self.committed():
            await self.stage.listen(20, False)
            silent += 20
        return silent


async def _court(witness: ScriptedEngine) -> AsyncIterator[Court]:
    stage = await open_stage(speculate_ms=96, witness=witness)
    yield Court(stage, witness)
    await stage.session.close("test over")


@pytest.fixture
async def court() -> AsyncIterator[Court]:
    async for court in _court(ScriptedEngine()):
        yield court


@pytest.fixture
async def deserted() -> AsyncIterator[Court]:
    """The witness has no place."""
    witness = ScriptedEngine()
    witness.refuses = EngineError("busy", "all places are taken")
    async for court in _court(witness):
        yield court


@pytest.mark.parametrize(
    ("words", "ending", "least", "most"),
    [
        ("would you tell me more", 0.6, 96, 140),
        ("would you tell me more", 0.02, 1000, 1300),
        ("hello", None, 96, 140),
        ("I would like to", None, 1000, 1500),
        ("", None, 96, 140),
    ],
)
async def test_its_words_and_what_it_thinks_of_them_decide(
    words: str, ending: float | None, least: int, most: int, court: Court
) -> None:
    court.says(words, ending)
    assert least <= await court.over_after() <= most


async def test_it_is_asked_for_next_to_nothing(court: Court) -> None:
    await court.over_after()
    (asked,) = (call[1] for call in court.witness.calls if call[0] == "respond")
    assert (asked.audio, asked.max_tokens, asked.judge_ending) == (False, 1, True)
    assert court.witness.names() == ["mark", "commit", "respond", "cancel"]
    heard = [
        sum(call[1] for call in one.calls if call[0] == "append_audio") for one in (court.witness, court.stage.model)
    ]
    assert heard[0] == heard[1] > 16_000


async def test_the_conversation_has_what_the_engine_wrote_down(court: Court) -> None:
    court.stage.session.capabilities = replace(court.stage.session.capabilities, transcribes=True)
    court.stage.model.understood = "would you tell us more"
    await court.over_after()
    await court.stage.until("response.done")
    assert court.stage.texts()[0] == ("user", "would you tell us more")


async def test_that_nothing_was_written_down_ends_no_turn_and_is_told_once(court: Court) -> None:
    court.says("would you tell me more", 0.02)
    assert await court.over_after() > 1000
    await court.stage.until("response.done")
    assert court.stage.transport.kinds().count(COMPLETED) == 1
    assert court.stage.texts()[0] == ("user", "")


async def test_it_is_told_where_the_witness_is_not_waited_for_any_longer(court: Court) -> None:
    court.witness_is_stuck()
    assert await court.over_after() > 400
    await court.stage.settle()
    assert COMPLETED not in court.stage.transport.kinds()
    court.stage.session.rebuild_context()
    assert court.stage.transport.kinds().count(COMPLETED) == 1


async def test_who_goes_on_is_judged_anew_from_where_they_were(court: Court) -> None:
    court.says("would you tell", 0.001)
    await court.stage.listen(1000, True)
    await court.stage.listen(300, False)
    assert not court.committed()
    await court.stage.listen(500, True)
    court.says("would you tell me more", 0.6)
    await court.stage.listen(160, False)
    assert court.committed()
    names = court.witness.names()
    assert names == ["mark", "commit", "respond", "cancel", "rollback", "mark", "commit", "respond", "cancel"]
    rolled = next(call[1] for call in court.witness.calls if call[0] == "rollback")
    assert rolled == next(call[1] for call in court.witness.calls if call[0] == "mark")


async def test_each_turn_is_judged_by_itself(court: Court) -> None:
    for _ in range(3):
        assert await court.over_after() <= 140
        await court.stage.until("response.done")
        court.stage.transport.play()
        await court.stage.settle()
    names = court.witness.names()
    assert names.count("restore") == 2
    assert names.count("commit") == 3
    before = [court.witness.calls[at - 1][0] for at, call in enumerate(court.witness.calls) if call[0] == "restore"]
    assert "append_audio" not in before


async def test_a_language_that_it_does_not_understand_is_not_judged(court: Court) -> None:
    court.says("", 0.001)
    audio = {"input": {"transcription": {"model": "m", "language": "de"}}}
    await court.stage.tell(type="session.update", session={"type": "realtime", "audio": audio})
    assert await court.over_after() <= 140
    assert not court.engine.sessions


async def test_what_the_engine_wrote_down_counts_where_the_witness_knows_nothing(deserted: Court) -> None:
    """Though it comes later."""
    deserted.stage.session.capabilities = replace(deserted.stage.session.capabilities, transcribes=True)
    deserted.stage.model.understood, deserted.stage.model.understood_after_s = "I would like to", 0.001
    deserted.stage.ears[0].score = 0.6
    await deserted.stage.listen(1000, True)
    await deserted.stage.listen(120, False)
    await asyncio.sleep(0.01)
    await deserted.stage.listen(800, False)
    assert not deserted.committed()


async def test_without_a_place_turns_end_as_without_a_witness(deserted: Court) -> None:
    assert await deserted.over_after() <= 140
    deserted.engine.refuses = None
    await deserted.stage.until("response.done")
    deserted.stage.transport.play()
    await deserted.stage.settle()
    deserted.says("would you tell me more", 0.02)
    assert await deserted.over_after() >= 1000, "now there is one"


async def test_a_witness_that_is_lost_comes_back_for_the_next_turn(court: Court) -> None:
    court.says("would you tell me more", 0.02)
    await court.stage.listen(500, True)
    court.witness.listener.on_lost(GONE)
    assert await court.over_after() <= 140, "it has not heard how this one began"
    await court.stage.until("response.done")
    court.stage.transport.play()
    await court.stage.settle()
    assert await court.over_after() >= 1000
    assert len(court.engine.sessions) == 2
    assert "error" not in court.stage.transport.kinds()


async def test_with_the_engine_that_answers_it_goes_and_comes(court: Court) -> None:
    court.says("would you tell me more", 0.02)
    court.stage.engine.prepare = lambda session: setattr(session, "understood", "")
    await court.stage.listen(500, True)
    old = court.witness
    court.stage.model.listener.on_lost(GONE)
    await court.stage.settle()
    assert old.names()[-1] == "close"
    assert await court.over_after() >= 1000
    heard = sum(call[1] for call in court.witness.calls if call[0] == "append_audio")
    assert heard > 24_000, "with what was said before"


async def test_what_is_judged_late_of_a_pause_is_not_taken_for_the_next(court: Court) -> None:
    court.witness_is_stuck()
    await court.stage.listen(1000, True)
    await court.stage.listen(200, False)
    await court.stage.listen(500, True)
    await court.stage.listen(160, False)
    first, second = (call[1] for call in court.witness.calls if call[0] == "commit")
    assert first != second
    court.witness.listener.on_ending(Ending(first, 0.9))
    await court.stage.listen(96, False)
    assert not court.committed()
    court.witness.listener.on_ending(Ending(second, 0.9))
    await court.stage.listen(32, False)
    assert court.committed()


async def test_what_is_said_over_a_reply_is_heard_by_the_witness() -> None:
    engine, witness, session = await _heard()
    engine.overheard, witness.overheard = ["what the engine hears"], ["mm-hm"]
    assert await session.overhear(CLIP) == "mm-hm"
    assert "overhear" not in engine.names()


async def test_the_engine_overhears_where_the_witness_cannot() -> None:
    engine, witness, session = await _heard()
    engine.overheard = ["one", "two"]
    witness.overheard = [EngineError("recognition_failed", "it broke")]
    assert await session.overhear(CLIP) == "one"
    session.configure(SessionSettings(language="de"))
    assert await session.overhear(CLIP) == "two"


async def test_it_overhears_who_has_said_nothing_before() -> None:
    """As over a reply that was asked for in writing; what is said next is judged from its beginning on."""
    engine, witness = ScriptedEngine(), ScriptedEngine()
    witness.prepare = lambda session: session.overheard.append("mm-hm")
    session = await WitnessedEngine(engine, witness).open("s", SessionSettings(), _Silent())
    assert await session.overhear(CLIP) == "mm-hm"
    session.append_audio(CLIP)
    assert [call[0] for call in witness.sessions[0].calls] == ["overhear", "append_audio"]
    witness.sessions[0].listener.on_lost(GONE)
    assert await session.overhear(CLIP) == "mm-hm"
    assert len(witness.sessions) == 2
    full = ScriptedEngine()
    full.refuses = EngineError("busy", "all places are taken")
    session = await WitnessedEngine(engine, full).open("t", SessionSettings(), _Silent())
    engine.sessions[1].overheard = ["one", "two"]
    assert [await session.overhear(CLIP) for _ in range(2)] == ["one", "two"]


async def test_a_clip_that_neither_can_hear_says_why() -> None:
    engine, witness, session = await _heard()
    engine.overheard, witness.overheard = [EngineError("bad_clip", "too short")], [EngineError("bad_clip", "too long")]
    with pytest.raises(EngineError, match="too short"):
        await session.overhear(CLIP)


async def test_none_is_left_behind_if_nobody_speaks_or_the_session_closes() -> None:
    engine, witness = ScriptedEngine(), ScriptedEngine()
    session = await WitnessedEngine(engine, witness).open("s", SessionSettings(), _Silent())
    session.append_text("hello", "user", "item")
    await asyncio.sleep(0)
    assert not witness.sessions
    session.append_audio(np.zeros(320, np.int16))
    await asyncio.sleep(0)
    session.close()
    assert (engine.sessions[0].names()[-1], witness.sessions[0].names()) == ("close", ["close"])


async def test_closing_closes_both() -> None:
    engine, witness = ScriptedEngine(), ScriptedEngine()
    engine.capabilities = replace(engine.capabilities, judges_endings=False)
    both = WitnessedEngine(engine, witness)
    await both.start()
    assert both.capabilities.judges_endings
    await both.close()
    assert engine.closed
    assert witness.closed


@pytest.mark.parametrize("number", [0, 1])
async def test_when_one_cannot_start_neither_runs_and_it_says_why(number: int) -> None:
    engines = ScriptedEngine(), ScriptedEngine()
    engines[number].refuses = EngineError("model_missing", "no such file")
    with pytest.raises(EngineError, match="no such file"):
        await WitnessedEngine(*engines).start()
    assert all(engine.closed for engine in engines)


def test_a_witness_is_a_small_local_engine() -> None:
    settings = validate({"engine": {"kind": "qwen3_omni", "witness": "local"}, "server": {"max_sessions": 3}})
    witness = witness_settings(settings)
    assert (witness.engine.kind, witness.engine.witness) == ("local", "none")
    assert not witness.local.eyes
    assert witness.local.context_tokens < settings.local.context_tokens
    assert witness.server.max_sessions == 3


@pytest.mark.parametrize(("kind", "witness", "has_one"), [("qwen3_omni", "local", True), ("local", "local", False)])
async def test_a_server_has_one_where_its_engine_needs_it(kind: str, witness: str, has_one: bool) -> None:
    server = Server(validate({"engine": {"kind": kind, "witness": witness}}))
    assert (server.witness is not None) is has_one
    state = json.loads(bytes((await server.readyz(Request({"type": "http"}))).body))
    assert state.get("witness") == ("stopped" if has_one else None)


async def _heard() -> tuple[ScriptedEngineSession, ScriptedEngineSession, WitnessedSession]:
    """A session in which somebody has spoken, behind its engine's and its witness's."""
    engine, witness = ScriptedEngine(), ScriptedEngine()
    session = await WitnessedEngine(engine, witness).open("s", SessionSettings(), _Silent())
    session.append_audio(np.zeros(320, np.int16))
    await asyncio.sleep(0)
    return engine.sessions[0], witness.sessions[0], session


class _Silent:
    def on_transcript(self, _: object) -> None: ...

    def on_ending(self, _: object) -> None: ...

    def on_error(self, _: object) -> None: ...

    def on_lost(self, _: object) -> None: ...
