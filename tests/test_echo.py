"""The assistant's own voice in the microphone is not speech; a person's is, over it as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from omni_rt.core.timeline import Activity, EarlyActivity, Heard
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.echo import PACED_MS, QUEUED_MS, Echo
from omni_rt.media.hearing import Ears
from omni_rt.media.playback import DECAY, HOP, Playback, SentSound, fingerprints
from omni_rt.media.vad import WINDOW, SileroVad
from tests.support.local import voice
from tests.support.speech import clip, model, silence, with_noise
from tests.support.stage import Stage
from tools.echo.room import Room
from tools.echo.trial import Judged, judge, paced, queued, replies, turns

SECOND = 16 * 1000
SENTENCES = (
    "It's about twenty minutes by bus, but walking along the canal is much nicer in the morning.",
    "You have three meetings today: the first with Anna, the second with the design team, and the last one at 4.",
    "Go past the church, turn left, and you will see it right in front of you.",
    "Yes, it is still raining.",
)


@cache
def sentences() -> tuple[Pcm, ...]:
    return tuple(voice().speak(sentence).pcm for sentence in SENTENCES)


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return SileroVad(model("silero-vad-v6"))


def reply(seconds: float, seed: int = 0, pause_s: float = 1.5) -> Pcm:
    return replies(sentences(), seconds, np.random.default_rng(seed), pause_s)


def person(*said: tuple[str, float], seconds: float, db: float = 0) -> Pcm:
    """Clips, each at so many seconds, so many dB against 24 below full scale."""
    out = np.zeros(round(seconds * INPUT_RATE), np.int16)
    for name, at in said:
        pcm = clip(name).pcm.astype(np.float64)
        pcm *= 32768 * 10 ** ((db - 24) / 20) / np.sqrt(np.mean(pcm**2))
        begin = round(at * INPUT_RATE)
        out[begin : begin + len(pcm)] = np.clip(pcm, -32768, 32767)[: len(out) - begin]
    return out


def heard(vad: SileroVad, room: Room, seconds: float) -> Judged:
    sent = reply(seconds, room.seed)
    return judge(vad, room.microphone(sent, person(seconds=seconds)), paced(sent))


# -- with the voice and the detector that the server has


@pytest.mark.models
@pytest.mark.parametrize(
    "room",
    [
        Room([(0, 120)], [(0, -10)], reverberation_s=0.4, seed=1),
        Room([(0, 420)], [(0, -20)], loss=0.05, noise_db=-55, seed=2),
        Room([(0, 40)], [(0, -30)], loss=0.05, drift_ppm=200, seed=3),
    ],
    ids=["loud", "late and lossy", "faint"],
)
def test_echo_alone_opens_no_utterance(vad: SileroVad, room: Room) -> None:
    judged = heard(vad, room, 20)
    assert len(turns(judged.plain).interrupted) >= 4, "without it each reply would interrupt itself"
    assert not turns(judged.speech).opened


@pytest.mark.models
def test_echo_is_found_before_the_callers_canceller_is_ready(vad: SileroVad) -> None:
    for seed in (4, 5):
        room = Room([(0, 180)], [(0, -6), (2000, -15), (4000, -25), (6000, -45)], seed=seed)
        assert not turns(heard(vad, room, 10).speech).interrupted


@pytest.mark.models
def test_a_delay_that_jumps_is_found_again(vad: SileroVad) -> None:
    echo = Echo(PACED_MS)
    sent = reply(18, 6)
    room = Room([(0, 120), (6000, 320), (12_000, 80)], loss=0.02, seed=6)
    microphone = room.microphone(sent, person(seconds=18))
    judged = judge(vad, microphone, paced(sent), echo)
    assert not turns(judged.speech).interrupted
    assert echo.delay_ms == pytest.approx(80, abs=17)


@pytest.mark.models
@pytest.mark.parametrize(("echo_db", "person_db", "late_ms"), [(-20, 0, 64), (-20, -10, 192), (-10, -4, 224)])
def test_a_person_who_speaks_over_the_assistant_is_heard(
    vad: SileroVad, echo_db: float, person_db: float, late_ms: float
) -> None:
    said = person(("card5", 3), ("something", 8), ("goforward", 13), seconds=17, db=person_db)
    sent = reply(17, 7, pause_s=0.2)
    alone = turns(judge(vad, said, []).speech)
    judged = judge(vad, Room([(0, 200)], [(0, echo_db)], loss=0.02, seed=7).microphone(sent, said), paced(sent))
    found = turns(judged.speech)
    for wanted, got in ((alone.opened, found.opened), (alone.interrupted, found.interrupted)):
        assert len(wanted) >= 3
        for at in wanted:
            assert any(at - 64 <= other <= at + late_ms for other in got)


@pytest.mark.models
def test_a_person_is_heard_in_the_first_second_of_a_call(vad: SileroVad) -> None:
    said = person(("card5", 0.6), seconds=5)
    sent = reply(5, 8)
    alone = turns(judge(vad, said, []).speech).interrupted[0]
    for level, late_ms in ((-90, 0), (-30, 64), (-15, 600)):
        judged = judge(vad, Room([(0, 150)], [(0, level)], seed=8).microphone(sent, said), paced(sent))
        assert turns(judged.speech).interrupted[0] <= alone + late_ms


@pytest.mark.models
def test_a_client_that_plays_what_it_was_sent_at_once(vad: SileroVad) -> None:
    """Over a WebSocket whole replies come in a burst, and the client may buffer for seconds."""
    for delay in (300, 2500):
        pause = np.zeros(3 * OUTPUT_RATE, np.int16)
        sent = np.concatenate([pause, *sentences()[:2], pause, sentences()[3], pause])[-16 * OUTPUT_RATE :]
        microphone = Room([(0, delay)], [(0, -10)], loss=None, seed=9).microphone(sent, person(seconds=16))
        judged = judge(vad, microphone, queued(sent), Echo(QUEUED_MS))
        assert turns(judged.plain).interrupted
        assert not turns(judged.speech).interrupted


# -- what comes out


def test_nothing_is_done_while_nothing_is_played() -> None:
    echo = Echo(PACED_MS)
    sound = with_noise(np.concatenate([clip("card1").pcm, silence(1)]), 100)
    for at in range(0, len(sound) // WINDOW * WINDOW, WINDOW):
        window = sound[at : at + WINDOW]
        out = echo.hear(window, at)
        assert out.pcm is window
        assert out.explained == 0


@pytest.mark.models
def test_without_an_echo_the_microphone_passes_unchanged(vad: SileroVad) -> None:
    """Headphones: somebody speaks over a reply that the microphone does not hear."""
    echo = Echo(PACED_MS)
    said = with_noise(person(("lv_0870", 1), seconds=8), 10)
    due = paced(reply(8, 10, pause_s=0.2))
    for at in range(0, len(said) // WINDOW * WINDOW, WINDOW):
        while due and due[0].at_ms * 16 < at + WINDOW:
            piece = due.pop(0)
            echo.played(piece.pcm, piece.stream_ms, round(piece.at_ms * 16))
        window = said[at : at + WINDOW]
        assert echo.hear(window, at).pcm is window
    assert echo.delay_ms is None


@pytest.mark.models
def test_taken_up_the_sound_has_no_gap_and_ends_as_it_came(vad: SileroVad) -> None:
    """Where no echo is expected, what is given is the microphone 16 ms late."""
    sent = reply(4, 11)
    said = person(("card5", 5), seconds=9)
    microphone = Room([(0, 100)], seed=11).microphone(sent, said)
    echo = Echo(PACED_MS)
    due = paced(sent)
    out = []
    for at in range(0, len(microphone) // WINDOW * WINDOW, WINDOW):
        while due and due[0].at_ms * 16 < at + WINDOW:
            piece = due.pop(0)
            echo.played(piece.pcm, piece.stream_ms, round(piece.at_ms * 16))
        out.append(echo.hear(microphone[at : at + WINDOW], at).pcm)
    given = np.concatenate(out)
    begin = 5 * SECOND
    assert echo.delay_ms == pytest.approx(100, abs=17)
    assert np.array_equal(given[begin:], microphone[begin : len(given)])
    before = slice(0, SECOND // 2 // WINDOW * WINDOW)
    assert np.array_equal(given[before], microphone[before])


@pytest.mark.models
def test_the_same_calls_give_the_same(vad: SileroVad) -> None:
    room = Room(seed=12)
    first, second = heard(vad, room, 5), heard(vad, room, 5)
    assert np.array_equal(first.speech, second.speech)
    assert first.explained.max() == 1


# -- where sound is placed


def placed(sent: SentSound, seconds: float) -> list[float]:
    """When playing begins, ends, begins again ..., in seconds of the microphone."""
    frames = np.array([sent.take(at, HOP).any() for at in range(0, round(seconds * SECOND), HOP)])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], frames, [False]]).astype(int)))
    return [float(edge) * HOP / SECOND for edge in edges]


def loud(seconds: float) -> Pcm:
    return np.full(round(seconds * OUTPUT_RATE), 1000, np.int16)


def test_packets_that_come_unevenly_are_played_evenly() -> None:
    sent = SentSound()
    uneven = np.random.default_rng(0).integers(0, 60 * 16, 100)
    for n in range(100):
        sent.add(loud(0.02), 5000 + 20 * n, SECOND + 320 * n + int(uneven[n]))
    assert len(placed(sent, 4)) == 2


def test_a_burst_is_played_in_order_and_a_silence_ends_it() -> None:
    sent = SentSound()
    sent.add(loud(1), 0, SECOND)
    sent.add(loud(1), 1000, SECOND)
    sent.add(loud(1), 2000, 6 * SECOND)
    assert placed(sent, 8) == pytest.approx([1, 3, 6, 7], abs=0.017)


def test_a_clock_that_drifts_is_followed_from_reply_to_reply() -> None:
    sent = SentSound()
    sent.add(loud(1), 0, SECOND)
    sent.add(loud(1), 4000, 5 * SECOND - 1600)
    assert placed(sent, 7) == pytest.approx([1, 2, 4.9, 5.9], abs=0.017)


def test_what_a_stopped_client_had_queued_is_not_played() -> None:
    sent = SentSound()
    sent.add(loud(5), 0, SECOND)
    sent.stop(2 * SECOND)
    sent.add(loud(1), 5000, 3 * SECOND)
    assert placed(sent, 8) == pytest.approx([1, 2.25, 3, 4], abs=0.017)


@pytest.mark.parametrize("hops", [40, 400])
def test_what_was_played_is_found_at_its_lag(hops: int) -> None:
    """Also after the rows were moved down. A tone of 1 kHz is line 32; it sounds for one hop, 6 hops before the end."""
    playback = Playback(16, least=1.0)
    tone = 3000 * np.sin(2 * np.pi * 1000 * np.arange(384) / OUTPUT_RATE)
    playback.sent.add(tone.astype(np.int16), 0, (hops - 6) * HOP)
    live = [playback.advance(at) for at in range(0, hops * HOP, 2 * HOP)]
    assert [index for index, each in enumerate(live) if each] == [hops // 2 - 3]
    for ago in (0, 1):
        lines = [playback.power(lag, np.ones(1, np.float32), ago) for lag in range(16)]
        newest = next(lag for lag, line in enumerate(lines) if line[32] == max(each[32] for each in lines))
        assert newest == 5 - ago - 1
        assert int(lines[newest].argmax()) == 32
        assert lines[newest - 2][32] == pytest.approx(DECAY**2 * lines[newest][32], rel=0.01)
        assert not lines[newest + 2].any()
        assert np.array_equal(playback.loudest(0, 16, ago), np.max(lines, axis=0))
        alike = playback.likeness(fingerprints(lines[newest][None], 1.0)[0], ago)
        assert alike[newest] == pytest.approx(1, abs=1e-3)
        assert alike[newest + 2] == 0
    some = np.array([1, 2, 3, 4], np.float32)
    assert np.array_equal(playback.power(-2, some, 0), playback.power(0, some[2:], 0))
    assert not playback.power(16, some, 0).any()


# -- in a session


@pytest.fixture(scope="module")
def ears() -> Iterator[tuple[Ears, Ears]]:
    with_echo, without = (Ears.load(model("silero-vad-v6"), model("smart-turn-v3.2"), echo) for echo in (True, False))
    yield with_echo, without
    with_echo.close()
    without.close()


@pytest.mark.models
async def test_hearing_counts_only_speech_that_is_not_the_assistants(ears: tuple[Ears, Ears]) -> None:
    sent = reply(8, 13)
    microphone = Room([(0, 250)], seed=13).microphone(sent, person(("card5", 5), seconds=8))
    found = []
    for each in ears:
        reported: list[Activity] = []
        done = asyncio.Event()

        def report(event: Heard, reported: list[Activity] = reported, done: asyncio.Event = done) -> None:
            if isinstance(event, Activity):
                reported.append(event)
            if len(reported) == len(microphone) // WINDOW:
                done.set()

        hearing = each.listen(report)
        due = paced(sent)
        for at in range(0, len(microphone), 320):
            while due and due[0].at_ms * 16 <= at:
                hearing.played(due[0].pcm, due.pop(0).stream_ms, paced=True)
            hearing.feed(microphone[at : at + 320])
        await asyncio.wait_for(done.wait(), 60)
        hearing.close()
        found.append(turns(np.array([event.speech for event in reported])).interrupted)
    heard, plain = found
    assert plain[0] < 3000
    assert heard
    assert all(5000 < at < 7500 for at in heard)


@pytest.mark.models
async def test_nothing_is_told_between_windows_of_what_is_an_echo_or_may_be_one(ears: tuple[Ears, Ears]) -> None:
    sent = reply(6, 13)
    microphone = Room([(0, 250)], seed=13).microphone(sent, person(seconds=6))
    told = []
    for each in ears:
        reported: list[Heard] = []
        hearing = each.listen(reported.append)
        due = paced(sent)
        for at in range(0, len(microphone), 256):
            while due and due[0].at_ms * 16 <= at:
                hearing.played(due[0].pcm, due.pop(0).stream_ms, paced=True)
            hearing.feed(microphone[at : at + 256])
            async with asyncio.timeout(60):
                while sum(isinstance(event, Activity) for event in reported) < (at + 256) // WINDOW:
                    await asyncio.sleep(0)
        hearing.close()
        told.append(sum(isinstance(event, EarlyActivity) and event.speech > 0.1 for event in reported))
    with_echo, without = told
    assert without > 100
    assert with_echo == 0


async def test_a_session_tells_hearing_what_is_sent_and_when_it_stops(stage: Stage) -> None:
    await stage.turn()
    stage.transport.play(2)
    (ears,) = stage.ears
    assert len(ears.heard_playing) == 2
    assert ears.heard_playing[1][0] == ears.heard_playing[0][1]
    assert not ears.stops
    stage.hear(500, True)
    await stage.settle()
    assert ears.stops == 1
