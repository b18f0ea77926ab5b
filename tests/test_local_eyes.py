from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from omni_rt.engine.api import EngineError, Rgb
from omni_rt.engine.local.eyes import ANOTHER, CHANGED, Eyes, check_picture, describe, difference, glimpse
from omni_rt.engine.local.priorities import Priorities
from omni_rt.engine.local.sight import Sight
from omni_rt.models.manifest import EYES
from tests.support.local import photo, sign
from tests.support.speech import model


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes(*(model(name) for name in EYES), threads=2)


def seen(eyes: Eyes, rgb: Rgb) -> str:
    return describe(eyes.things(rgb), [eyes.read(line) for line in eyes.lines(rgb)])


@pytest.mark.models
@pytest.mark.parametrize(("name", "thing"), [("cat", "a cat"), ("cup", "a cup")])
def test_things_in_photographs_are_named(eyes: Eyes, name: str, thing: str) -> None:
    assert thing in seen(eyes, photo(name))


@pytest.mark.models
def test_printed_words_are_read_from_top_to_bottom(eyes: Eyes) -> None:
    assert "EXIT / Platform 4" in seen(eyes, sign("EXIT", "Platform 4"))


@pytest.mark.models
@pytest.mark.parametrize("shape", [(4, 4, 3), (600, 3, 3), (1, 1, 3), (2000, 3000, 3)])
def test_odd_pictures_do_no_harm(eyes: Eyes, shape: tuple[int, ...]) -> None:
    assert isinstance(seen(eyes, np.full(shape, 90, np.uint8)), str)


def test_change_is_told_from_noise() -> None:
    picture = photo("cup")
    rng = np.random.default_rng(0)
    noisy = np.clip(picture + rng.normal(0, 10, picture.shape), 0, 255).astype(np.uint8)
    darker = (picture * 0.8).astype(np.uint8)
    for same in (noisy, darker):
        assert difference(glimpse(picture), glimpse(same)) < CHANGED
    assert difference(glimpse(sign("EXIT", "Platform 4")), glimpse(sign("EXIT"))) > CHANGED
    assert difference(glimpse(picture), glimpse(photo("cat"))) > ANOTHER


def test_descriptions() -> None:
    assert describe(["dog", "orange", "scissors"], ["EXIT", ""]) == (
        "The camera shows: a dog, an orange, scissors. Printed words: EXIT."
    )
    assert describe([], ["EXIT"]) == "The camera shows printed words: EXIT."
    assert describe([], []) == ""


@pytest.mark.parametrize(
    "picture",
    [
        None,
        np.zeros((3, 3), np.uint8),
        np.zeros((3, 3, 4), np.uint8),
        np.zeros((3, 3, 3)),
        np.zeros((0, 3, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(picture: object) -> None:
    with pytest.raises(EngineError) as refused:
        check_picture(picture)
    assert refused.value.code == "invalid_image"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"(?s)nothing\.pb.*local\.eyes=false"):
        Eyes(tmp_path / "nothing.pb", tmp_path / "nothing.pbtxt", tmp_path / "nothing.txt", threads=1)


@pytest.mark.models
async def test_only_changes_are_looked_at_and_the_newest_picture_counts(eyes: Eyes) -> None:
    looked: list[Rgb] = []
    scenes: list[str] = []

    class Watched(Eyes):
        def __init__(self) -> None:
            self.__dict__.update(eyes.__dict__)

        def things(self, rgb: Rgb) -> list[str]:
            looked.append(rgb)
            return super().things(rgb)

    def fail(error: EngineError) -> None:
        raise error

    priorities = Priorities()
    sight = Sight(Watched(), priorities, lambda: scenes.append(sight.scene), fail)
    cat, cup = photo("cat"), photo("cup")
    sight.show(cat)
    assert sight.scene == ""
    assert await sight.settled()
    assert "a cat" in sight.tell()
    assert sight.scene == "", "told once, until there is another picture"
    sight.show(cat)
    assert not await sight.settled()
    assert "a cat" in sight.scene
    assert len({id(rgb) for rgb in looked}) == 1
    with priorities.reply():
        for picture in (sign("ONE"), sign("TWO"), cup):
            sight.show(picture)
        await asyncio.sleep(0.05)
        assert "a cat" in sight.scene, "nothing is looked at while a reply is written"
    while "a cup" not in sight.scene:
        await asyncio.sleep(0.01)
    assert scenes[-1] == sight.scene, "it was told"
    assert looked[-1] is cup
    sight.close()
    priorities.close()
