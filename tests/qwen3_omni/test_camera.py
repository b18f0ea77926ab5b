"""Which frames of a camera are shown, one by one or in pairs."""

from __future__ import annotations

import numpy as np

from omni_rt.engine.api import Rgb
from omni_rt.engine.qwen3_omni.camera import PairSlots, Shot, Snapshots


def frame(number: int, height: int = 2) -> Rgb:
    return np.full((height, 2, 3), number, np.uint8)


def numbers(shot: Shot | None) -> tuple[int, ...]:
    return () if shot is None else tuple(int(rgb[0, 0, 0]) for rgb in shot.frames)


def test_the_newest_frame_is_taken_at_most_once_a_period() -> None:
    camera, seen = Snapshots(1000), []
    for number in range(10):
        camera.show(frame(number), number * 300)
        if (shot := camera.take(number * 300)) is not None:
            seen.append((numbers(shot), shot.at_ms))
    assert seen == [((0,), 0), ((4,), 1200), ((8,), 2400)]
    assert numbers(camera.take(2700, closing=True)) == (9,)
    assert camera.take(9999, closing=True) is None


def test_a_late_older_frame_does_not_replace_a_newer_one() -> None:
    camera = Snapshots(1000)
    camera.show(frame(2), 200)
    camera.show(frame(1), 100)
    assert numbers(camera.take(200)) == (2,)


def test_the_second_of_a_pair_is_half_a_period_later() -> None:
    camera, seen = Snapshots(1000, pairs=True), []
    for number in range(12):
        camera.show(frame(number), number * 250)
        if (shot := camera.take(number * 250)) is not None:
            seen.append((numbers(shot), shot.at_ms))
    assert seen == [((0, 2), 0), ((4, 6), 1000), ((8, 10), 2000)]


def test_a_second_frame_that_does_not_come_or_is_of_another_shape_is_the_first_again() -> None:
    camera = Snapshots(1000, pairs=True)
    camera.show(frame(1), 0)
    assert camera.take(999) is None
    assert numbers(camera.take(1000)) == (1, 1)
    camera.show(frame(2), 1000)
    assert camera.take(1000) is None
    assert numbers(camera.take(1001, closing=True)) == (2, 2)
    camera.show(frame(3), 2000)
    assert camera.take(2000) is None
    camera.show(frame(4, height=4), 2500)
    assert numbers(camera.take(2500)) == (3, 3)
    assert numbers(camera.take(2600, closing=True)) == (4, 4)


def test_pairs_of_a_steady_camera_are_those_of_the_clip() -> None:
    jitter = np.random.default_rng(0).uniform(-100, 100, 20)
    slots, seen = PairSlots(5000, 1000), []
    for number in range(20):
        now = 5000 + number * 500
        assert slots.show(frame(number), now + jitter[number])
        while (shot := slots.take(now)) is not None:
            seen.append((numbers(shot), shot.at_ms))
    assert seen == [((2 * i, 2 * i + 1), 5000 + 1000 * i) for i in range(10)]


def test_of_many_frames_the_nearest_to_a_place_are_shown() -> None:
    slots, seen = PairSlots(0, 1000), []
    for number in range(31):
        slots.show(frame(number), number * 100 + 20)
        while (shot := slots.take(number * 100)) is not None:
            seen.append(numbers(shot))
    assert seen == [(0, 5), (10, 15), (20, 25)]


def test_missing_frames_are_made_up_for() -> None:
    slots = PairSlots(0, 1000)
    assert slots.take(5000) is None  # nothing was ever shown
    slots.show(frame(1), 500)
    assert slots.take(999) is None
    assert numbers(slots.take(1000)) == (1, 1)
    assert slots.take(1999) is None
    assert numbers(slots.take(2000)) == (1, 1)
    slots.show(frame(2), 1500)  # too late for its own pair, and still the newest
    assert numbers(slots.take(3000)) == (2, 2)
    assert slots.take(3900, closing=True) is None
    slots.show(frame(3), 3700)
    assert numbers(slots.take(3900, closing=True)) == (2, 3)


def test_pairs_before_the_first_frame_show_that_frame() -> None:
    slots = PairSlots(0, 1000)
    slots.show(frame(1), 2600)
    slots.show(frame(2), 3000)
    seen = [(numbers(shot), shot.at_ms) for shot in iter(lambda: slots.take(3500, closing=True), None)]
    assert seen == [((1, 1), 0), ((1, 1), 1000), ((1, 1), 2000), ((2, 2), 3000)]


def test_a_frame_of_another_shape_needs_another_segment() -> None:
    slots = PairSlots(0, 1000)
    assert slots.show(frame(1), 0)
    assert not slots.show(frame(2, height=4), 500)
    assert numbers(slots.take(1000)) == (1, 1)


def test_a_slow_taker_finds_every_pair_and_nothing_more() -> None:
    slots = PairSlots(0, 1000)
    for number in range(300):
        slots.show(frame(number % 250), number * 33)
    seen = [numbers(shot) for shot in iter(lambda: slots.take(9900), None)]
    assert len(seen) == slots.taken == 10
    assert seen[:2] == [(0, 15), (30, 45)]
    assert slots.take(9999, closing=True) is None
