"""The benchmark of the engine, on the CPU with tiny shapes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_rt.config import TurnSettings
from omni_rt.engine.api import Capabilities
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.realtime.settings import WireSession
from omni_rt.session.policy import duplex_policy
from tools.gpu.engine import engine, noise
from tools.gpu.models import build
from tools.gpu.speculated import POLICY, Call, speculated_release

WINDOW = 512


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        omni = build("tiny", torch.device("cpu"), torch.float32).ours
        parts, _ = engine(omni, tokens=4096, context=2048, sessions=1, plain=True)
    parts.scheduler.start()
    yield parts
    parts.scheduler.close()
    torch.set_num_threads(threads)


async def speak(call: Call) -> None:
    """A second of speech, and silence until a reply is held that could be heard."""
    for window in noise(np.random.default_rng(0), 1.024).reshape(-1, WINDOW):
        call.hear(window, speech=True)
    while call.held is None:
        call.hear(np.zeros(WINDOW, np.int16), speech=False)
    await asyncio.wait_for(call.waiting.wait(), 60)
    assert call.has_packet


def test_its_turns_are_the_servers() -> None:
    """It cannot read them, as the machine with the GPU has no pydantic."""
    tells_no_words = Capabilities("qwen3_omni", (), (), image_input=True, tools=True, context_tokens=0, max_sessions=1)
    assert duplex_policy(WireSession(), TurnSettings(), tells_no_words).turns == POLICY.turns


async def test_a_speculated_reply_leaves_when_the_turn_is_over_and_not_before(parts: Parts) -> None:
    call = Call(parts, 8)
    await speak(call)
    await asyncio.sleep(0.05)
    assert not call.sent_at
    call.decide()
    await asyncio.wait_for(call.speaks.wait(), 60)
    await call.stop()
    await call.close()
    assert call.held is None
    assert not call.errors


async def test_a_reply_that_is_stopped_while_it_is_held_is_never_heard(parts: Parts) -> None:
    call = Call(parts, 8)
    await speak(call)
    await call.stop()
    await asyncio.sleep(0.05)
    assert not call.sent_at
    await speak(call)  # and the next turn is one like any other
    call.decide()
    await asyncio.wait_for(call.speaks.wait(), 60)
    await call.stop()
    await call.close()
    assert not call.errors


def test_the_row(parts: Parts) -> None:
    row = speculated_release(parts, 3, 64, max_tokens=8)
    assert (row.name, row.unit, row.n) == ("speculated_release", "ms", 3)
    assert row.p50 is not None
    assert row.p50 > 0


def test_the_benchmark_needs_no_pydantic() -> None:
    """A machine that only measures has none."""
    code = "import sys; sys.modules['pydantic'] = None; import tools.bench_engine, tools.bench_sessions"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
