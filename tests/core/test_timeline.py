"""The session's clock."""

from __future__ import annotations

import pytest

from omni_rt.core.timeline import Timeline


def test_time_is_counted_in_whole_samples() -> None:
    timeline = Timeline()
    for _ in range(3):
        timeline.advance(7)
    assert (timeline.samples, timeline.now_ms) == (21, 1)
    timeline.advance(16_000 - 21)
    assert timeline.now_ms == 1000


def test_time_does_not_run_back() -> None:
    with pytest.raises(ValueError, match="-1 samples"):
        Timeline().advance(-1)
