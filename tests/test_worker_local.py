"""The local engine in a worker: the same behaviour as in process, and a worker killed while it speaks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt.config import cache_dir, validate
from omni_rt.engine.api import (
    OUTPUT_RATE,
    AudioDelta,
    ContextItem,
    Engine,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
)
from omni_rt.engine.remote import RemoteEngine
from tests.support.echo_engine import Heard, until
from tests.support.server import THREADS

SPEECH = Path(__file__).parent / "data" / "speech" / "goforward.wav"
SMALL = validate({"local": {"chat_model": "qwen2.5-coder-0.5b-instruct-q4_k_m", "threads": THREADS}})


@pytest.fixture
def heard() -> Heard:
    return Heard()


async def spoken_turn(engine: Engine) -> list[Any]:
    """A question by voice and its answer, without what depends on time: unfinished transcripts, sizes of chunks."""
    import soundfile

    heard = Heard()
    await engine.start()
    try:
        session = await engine.open("one", SessionSettings(instructions="You are brief."), heard)
        pcm, _ = soundfile.read(SPEECH, dtype="int16")
        for start in range(0, len(pcm), 320):
            session.append_audio(pcm[start : start + 320])
        mark = session.mark()
        session.commit("i1")
        seen: list[Any] = []
        for generation in (1, 2):
            text = sound = ""
            samples = 0
            async for chunk in session.respond(RespondOptions(generation, temperature=0.0, max_tokens=24)):
                match chunk:
                    case TextDelta():
                        text += chunk.text
                    case AudioDelta():
                        sound += chunk.text
                        samples += len(chunk.pcm)
                    case ReplyEnd():
                        seen.append((generation, text, sound, samples, chunk.reason, chunk.usage.output_tokens))
            seen.append(await session.keep_heard(generation, samples * 500 // OUTPUT_RATE))
            session.rollback(mark)
            session.commit("i2")
        await until(lambda: len([t for t in heard.transcripts if t.final]) == 3)
        return [*seen, *(t for t in heard.transcripts if t.final), heard.errors, heard.lost]
    finally:
        await engine.close()


@pytest.mark.models
async def test_local_engine_behaves_as_in_process() -> None:
    from omni_rt.engine.local.engine import LocalEngine  # not above: the echo engine's workers import this module too
    from omni_rt.models.store import ModelStore

    here = await spoken_turn(LocalEngine(SMALL, ModelStore(cache_dir())))
    there = await spoken_turn(RemoteEngine(SMALL))
    assert there == here
    assert here[0][1].strip()
    assert here[0][3] > OUTPUT_RATE // 2


@pytest.mark.models
async def test_local_engine_killed_while_speaking_answers_again(heard: Heard) -> None:
    engine = RemoteEngine(SMALL)
    await engine.start()
    assert engine.capabilities.voices
    session = await engine.open("one", SessionSettings(instructions="You are a friendly assistant."), heard)
    session.append_text("Count from one to twenty in words.", "user", "i1")
    reply = session.respond(RespondOptions(1, max_tokens=100))
    chunks = [await anext(reply)]
    while not isinstance(chunks[-1], AudioDelta):
        chunks.append(await anext(reply))
    assert np.abs(chunks[-1].pcm).max() > 1000
    assert engine.health.pid is not None
    os.kill(engine.health.pid, signal.SIGKILL)
    end = [chunk async for chunk in reply][-1]
    assert isinstance(end, ReplyEnd)
    assert (end.reason, "killed" in end.error) == ("failed", True)
    await until(lambda: heard.lost)

    rebuilt = await engine.open("one", SessionSettings(instructions="You are a friendly assistant."), heard)
    rebuilt.restore(
        [
            ContextItem("i1", "user", "Hello, my name is Beatrice."),
            ContextItem("i2", "assistant", "Nice to meet you, Beatrice."),
            ContextItem("i3", "user", "What is my name?"),
        ]
    )
    chunks = [chunk async for chunk in rebuilt.respond(RespondOptions(2, temperature=0.0))]
    assert "Beatrice" in "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta))
    sound = np.concatenate([chunk.pcm for chunk in chunks if isinstance(chunk, AudioDelta)])
    assert np.abs(sound).max() > 1000
    end = chunks[-1]
    assert isinstance(end, ReplyEnd)
    assert (end.generation, end.reason) == (2, "completed")
    assert await rebuilt.keep_heard(2, 0) == ""
    assert (len(heard.lost), heard.errors, engine.health.restarts) == (1, [], 1)
    await engine.close()
