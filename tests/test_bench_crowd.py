"""People who talk behind the speaker, and persons near the microphone, over a reply without end and without one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from omni_rt.client.speech import read_speech
from omni_rt.config import cache_dir
from omni_rt.core.overheard import Meaning
from omni_rt.engine.api import CLIP_MS, Pcm
from omni_rt.media.end_of_turn import SmartTurn
from omni_rt.media.vad import SileroVad
from omni_rt.models.manifest import HEARING
from omni_rt.models.store import ModelStore
from omni_rt.session.overhearing import BEFORE_MS
from tools.bench_crowd import Over, crowds, people, play, policies, turns
from tools.duplex.clips import SPEECH_LEVEL, Clip, for_tuning, read_clips
from tools.duplex.microphone import in_room

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


def answered(sounds: Sequence[Pcm]) -> list[list[bool]]:
    store, policy = ModelStore(cache_dir()), policies()["words"].turns
    vad, smart_turn = SileroVad(store.path(HEARING[0])), SmartTurn(store.path(HEARING[1]))
    assert policy is not None
    return [turns(pcm, policy, vad, smart_turn) for pcm in sounds]


def test_a_crowd_takes_turns_that_are_seldom_answered(clips: Sequence[Clip]) -> None:
    taken = [near for found in answered(crowds(clips)) for near in found]
    assert len(taken) > 20
    assert sum(taken) < 0.4 * len(taken)


@pytest.mark.parametrize("db", [0, -20])
def test_whoever_is_near_is_answered(clips: Sequence[Clip], db: float) -> None:
    found = answered([pcm for pcm, _ in people(clips, db)])
    assert sum(map(bool, found)) >= 0.95 * len(found)
    assert all(any(near) for near in found if near)


@pytest.mark.parametrize("softer_db", [0, 15])
def test_whoever_whispers_in_a_quiet_room_is_answered(softer_db: float, tmp_path: Path) -> None:
    """As espeak-ng whispers: hardly any of it is speech beyond doubt."""
    whispers = []
    for number, said in enumerate(("What time is it?", "Tell me a story.", "Can you hear me now?")):
        path = tmp_path / f"{number}.wav"
        subprocess.run(["espeak-ng", "-v", "en+whisper", "-w", path, said], check=True)
        pcm = read_speech(path).astype(np.float64)
        pcm *= SPEECH_LEVEL / np.sqrt(np.mean(pcm**2)) * 10 ** (-softer_db / 20)
        whispers.append(in_room(np.pad(pcm, (16_000, 40_000)), np.random.default_rng(number)))
    assert [sum(near) for near in answered(whispers)] == [1, 1, 1]
