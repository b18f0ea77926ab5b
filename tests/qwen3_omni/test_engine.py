"""The engine at its seam, tiny random weights loaded as a server loads them: what no client can send, and lengths."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from omni_rt.config import cache_dir, load
from omni_rt.engine.api import (
    AudioDelta,
    CallDelta,
    Chunk,
    EngineError,
    EngineSession,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
    Tool,
)
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.models.store import ModelStore
from tests.support.echo_engine import Heard, until
from tests.support.qwen import CONTEXT, TINY, WRITE, ScriptedQwen

pytestmark = pytest.mark.models


@pytest.fixture
async def engine() -> AsyncIterator[QwenEngine]:
    engine = QwenEngine(load(overrides=TINY), ModelStore(cache_dir()))
    await engine.start()
    yield engine
    await engine.close()


async def spoken(session: EngineSession, generation: int) -> ReplyEnd:
    """The end of a spoken reply whose sound is whole frames and whose parts agree."""
    chunks: list[Chunk] = [chunk async for chunk in session.respond(RespondOptions(generation, max_tokens=4))]
    end = chunks[-1]
    assert isinstance(end, ReplyEnd)
    assert end.reason == "max_tokens", end
    sound = [chunk for chunk in chunks if isinstance(chunk, AudioDelta)]
    frames = end.usage.output_audio_ms // 80
    assert end.usage.output_audio_ms == 80 * frames > 0
    assert sum(len(chunk.pcm) for chunk in sound) == 1920 * frames
    text = "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta))
    assert text == "".join(chunk.text for chunk in sound)
    return end


async def test_what_is_no_input_is_named_and_the_session_lives(engine: QwenEngine) -> None:
    heard = Heard()
    session = await engine.open("one", SessionSettings(), heard)

    def codes() -> list[str]:
        return [error.code for error in heard.errors]

    for bad in (np.full(1600, np.nan, np.float32), np.full(1600, np.inf, np.float32), np.zeros((2, 800), np.int16)):
        heard.errors.clear()
        session.append_audio(bad)  # type: ignore[arg-type]
        await until(codes)
        assert codes() == ["audio_invalid"]
    heard.errors.clear()
    session.commit("nothing")
    session.append_audio(np.ones(1, np.int16))
    session.commit("one sample")
    await spoken(session, 1)
    await until(lambda: len(heard.transcripts) == 2)
    assert [(t.item_id, t.text, t.final) for t in heard.transcripts] == [
        ("nothing", "", True),
        ("one sample", "", True),
    ]

    for shape, code in (((0, 0, 3), "picture_empty"), ((10_000, 10_000, 3), "picture_too_large")):
        with pytest.raises(EngineError) as refused:
            session.append_image(np.zeros(shape, np.uint8), 0)
        assert refused.value.code == code
    with pytest.raises(EngineError) as refused:
        session.configure(SessionSettings(tools=(Tool("f", "", {"type": "banana"}),)))
    assert refused.value.code == "tool_schema"
    with pytest.raises(EngineError) as refused:
        session.configure(SessionSettings(instructions="word " * CONTEXT))
    assert refused.value.code == "context_full"
    with pytest.raises(EngineError) as refused:
        await engine.open("two", SessionSettings(voice="Marvin"), heard)
    assert refused.value.code == "unknown_voice"

    before = await spoken(session, 2)
    session.append_text("word " * 100 * CONTEXT, "user", "too large")
    after = await spoken(session, 3)
    assert codes() == ["context_full"]
    assert after.usage.input_tokens > before.usage.input_tokens


async def test_the_voice_goes_on_while_a_call_is_written() -> None:
    engine = ScriptedQwen(load(overrides=TINY))
    await engine.start()
    engine.slowness_s = 0.08
    session = await engine.open("one", SessionSettings(tools=(Tool("lamp", "", {"type": "object"}),)), Heard())
    call = '{"name": "lamp", "arguments": {"on": true, "where": "in the kitchen, in the hall and in the garden"}}'
    session.append_text(f"{WRITE}It is on.<tool_call>\n{call}\n</tool_call>", "user", "i1")
    chunks = [chunk async for chunk in session.respond(RespondOptions(1))]
    await engine.close()
    [called] = [number for number, chunk in enumerate(chunks) if isinstance(chunk, CallDelta)]
    # more than a frame for each of the four tokens that are spoken, and the call is waited for by none
    assert sum(isinstance(chunk, AudioDelta) for chunk in chunks[:called]) > 8
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, AudioDelta)) == "It is on."
