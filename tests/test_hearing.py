from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
import pytest

from omni_rt.core.timeline import Activity, EndScore, Glimpse
from omni_rt.engine.api import Pcm
from omni_rt.media.hearing import Ears, Event, Hearing
from omni_rt.media.vad import WINDOW, WINDOW_MS, VadState
from tests.support.speech import clip, model, silence

pytestmark = pytest.mark.models


class Listener:
    """One session's hearing and all it reported."""

    def __init__(self, ears: Ears) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self.hearing: Hearing = ears.listen(self._on)

    def _on(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    @property
    def activity(self) -> list[Activity]:
        return [event for event in self.events if isinstance(event, Activity)]

    @property
    def glimpses(self) -> list[Glimpse]:
        return [event for event in self.events if isinstance(event, Glimpse)]

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


# -- between windows

HALF = WINDOW // 2
TOLD_AS_PLAYED = np.full(480, 3000, np.int16)


def between(ears: Ears, pcm: Pcm) -> list[Glimpse]:
    """What ends in the middle of each window but the first, by a detector that hears nothing else."""
    state, found = VadState(), []
    for end in range(WINDOW + HALF, len(pcm) + 1, WINDOW):
        window = pcm[end - WINDOW : end]
        level = pytest.approx(np.sqrt(np.mean(window.astype(float) ** 2)), 1e-4)
        found.append(Glimpse(end // 16, ears.vad.step(state, window), level))
    return found


async def listen(listener: Listener, pcm: Pcm, size: int, *, played: bool) -> None:
    for at in range(0, len(pcm), size):
        if played:
            listener.hearing.played(TOLD_AS_PLAYED, at / 16, paced=True)
        listener.hearing.feed(pcm[at : at + size])
        await listener.heard(at + size)
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [HALF, 100])
async def test_between_windows_is_looked_while_a_reply_sounds(size: int, listener: Listener, ears: Ears) -> None:
    """Of which nothing is heard: the client has headphones, as silence says that was sent before."""
    pcm = clip("card5").pcm[: 40 * WINDOW]
    quiet = Ears(ears.vad, ears.smart_turn, echo=False)
    deaf_to_echo = Listener(quiet)
    await listen(deaf_to_echo, pcm, size, played=True)
    expected_glimpses = between(ears, pcm)
    await deaf_to_echo.until(lambda: len(deaf_to_echo.glimpses) == len(expected_glimpses))
    assert deaf_to_echo.glimpses == expected_glimpses
    assert deaf_to_echo.activity == expected(ears, pcm)
    deaf_to_echo.hearing.close()
    quiet.close()

    await listen(listener, pcm, size, played=False)
    assert listener.glimpses == []


async def test_a_glimpse_comes_before_the_window_that_ends_after_it(listener: Listener) -> None:
    pcm = clip("card5").pcm[: 20 * WINDOW + HALF]
    listener.hearing.feed(pcm[: 20 * WINDOW])
    await listener.heard(20 * WINDOW)
    listener.hearing._played_at = asyncio.get_running_loop().time()
    listener.hearing.feed(pcm[20 * WINDOW :])
    await listener.until(lambda: bool(listener.glimpses))
    listener.hearing.feed(silence(0.016))
    await listener.heard(21 * WINDOW)
    assert [event.at_ms for event in listener.events[-2:]] == [656, 672]
    assert isinstance(listener.events[-2], Glimpse)
