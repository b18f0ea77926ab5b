from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rt.media.dejitter import STALL_MS, Dejitter, Sound
from omni_rt.media.opus import OpusEncoder
from tests.support.voices import rms, voiced

RATE = 16_000
REORDER_MS, CONCEAL_MS = 60, 200
TICK = 20


@cache
def stream(frame_ms: int = 20, seconds: float = 6.0) -> tuple[bytes, ...]:
    encoder = OpusEncoder(24_000, expected_loss=20)
    pcm, n = voiced(seconds, 24_000), 24 * frame_ms
    return tuple(encoder.encode(pcm[i : i + n]) for i in range(0, len(pcm) - n + 1, n))


@dataclass
class Line:
    """A sender, a network and a clock around one Dejitter; keeps what came out and when."""

    seq: int = 100
    rtp: int = 5000
    source: int = 1
    frame_ms: int = 20
    dejitter: Dejitter = field(
        default_factory=lambda: Dejitter(RATE, reorder_packets=3, reorder_ms=REORDER_MS, conceal_limit_ms=CONCEAL_MS)
    )
    out: list[Sound] = field(default_factory=list)
    now: float = 0.0
    polled: float = 0.0

    def packet(self, number: int, *, skipped_ms: int = 0, payload: bytes | None = None) -> None:
        """Packet `number` of the stream arrives now; `skipped_ms` of RTP clock passed unsent before it."""
        self.out += self.dejitter.push(
            self.source,
            (self.seq + number) & 0xFFFF,
            (self.rtp + 48 * (self.frame_ms * number + skipped_ms)) & 0xFFFFFFFF,
            stream(self.frame_ms)[number] if payload is None else payload,
            self.now,
        )

    def wait(self, ms: float) -> None:
        end = self.now + ms
        while self.polled + TICK <= end:
            self.polled += TICK
            self.now = max(self.now, self.polled)
            self.out += self.dejitter.poll(self.polled)
        self.now = end

    def run(self, numbers: range, lost: frozenset[int] | set[int] = frozenset()) -> None:
        for number in numbers:
            if number not in lost:
                self.packet(number)
            self.wait(self.frame_ms)

    @property
    def ms(self) -> float:
        return sum(len(sound.pcm) for sound in self.out) * 1000 / RATE

    def is_continuous(self) -> bool:
        ends = [(sound.rtp + 3 * len(sound.pcm)) & 0xFFFFFFFF for sound in self.out]
        return ends[:-1] == [sound.rtp for sound in self.out[1:]]


def test_packets_in_order_leave_at_once() -> None:
    line = Line()
    for number in range(100):
        line.packet(number)
        assert len(line.out) == number + 1
        line.wait(20)
    stats = line.dejitter.stats
    assert line.ms == 2000
    assert (stats.packets, stats.lost, stats.concealed_ms, stats.filled_ms, stats.buffered_max_ms) == (100, 0, 0, 0, 0)


@pytest.mark.parametrize("frame_ms", [10, 20, 40, 60])
def test_any_frame_length_keeps_the_clock(frame_ms: int) -> None:
    line = Line(frame_ms=frame_ms)
    line.run(range(40), lost={7, 20, 21})
    assert line.ms == 40 * frame_ms
    assert line.is_continuous()
    assert line.dejitter.stats.buffered_ms == 0


def test_a_hole_is_restored_from_the_packet_after_it() -> None:
    line = Line()
    line.run(range(50), lost={20})
    stats = line.dejitter.stats
    assert line.ms == 1000
    assert (stats.lost, stats.recovered, stats.concealed_ms) == (1, 1, 0)
    assert not any(sound.concealed for sound in line.out)
    assert rms(line.out[20].pcm) > 0.5 * rms(line.out[19].pcm)


def test_of_three_lost_packets_two_are_invented_and_marked() -> None:
    line = Line()
    line.run(range(50), lost={20, 21, 22})
    stats = line.dejitter.stats
    assert line.ms == 1000
    assert (stats.lost, stats.recovered, stats.concealed_ms) == (3, 1, 40)
    assert [number for number, sound in enumerate(line.out) if sound.concealed] == [20, 21]


def test_a_hole_waits_for_three_packets_and_no_longer() -> None:
    line = Line()
    line.run(range(10))
    for number in (11, 12):
        line.packet(number)
    assert line.ms == 200
    assert line.dejitter.stats.buffered_ms == 40
    line.packet(13)
    assert line.ms == 280
    assert line.dejitter.stats.buffered_ms == 0


def test_a_hole_that_nothing_follows_is_given_up_on_the_clock() -> None:
    line = Line()
    line.run(range(10))
    line.packet(11)
    line.wait(REORDER_MS - 1)
    assert line.ms == 200
    line.wait(TICK + 1)
    assert line.ms == 240
    assert line.dejitter.stats.buffered_ms == 0


def test_a_swapped_packet_is_played_in_its_place() -> None:
    line = Line()
    line.run(range(10))
    for number in (11, 10, 12):
        line.packet(number)
    stats = line.dejitter.stats
    assert (stats.reordered, stats.lost, stats.late) == (1, 0, 0)
    assert line.is_continuous()
    assert line.ms == 260


def test_late_and_duplicate_packets_add_nothing() -> None:
    line = Line()
    line.run(range(20), lost={10})
    before = line.ms
    line.packet(10)
    line.packet(19)
    line.packet(5)
    assert line.ms == before
    assert (line.dejitter.stats.late, line.dejitter.stats.duplicate) == (1, 2)


def test_sequence_and_timestamp_wrap() -> None:
    line = Line(seq=65_530, rtp=2**32 - 3 * 960)
    line.run(range(30), lost={4, 6, 9})
    assert line.ms == 600
    assert line.is_continuous()
    assert line.dejitter.stats.restarts == 0


def test_a_run_of_concealment_is_capped_and_the_rest_is_silence() -> None:
    line = Line()
    line.run(range(20))
    line.packet(50)
    line.wait(REORDER_MS + TICK)
    assert line.ms == 51 * 20
    assert line.is_continuous()
    invented = [sound for sound in line.out if sound.concealed]
    assert line.dejitter.stats.concealed_ms == CONCEAL_MS
    loud = sum(len(sound.pcm) for sound in invented if rms(sound.pcm) > 0)
    assert loud <= CONCEAL_MS * RATE // 1000


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x03\xff", bytes(400)])
def test_a_corrupt_packet_costs_its_own_time_only(garbage: bytes) -> None:
    line = Line()
    line.run(range(10))
    line.packet(10, payload=garbage)
    line.wait(20)
    line.run(range(11, 30))
    assert abs(line.ms - 600) <= 20
    assert line.dejitter.stats.lost == 0
    assert rms(line.out[-1].pcm) > 500


def test_refused_payloads_are_counted_and_concealed() -> None:
    line = Line()
    line.run(range(10))
    line.packet(10, payload=b"\xff\xff\xff")
    assert line.dejitter.stats.corrupt == 1
    assert line.out[-1].concealed
    assert line.ms == 220


def test_only_garbage_stops_sounding_at_the_cap() -> None:
    line = Line()
    line.run(range(10))
    for number in range(10, 110):
        line.packet(number, payload=b"\xff\xff\xff")
        line.wait(20)
    assert line.ms == 2200
    assert line.dejitter.stats.concealed_ms == CONCEAL_MS
    assert rms(line.out[-1].pcm) == 0


def test_a_pause_of_the_sender_is_silence_of_the_same_length() -> None:
    line = Line()
    line.run(range(10))
    line.wait(380)
    line.packet(10, skipped_ms=380)
    assert line.ms == 11 * 20 + 380
    assert line.is_continuous()
    assert line.dejitter.stats.concealed_ms == 0
    assert line.dejitter.stats.filled_ms == 380


def test_after_a_dtx_packet_silence_runs_in_real_time() -> None:
    line = Line()
    line.run(range(10))
    line.packet(10, payload=stream()[10][:1])
    before = line.ms
    line.wait(REORDER_MS + 300)
    assert 260 <= line.ms - before <= 300
    line.wait(40)
    line.packet(11, skipped_ms=380)
    assert line.ms == 12 * 20 + 380
    assert line.is_continuous()


def test_a_mute_microphone_becomes_silence_in_real_time_and_comes_back() -> None:
    line = Line()
    line.run(range(10))
    line.wait(10_000)
    assert abs(line.ms - (200 + 10_000 - STALL_MS)) <= 60
    line.packet(10, skipped_ms=10_000)
    assert line.ms == 11 * 20 + 10_000
    line.run(range(11, 20))
    assert line.dejitter.stats.restarts == 0


def test_silence_runs_before_the_first_packet() -> None:
    line = Line()
    line.wait(STALL_MS + 2000)
    assert 1900 <= line.ms <= 2000
    line.run(range(10))
    assert rms(line.out[-1].pcm) > 0


def test_a_burst_after_a_stall_is_played_whole() -> None:
    line = Line()
    line.run(range(10))
    line.wait(1000)
    for number in range(10, 60):
        line.packet(number)
    spoken = [sound for sound in line.out if rms(sound.pcm) > 0]
    assert len(spoken) == 60
    assert line.dejitter.stats.late == 0


def test_a_jump_of_the_clock_is_filled_with_two_seconds_at_most() -> None:
    line = Line()
    line.run(range(10))
    line.packet(10, skipped_ms=3_600_000)
    assert line.ms == 2220
    assert line.dejitter.stats.restarts == 1
    line.run(range(11, 20))
    assert line.out[-1].pcm.any()


def test_a_clock_that_goes_back_keeps_playing() -> None:
    line = Line()
    line.run(range(20))
    line.rtp -= 48_000
    line.run(range(20, 40))
    assert line.ms == 800


def test_another_source_takes_over_and_stragglers_of_the_first_are_late() -> None:
    line = Line()
    line.run(range(20), lost={19})
    line.source, line.seq, line.rtp = 2, 40_000, 123
    line.run(range(20, 40))
    line.source, line.seq, line.rtp = 1, 100, 5000
    line.packet(19)
    line.source, line.seq, line.rtp = 2, 40_000, 123
    line.run(range(40, 60))
    stats = line.dejitter.stats
    assert (stats.restarts, stats.late, stats.buffered_ms) == (1, 1, 0)
    assert line.ms == 59 * 20


def test_a_sender_that_begins_anew_under_the_same_source_is_followed() -> None:
    line = Line(seq=5000)
    line.run(range(20))
    line.seq, line.rtp = 100 - 20, 77
    line.run(range(20, 40))
    assert line.ms == 800
    assert line.dejitter.stats.restarts == 1


@settings(max_examples=120)
@given(data=st.data())
def test_whatever_the_network_does_the_timeline_follows_the_senders_clock(data: st.DataObject) -> None:
    count = data.draw(st.integers(20, 120), label="packets")
    fate = data.draw(
        st.lists(
            st.one_of(
                st.none(),
                st.tuples(st.integers(0, 90), st.booleans()),
                st.just((0, False)),
                st.just((0, False)),
            ),
            min_size=count,
            max_size=count,
        ),
        label="None: lost; (delay in ms, sent twice)",
    )
    pauses = data.draw(st.dictionaries(st.integers(1, count - 1), st.integers(1, 20), max_size=3), label="DTX frames")
    line = Line(seq=data.draw(st.integers(0, 65_535)), rtp=data.draw(st.integers(0, 2**32 - 1)))
    arrivals, sent_at, skipped = [], 0.0, 0
    for number in range(count):
        skipped += 20 * pauses.get(number, 0)
        sent_at = 20.0 * number + skipped
        outcome = (0, False) if number in (0, count - 1) else fate[number]
        if outcome is not None:
            arrivals += [(sent_at + outcome[0], number, skipped)] * (2 if outcome[1] else 1)
    for at, number, skip in sorted(arrivals):
        line.wait(at - line.now)
        line.packet(number, skipped_ms=skip)
        stats = line.dejitter.stats
        assert stats.buffered_ms <= 2 * 20
    line.wait(REORDER_MS + TICK)
    assert line.dejitter.stats.buffered_ms == 0
    assert line.is_continuous()
    assert line.ms == 20 * count + skipped


@settings(max_examples=60)
@given(
    packets=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 65_535),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=40),
            st.integers(0, 700),
        ),
        max_size=80,
    )
)
def test_no_packet_can_raise_or_hold_or_flood(packets: list[tuple[int, int, int, bytes, int]]) -> None:
    line = Line()
    for source, seq, rtp, payload, pause in packets:
        line.wait(pause)
        before = line.ms
        line.out += line.dejitter.push(source, seq, rtp, payload, line.now)
        assert line.ms - before < 20_000
        assert line.dejitter.stats.buffered_ms <= 3 * 120
        line.out.clear()
    line.wait(REORDER_MS + TICK)
    assert line.dejitter.stats.buffered_ms == 0
    assert all(sound.pcm.dtype == np.int16 for sound in line.out)
