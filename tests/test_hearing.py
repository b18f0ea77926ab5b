from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from omni_rt.core.timeline import Activity, EarlyActivity, EndScore, Heard
from omni_rt.engine.api import Pcm
from omni_rt.media.hearing import Ears, Hearing
from omni_rt.media.vad import PEEK, WINDOW, WINDOW_MS, SileroVad, VadState
from tests.support.speech import clip, model, silence

pytestmark = pytest.mark.models


class Listener:
    """One session's hearing and all it reported."""

    def __init__(self, ears: Ears) -> None:
        self.events: list[Heard] = []
        self._news = asyncio.Event()
        self.hearing: Hearing = ears.listen(self._on)

    def _on(self, event: Heard) -> None:
        self.events.append(event)
        self._news.set()

    @property
    def activity(self) -> list[Activity]:
        return [event for event in self.events if isinstance(event, Activity)]

    @property
    def early(self) -> list[EarlyActivity]:
        return [event for event in self.events if isinstance(event, EarlyActivity)]

    @property
    def scores(self) -> list[EndScore]:
        return [event for event in self.events if isinstance(event, EndScore)]

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not reached():
                self._news.clear()
                await self._news.wait()

    async def heard(self, samples: int) -> list[Activity]:
        """All activity once that many samples are judged."""
        await self.until(lambda: len(self.activity) >= samples // WINDOW)
        return self.activity


@pytest.fixture(scope="module")
def ears() -> Iterator[Ears]:
    ears = Ears.load(model("silero-vad-v6"), model("smart-turn-v3.2"))
    yield ears
    ears.close()


@pytest.fixture
async def listener(ears: Ears) -> AsyncIterator[Listener]:
    listener = Listener(ears)
    yield listener
    listener.hearing.close()


def chunked(pcm: Pcm, sizes: Iterator[int]) -> Iterator[Pcm]:
    at = 0
    while at < len(pcm):
        size = next(sizes)
        yield pcm[at : at + size]
        at += size


def cycle(*sizes: int) -> Iterator[int]:
    while True:
        yield from sizes


def expected(ears: Ears, pcm: Pcm) -> list[Activity]:
    state = VadState()
    whole = pcm[: len(pcm) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return [
        Activity((i + 1) * WINDOW_MS, ears.vad.step(state, window), pytest.approx(np.sqrt(np.mean(window**2.0)), 1e-4))
        for i, window in enumerate(whole)
    ]


@pytest.mark.parametrize(
    "sizes",
    [(320,), (512,), (1, 2, 3), (0, 511, 513), (160, 0, 0, 4801), (10**9,)],
    ids=["20 ms", "windows", "samples", "around a window", "uneven", "all at once"],
)
async def test_every_window_is_reported_in_order_however_it_is_cut(
    ears: Ears, listener: Listener, sizes: tuple[int, ...]
) -> None:
    pcm = np.concatenate([silence(4), clip("goforward").pcm])
    for chunk in chunked(pcm, cycle(*sizes)):
        listener.hearing.feed(chunk)
    assert await listener.heard(len(pcm)) == expected(ears, pcm)


async def test_no_samples_are_harmless(listener: Listener) -> None:
    listener.hearing.feed(np.zeros(0, np.int16))
    listener.hearing.feed(silence(0.032))
    assert [event.at_ms for event in await listener.heard(WINDOW)] == [32]


async def test_a_caller_may_reuse_its_buffer(ears: Ears, listener: Listener) -> None:
    pcm = clip("card1").pcm
    buffer = np.empty(WINDOW, np.int16)
    for chunk in pcm[: len(pcm) // WINDOW * WINDOW].reshape(-1, WINDOW):
        buffer[:] = chunk
        listener.hearing.feed(buffer)
        buffer[:] = 12345
    assert await listener.heard(len(pcm)) == expected(ears, pcm)


async def test_sessions_do_not_hear_each_other(ears: Ears) -> None:
    names = ["lv_0880", "card5", "something"]
    spoken = [clip(name).pcm[: 40 * WINDOW] for name in names]
    listeners = [Listener(ears) for _ in names]
    for at in range(0, 40 * WINDOW, 320):
        for listener, pcm in zip(listeners, spoken, strict=True):
            listener.hearing.feed(pcm[at : at + 320])
        await asyncio.sleep(0)
    for listener, pcm in zip(listeners, spoken, strict=True):
        assert await listener.heard(len(pcm)) == expected(ears, pcm)
        listener.hearing.close()


async def test_the_score_sees_the_turn_and_nothing_after_it(ears: Ears, listener: Listener) -> None:
    turn = np.concatenate([clip("card1").pcm, silence(0.2)])
    turn = turn[: len(turn) // WINDOW * WINDOW]
    at_ms = len(turn) // 16
    listener.hearing.feed(turn)
    listener.hearing.feed(clip("beckett").pcm[: 50 * WINDOW])
    listener.hearing.score_end(at_ms)
    await listener.until(lambda: bool(listener.scores))
    assert listener.scores == [EndScore(at_ms, ears.smart_turn.score(turn))]


async def test_the_score_can_be_kept_to_one_turn(ears: Ears, listener: Listener) -> None:
    before = clip("lv_0890").pcm[: 150 * WINDOW]
    turn = np.concatenate([clip("something").pcm, silence(0.2)])
    turn = turn[: len(turn) // WINDOW * WINDOW]
    listener.hearing.feed(np.concatenate([before, turn]))
    from_ms = len(before) // 16
    at_ms = from_ms + len(turn) // 16
    listener.hearing.score_end(at_ms, from_ms)
    await listener.until(lambda: bool(listener.scores))
    assert listener.scores == [EndScore(at_ms, ears.smart_turn.score(turn))]
    assert listener.scores[0].probability != ears.smart_turn.score(np.concatenate([before, turn]))


async def test_a_slow_score_holds_up_no_activity(ears: Ears, listener: Listener) -> None:
    released = threading.Event()
    blocked = ears.score_thread.submit(released.wait, 60)
    try:
        listener.hearing.feed(silence(1))
        listener.hearing.score_end(320)
        await listener.heard(16000)
        assert listener.scores == []
    finally:
        released.set()
    assert blocked.result()
    await listener.until(lambda: bool(listener.scores))


@pytest.mark.parametrize(("at_ms", "from_ms"), [(0, 0), (-5, 0), (320, 640), (10**9, 0), (320, -100)])
async def test_a_score_of_no_audio_or_too_much_is_harmless(listener: Listener, at_ms: int, from_ms: int) -> None:
    listener.hearing.feed(silence(1))
    listener.hearing.score_end(at_ms, from_ms)
    await listener.until(lambda: bool(listener.scores))
    assert listener.scores[0].at_ms == at_ms
    assert 0 <= listener.scores[0].probability <= 1


async def test_a_score_is_right_while_a_long_recording_waits(ears: Ears, listener: Listener) -> None:
    """Sent faster than real time, a turn is still judged on its own audio when its place comes."""
    turn = np.concatenate([clip("goforward").pcm, silence(0.2)])
    turn = turn[: len(turn) // WINDOW * WINDOW]
    at_ms = len(turn) // 16
    listener.hearing.feed(np.concatenate([turn, silence(60)]))
    await listener.heard(len(turn))
    listener.hearing.score_end(at_ms)
    await listener.until(lambda: bool(listener.scores))
    assert listener.scores == [EndScore(at_ms, ears.smart_turn.score(turn))]


async def test_reset_forgets_the_room_and_keeps_the_timeline(ears: Ears, listener: Listener) -> None:
    first, second = silence(2.048), clip("card3").pcm
    listener.hearing.feed(first)
    await listener.heard(len(first))
    listener.hearing.reset()
    listener.hearing.feed(second)
    heard = await listener.heard(len(first) + len(second))
    fresh = expected(ears, second)
    assert heard[64:] == [Activity(event.at_ms + 2048, event.speech, event.level) for event in fresh]


async def test_a_closed_hearing_is_silent(listener: Listener) -> None:
    listener.hearing.feed(silence(1))
    listener.hearing.score_end(320)
    listener.hearing.close()
    listener.hearing.close()
    listener.hearing.feed(silence(1))
    await asyncio.sleep(0.3)
    assert listener.events == []


async def test_overload_skips_the_oldest_and_says_so(
    ears: Ears, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    blocked = ears.activity_thread.submit(released.wait, 60)
    pcm = np.concatenate([silence(20.48), silence(300), clip("card1").pcm])
    with caplog.at_level(logging.WARNING):
        for chunk in chunked(pcm, cycle(16000)):
            listener.hearing.feed(chunk)
    released.set()
    assert blocked.result()
    heard = await listener.heard(len(pcm))
    assert [event.at_ms for event in heard] == [(i + 1) * WINDOW_MS for i in range(len(pcm) // WINDOW)]
    assert max(event.speech for event in heard[-34:]) > 0.9
    assert [record for record in caplog.records if "behind" in record.message]


async def test_audio_of_another_type_is_refused_and_forgotten(ears: Ears, listener: Listener) -> None:
    with pytest.raises(TypeError):
        listener.hearing.feed(np.zeros(WINDOW, np.float32))  # type: ignore[arg-type]
    speech = clip("card1").pcm
    listener.hearing.feed(speech)
    assert await listener.heard(len(speech)) == expected(ears, speech)


async def test_a_failing_model_costs_neither_the_timeline_nor_the_session(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.hearing._state.memory = np.zeros((1, 1, 1), np.float32)
    listener.hearing.feed(silence(0.032))
    await listener.heard(WINDOW)
    assert "unjudged" in caplog.text
    speech = clip("card1").pcm
    listener.hearing.feed(speech)
    heard = await listener.heard(WINDOW + len(speech))
    assert [event.at_ms for event in heard] == [(i + 1) * WINDOW_MS for i in range(len(heard))]
    assert max(event.speech for event in heard) > 0.9


# -- before a window is full

HALF = WINDOW // 2
SENT = np.random.default_rng(0).normal(0, 3000, 24 * 20).astype(np.int16)


def early(ears: Ears, pcm: Pcm, size: int) -> list[EarlyActivity]:
    """After each piece, by a detector that has heard the whole windows before it without a gate."""
    vad = SileroVad(model("silero-vad-v6"), gated=False)
    state, found, done = VadState(), [], 0
    for end in range(size, len(pcm) + 1, size):
        while done + WINDOW <= end:
            vad.step(state, pcm[done : done + WINDOW])
            done += WINDOW
        if done >= 2 * WINDOW:
            latest = pcm[end - WINDOW : end]
            memory = replace(state, samples=state.samples.copy())
            memory.samples[0, WINDOW:] = pcm[end - WINDOW - 64 : end - WINDOW] / np.float32(32768)
            level = pytest.approx(np.sqrt(np.mean(latest.astype(float) ** 2)), 1e-4)
            found.append(EarlyActivity(end // 16, pytest.approx(vad.step(memory, latest), abs=1e-5), level))
    return found


async def listen(listener: Listener, pcm: Pcm, size: int, *, paced: bool | None = True) -> None:
    """Whole windows of a microphone, in pieces, while a reply is sent in packets of 20 ms; `paced` None: none is."""
    sent, before = 0, len(listener.activity) * WINDOW
    for at in range(0, len(pcm), size):
        while paced is not None and sent <= at:
            listener.hearing.played(SENT, sent / 16, paced)
            sent += 320
        listener.hearing.feed(pcm[at : at + size])
        await listener.heard(before + min(at + size, len(pcm)))
        await asyncio.sleep(0)


@pytest.fixture
async def without_echo(ears: Ears) -> AsyncIterator[Listener]:
    others = Ears(ears.vad, ears.smart_turn, echo=False)
    listener = Listener(others)
    yield listener
    listener.hearing.close()
    others.close()


@pytest.mark.parametrize("size", [160, HALF, 320, WINDOW, 960])
async def test_the_latest_is_looked_at_while_a_reply_is_sent(size: int, without_echo: Listener, ears: Ears) -> None:
    pcm = clip("card5").pcm[: 60 * WINDOW]
    await listen(without_echo, pcm, size)
    told = early(ears, pcm, size)
    await without_echo.until(lambda: len(without_echo.early) == len(told))
    assert without_echo.early == told
    assert without_echo.activity == expected(ears, pcm)


@pytest.mark.parametrize("paced", [None, False])
async def test_nothing_is_told_early_without_a_reply_or_if_the_client_plays(
    paced: bool | None, without_echo: Listener
) -> None:
    await listen(without_echo, clip("card5").pcm[: 30 * WINDOW], HALF, paced=paced)
    assert without_echo.early == []


async def test_it_comes_before_the_window_that_ends_after_it(without_echo: Listener) -> None:
    pcm = clip("card5").pcm[: 21 * WINDOW]
    await listen(without_echo, pcm, HALF)
    await without_echo.until(lambda: len(without_echo.early) == 39)
    at_ms = [event.at_ms for event in without_echo.events]
    assert at_ms == sorted(at_ms)
    assert at_ms == [32, *sorted([*range(64, 673, 16), *range(64, 673, 32)])]


async def test_who_has_headphones_is_told_early_although_there_may_be_an_echo(listener: Listener) -> None:
    """Nothing is heard of the first two seconds of a reply."""
    quiet, speech = silence(2.048), clip("card5").pcm[: 30 * WINDOW]
    await listen(listener, np.concatenate([quiet, speech]), HALF)
    told = [event for event in listener.early if event.at_ms > 2048]
    assert len(told) > 20
    assert max(event.speech for event in told) > 0.5


async def test_a_look_that_fails_costs_nothing_but_that(
    without_echo: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pcm = clip("card5").pcm[: 10 * WINDOW]
    vad = without_echo.hearing._ears.vad
    peek, count = vad.peek, 0

    def fails_once(state: VadState, latest: Pcm) -> float:
        nonlocal count
        count += 1
        if count == 3:
            raise RuntimeError("no")
        return peek(state, latest)

    monkeypatch.setattr(vad, "peek", fails_once)
    await listen(without_echo, pcm, HALF)
    await without_echo.until(lambda: len(without_echo.early) == 16)
    assert len(without_echo.activity) == 10
    assert caplog.text.count("voice activity failed before its window was full") == 1


async def test_looking_changes_nothing_of_what_is_found(ears: Ears) -> None:
    """A model that was kept awake by it would notice later that somebody begins to speak."""
    sound = np.concatenate([silence(6.4), clip("card5").pcm[: 20 * WINDOW]])
    looked, alone = VadState(), VadState()
    for window in sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW):
        assert ears.vad.step(looked, window) == ears.vad.step(alone, window)
        ears.vad.peek(looked, np.concatenate([np.zeros(PEEK - WINDOW, np.int16), window]))
    assert looked.evaluated == alone.evaluated < len(sound) // WINDOW


async def test_somebody_who_begins_is_seen_though_the_model_sleeps(ears: Ears) -> None:
    state, speech = VadState(), clip("card5").pcm
    first = int(np.flatnonzero(np.abs(speech) > 2000)[0]) // WINDOW * WINDOW
    for window in silence(6.4).reshape(-1, WINDOW):
        ears.vad.step(state, window)
    assert state.slept
    assert ears.vad.peek(state, speech[first + WINDOW : first + WINDOW + PEEK]) > 0.3


async def test_after_a_reset_nothing_of_before_counts(without_echo: Listener, ears: Ears) -> None:
    pcm = clip("card5").pcm[: 20 * WINDOW]
    await listen(without_echo, pcm, HALF)
    await without_echo.until(lambda: len(without_echo.early) == 37)
    without_echo.hearing.reset()
    await listen(without_echo, pcm, HALF)
    await without_echo.until(lambda: len(without_echo.early) == 77)
    again = [replace(each, at_ms=each.at_ms + 640) for each in early(ears, pcm, HALF)]
    assert without_echo.early[40:] == again
