"""What the local engine's ears ask of the recogniser, and do when it fails."""

from __future__ import annotations

import asyncio

import numpy as np

from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm
from omni_rt.engine.local.asr import Recognised
from omni_rt.engine.local.ears import Ears
from omni_rt.engine.local.priorities import Priorities
from omni_rt.engine.local.utterance import PAUSE_MS, Utterance


class Deaf:
    """Fails while `broken`."""

    broken = True

    def recognise(self, audio: Pcm, draft: tuple[int, ...]) -> Recognised:
        if self.broken:
            raise RuntimeError("out of memory")
        return Recognised("hello", ())


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


class Remembering:
    """Writes as many tokens as there were seconds, and keeps the drafts it was given."""

    def __init__(self) -> None:
        self.drafts: list[tuple[int, ...]] = []

    def recognise(self, audio: Pcm, draft: tuple[int, ...]) -> Recognised:
        self.drafts.append(draft)
        return Recognised("word", tuple(range(len(audio) // INPUT_RATE)))


async def test_what_was_understood_so_far_is_the_draft_of_the_next_result() -> None:
    errors: list[EngineError] = []
    recogniser, heard = Remembering(), asyncio.Event()

    def understood(_: Utterance) -> None:
        heard.set()

    ears = Ears(recogniser, Priorities(), 1000, understood, understood, errors.append)  # type: ignore[arg-type]
    sound = np.full(INPUT_RATE, 5000, np.int16)
    for _ in range(2):
        heard.clear()
        ears.append(np.concatenate([sound, sound]))
        await asyncio.wait_for(heard.wait(), 10)
    heard.clear()
    ears.append(sound)
    ears.commit("first")
    await asyncio.wait_for(heard.wait(), 10)
    ears.append(sound)
    ears.commit("second")
    await ears.settled()
    ears.close()
    assert recogniser.drafts == [(), (0, 1), (0, 1, 2, 3), ()]
    assert errors == []


class Measuring:
    """Keeps how much audio it was given, and how much silence was at its end."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    def recognise(self, audio: Pcm, draft: tuple[int, ...]) -> Recognised:
        self.given.append((len(audio), len(audio) - int(np.flatnonzero(audio)[-1]) - 1))
        return Recognised("word", ())


async def test_what_stops_is_heard_with_silence_after_it_and_what_goes_on_is_not() -> None:
    recogniser, heard = Measuring(), asyncio.Event()

    def understood(_: Utterance) -> None:
        heard.set()

    ears = Ears(recogniser, Priorities(), 500, understood, understood, lambda _: None)  # type: ignore[arg-type]
    sound, silence = np.full(INPUT_RATE, 5000, np.int16), np.zeros(PAUSE_MS * INPUT_RATE // 1000, np.int16)
    for pcm in (sound, silence):
        heard.clear()
        ears.append(pcm)
        await asyncio.wait_for(heard.wait(), 10)
    assert ears.utterance is not None
    assert ears.utterance.complete
    assert ears.utterance.latest is not None
    assert ears.utterance.latest.samples == len(sound) + len(silence), "what was put there is none of its audio"
    heard.clear()
    ears.append(sound)
    ears.commit("cut off in a word")
    await asyncio.wait_for(heard.wait(), 10)
    ears.close()
    after = INPUT_RATE // 5
    whole = len(sound) + len(silence)
    assert recogniser.given == [
        (len(sound), 0),
        (whole + after, len(silence) + after),
        (whole + len(sound) + after, after),
    ]
