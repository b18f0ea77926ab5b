"""What was sent and what was heard, with and without word from the loudspeaker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.core.playout import ASSUMED_DELAY_MS, LONGEST_DELAY_MS, Playout


def sending(frames: int, start_ms: float = 1000, generation: int = 1, stream_ms: float = 500) -> Playout:
    """`frames` frames of a reply of 2 s, sent in real time."""
    playout = Playout()
    playout.queue(generation, 2000)
    for k in range(frames):
        playout.sent(generation, 20 * k, stream_ms + 20 * k, 20, start_ms + 20 * k)
    return playout


def test_without_reports_the_loudspeaker_is_a_fixed_delay_behind() -> None:
    playout = sending(100)
    assert playout.heard_ms(1, 1000 + ASSUMED_DELAY_MS) == 0
    assert playout.heard_ms(1, 1000 + ASSUMED_DELAY_MS + 730) == 730
    assert playout.heard_ms(1, 9999) == 2000


def test_nothing_is_heard_that_was_not_sent() -> None:
    playout = sending(10)
    assert (playout.sent_ms(1), playout.heard_ms(1, 9999)) == (200, 200)
    assert not playout.finished_sending(1)
    assert (playout.sent_ms(2), playout.heard_ms(2, 9999)) == (0, 0)
    assert playout.started(1)
    assert not playout.started(2)


def test_a_report_tells_the_delay() -> None:
    playout = sending(50)
    playout.report(stream_ms=500 + 600, now_ms=1000 + 900)
    assert playout.heard_ms(1, 1900) == 600
    assert playout.heard_ms(1, 1950) == 650


def test_an_old_report_still_tells_the_delay() -> None:
    playout = sending(100)
    playout.report(stream_ms=500, now_ms=1300)
    assert playout.heard_ms(1, 1300) == 0
    assert playout.heard_ms(1, 2800) == 1500


def test_the_delay_outlives_the_reply() -> None:
    playout = sending(50)
    playout.report(stream_ms=500 + 500, now_ms=1000 + 800)
    playout.forget(1)
    playout.queue(2, 20)
    playout.sent(2, 0, 9000, 20, 20_000)
    assert playout.heard_ms(2, 20_300) == 0
    assert playout.heard_ms(2, 20_310) == 10


def test_a_report_before_anything_was_sent_says_nothing() -> None:
    playout = Playout()
    playout.report(stream_ms=100, now_ms=50_000)
    playout.sent(1, 0, 120, 20, 1000)
    assert playout.heard_ms(1, 1000 + ASSUMED_DELAY_MS + 5) == 5


def test_a_loudspeaker_that_stands_still_does_not_hold_the_reply_for_ever() -> None:
    playout = sending(100)
    playout.end(1)
    for now in range(1000, 9000, 100):
        playout.report(stream_ms=500, now_ms=now)
        assert playout.finished(1, now) == (now >= 3000 + LONGEST_DELAY_MS)


def test_a_client_that_plays_hears_one_chunk_after_the_other() -> None:
    playout = Playout()
    for k, now in enumerate((1000, 1010, 2000)):
        playout.queue(1, 400)
        playout.sent(1, 400 * k, 400 * k, 400, now)
    playout.end(1)
    assert playout.heard_ms(1, 1000 + ASSUMED_DELAY_MS + 700) == 700
    assert playout.heard_ms(1, 1900) == 800
    assert playout.heard_ms(1, 2000 + ASSUMED_DELAY_MS + 100) == 900
    assert not playout.finished(1, 2000 + ASSUMED_DELAY_MS + 398)
    assert playout.finished(1, 2000 + ASSUMED_DELAY_MS + 400)


def test_a_stopped_reply_does_not_delay_the_next() -> None:
    playout = Playout()
    playout.sent(1, 0, 0, 30_000, 1000)
    playout.forget(1)
    playout.sent(2, 0, 30_000, 400, 2000)
    assert playout.heard_ms(2, 2000 + ASSUMED_DELAY_MS + 100) == 100


def test_a_reply_waits_for_the_end_of_the_one_before_it() -> None:
    playout = Playout()
    playout.sent(1, 0, 0, 1000, 1000)
    playout.sent(2, 0, 1000, 400, 1200)
    assert playout.heard_ms(2, 2000 + ASSUMED_DELAY_MS + 50) == 50
    assert playout.heard_ms(1, 2000 + ASSUMED_DELAY_MS + 50) == 1000


def test_a_trail_tells_how_much_lay_before_a_place_of_the_stream() -> None:
    playout = Playout()
    for k, stream_ms in enumerate((500, 520, 900)):
        playout.sent(1, 20 * k, stream_ms, 20, 1000 + stream_ms)
    playout.sent(2, 0, 920, 20, 1920)
    trail = playout.trail(1)
    playout.forget(1)
    assert [trail.heard_ms(at) for at in (499, 500, 531, 700, 905, 5000)] == [None, 0, 31, 40, 45, 60]
    assert playout.trail(1).heard_ms(5000) is None


def test_only_a_client_that_reports_is_known_to_report() -> None:
    playout = sending(1)
    assert not playout.reported
    playout.report(500, 1000)
    assert playout.reported


def test_finished_is_made_sent_and_heard() -> None:
    playout = sending(99)
    now = 1000 + 2000 + ASSUMED_DELAY_MS
    assert not playout.finished(1, now)
    playout.end(1)
    assert not playout.finished(1, now)
    playout.sent(1, 1980, 500 + 1980, 20, 2980)
    assert playout.finished_sending(1)
    assert not playout.finished(1, now - 2)
    assert playout.finished(1, now)


def test_a_reply_without_audio_is_finished_when_it_is_made() -> None:
    playout = Playout()
    assert not playout.finished(3, 10)
    playout.end(3)
    assert playout.finished(3, 10)


def test_a_forgotten_reply_is_gone() -> None:
    playout = sending(10)
    playout.end(1)
    playout.forget(1)
    assert (playout.sent_ms(1), playout.heard_ms(1, 9999)) == (0, 0)
    assert not playout.started(1)
    assert not playout.finished(1, 9999)


@given(
    gaps=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    delay=st.integers(0, int(LONGEST_DELAY_MS)),
    reported=st.sets(st.integers(0, 29)),
)
def test_heard_grows_never_beyond_what_was_sent_and_reports_make_it_true(
    gaps: list[int], delay: int, reported: set[int]
) -> None:
    """20 ms frames with stalls between them, each stall a silence on the stream."""
    playout = Playout()
    at, known, heard = 1000, False, 0.0
    sent: list[int] = []
    for k, gap in enumerate(gaps):
        for now in range(at, at + gap + 20, 5):
            was, heard = heard, playout.heard_ms(1, now)
            truth = sum(min(20, max(0, now - delay - start)) for start in sent)
            assert 0 <= heard <= playout.sent_ms(1)
            if known:
                assert heard == pytest.approx(truth)
                assert heard >= was
        at += gap + 20
        playout.sent(1, 20 * k, at, 20, at)
        sent.append(at)
        if k in reported:
            playout.report(at - delay, at)
            known, heard = True, 0.0


@given(st.lists(st.tuples(st.booleans(), st.integers(-5000, 50_000)), max_size=60))
def test_no_report_makes_more_heard_than_sent(steps: list[tuple[bool, int]]) -> None:
    playout = Playout()
    count = 0
    for now, (send, stream_ms) in enumerate(steps, 1):
        if send:
            playout.sent(1, 20 * count, 20 * count, 20, 20 * now)
            count += 1
        else:
            playout.report(stream_ms, 20 * now)
        assert 0 <= playout.heard_ms(1, 20 * now) <= playout.sent_ms(1) == 20 * count
