"""What the local engine's ears do when the recogniser fails."""

from __future__ import annotations

import asyncio

import numpy as np

from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm
from omni_rt.engine.local.ears import Ears
from omni_rt.engine.local.priorities import Priorities
from omni_rt.engine.local.utterance import Utterance


class Deaf:
    """Fails while `broken`."""

    broken = True

    def transcribe(self, audio: Pcm) -> str:
        if self.broken:
            raise RuntimeError("out of memory")
        return "hello"


async def test_an_utterance_that_could_not_be_recognised_says_why_and_the_next_one_is() -> None:
    closed: list[Utterance] = []
    errors: list[EngineError] = []
    recogniser, done = Deaf(), asyncio.Event()

    def final(utterance: Utterance) -> None:
        closed.append(utterance)
        done.set()

    ears = Ears(recogniser, Priorities(), 60_000, lambda _: None, final, errors.append)  # type: ignore[arg-type]
    sound = np.full(INPUT_RATE, 5000, np.int16)
    for broken in (True, False):
        recogniser.broken = broken
        done.clear()
        ears.append(sound)
        ears.commit(f"item {broken}")
        await asyncio.wait_for(done.wait(), 10)
    ears.close()
    failed, understood = closed
    assert (failed.item_id, failed.final) == ("item True", "")
    assert "out of memory" in failed.error
    assert (understood.final, understood.error) == ("hello", "")
    assert errors == []
