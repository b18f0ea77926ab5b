"""People who talk behind the speaker, and persons near the microphone, over a reply without end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from omni_rt.config import cache_dir
from omni_rt.core.overheard import Meaning
from omni_rt.engine.api import CLIP_MS, Pcm
from omni_rt.media.vad import SileroVad
from omni_rt.models.manifest import HEARING
from omni_rt.models.store import ModelStore
from omni_rt.session.overhearing import BEFORE_MS
from tools.bench_crowd import Over, crowds, people, play, policies
from tools.duplex.clips import Clip, for_tuning, read_clips

pytestmark = pytest.mark.models


def words(_: Pcm) -> Meaning:
    """A recogniser that takes whatever it hears for words."""
    return "words"


@pytest.fixture(scope="module")
def clips() -> Sequence[Clip]:
    return for_tuning(read_clips())


def over(sounds: Sequence[Pcm], policy: str) -> list[Over]:
    vad = SileroVad(ModelStore(cache_dir()).path(HEARING[0]))
    return [play(pcm, policies()[policy], vad, words) for pcm in sounds]


def test_what_is_listened_to_is_no_longer_than_an_engine_takes() -> None:
    assert policies()["words"].overlap.clip_ms + BEFORE_MS <= CLIP_MS[1]


@pytest.mark.parametrize("way", ["words", "length"])
def test_a_crowd_seldom_stops_a_reply(clips: Sequence[Clip], way: str) -> None:
    behind = crowds(clips)[:12]
    without_the_rule = sum(len(each.stops) for each in over(behind, f"{way}_any"))
    assert without_the_rule > 12
    assert sum(len(each.stops) for each in over(behind, way)) < 0.3 * without_the_rule


@pytest.mark.parametrize("db", [0, -12])
@pytest.mark.parametrize("way", ["words", "length"])
def test_whoever_is_near_stops_it_as_before(clips: Sequence[Clip], way: str, db: float) -> None:
    near = [pcm for pcm, _ in people(clips, db)]
    found, before = over(near, way), over(near, f"{way}_any")
    assert all(each.stops for each in found)
    late = sorted(each.stops[0] - other.stops[0] for each, other in zip(found, before, strict=True))
    assert late[len(late) // 2] == 0
    assert late[int(0.9 * len(late))] <= (0 if db == 0 else 160)
