from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.engine.qwen3_omni.heard import FRAME_MS, HEARD_SHARE, Heard, Pace, heard, weigh, words

# Written by tools/bench_heard.py --record: texts, and when the local engine's voice says each of their words.
TRUTH = json.loads((Path(__file__).parent.parent / "data" / "heard_truth.json").read_text(encoding="utf-8"))

TEXTS = (
    "It costs 3.50 dollars, about 7% less — “a bargain”, isn't it?",
    "今日は天気がいいですね。散歩に行きましょう！",
    "你好，今天天气怎么样？iPhone 15 很贵。",
    "안녕하세요, 만나서 반갑습니다.",
    "Привет! Как дела?",
    "**Bold** — and\n\n- a list\n- 🙂 of things ...",
    "Yes",
    "—",
    "  ",
)


def pieces_of(text: str, seed: int = 0) -> list[str]:
    """Cut at random, as tokens may be."""
    rng = random.Random(seed)
    pieces = []
    while text:
        size = rng.randint(1, 5)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def test_nothing_is_heard_before_the_first_frame() -> None:
    for ended in (False, True):
        assert heard(["Hello", " there"], 0, ended, 0, Pace()) == Heard(0, 0)
        assert heard(["Hello", " there"], 10, ended, 0, Pace()) == Heard(0, 0)


@pytest.mark.parametrize("text", TEXTS)
def test_all_is_heard_of_a_reply_that_was_played_to_its_end(text: str) -> None:
    pieces = pieces_of(text)
    assert heard(pieces, 50, True, 50, Pace()) == Heard(len(text), len(pieces))
    assert heard(pieces, 50, True, 51.5, Pace()) == Heard(len(text), len(pieces))


@given(st.text(max_size=80) | st.sampled_from(TEXTS), st.integers(1, 120), st.booleans(), st.integers(0, 9))
def test_more_is_heard_the_more_was_played_and_no_word_in_part(text: str, frames: int, ended: bool, seed: int) -> None:
    pieces = pieces_of(text, seed)
    known = words(text)
    ends = {0, len(text), *(end for _, end, _ in known), *(after for *_, after in known)}
    last = Heard(0, 0)
    for quarter in range(4 * frames + 1):
        now = heard(pieces, frames, ended, quarter / 4, Pace())
        assert now.characters >= last.characters
        assert now.pieces >= last.pieces
        assert now.characters in ends
        assert not any(begin < now.characters < end for begin, end, _ in known)
        assert len("".join(pieces[: now.pieces])) <= now.characters
        last = now


def test_no_more_is_heard_than_was_fed() -> None:
    fast = Pace()
    fast.learn("one two three four five six seven eight nine ten " * 20, 20)
    pieces = [" I"] * 40
    assert heard(pieces, 40, False, 30, fast) == Heard(60, 30)
    assert heard(pieces, 40, False, 29.5, fast) == Heard(60, 30)


def test_a_word_is_kept_with_its_marks() -> None:
    pieces = ["Hello", ",", " world", "!"]
    kept = {heard(pieces, 20, True, quarter / 4, Pace()).characters for quarter in range(81)}
    assert kept == {0, len("Hello,"), len("Hello, world!")}


def test_words_of_scripts_without_blanks_are_their_characters() -> None:
    text = "（你好）ABC世界。"
    assert [text[begin:after] for begin, _, after in words(text)] == ["（你", "好）", "ABC", "世", "界。"]
    assert words("well-known facts...") == [(0, 10, 10), (11, 16, 19)]


def test_blanks_and_layout_weigh_nothing_and_numbers_weigh_as_they_are_said() -> None:
    assert sum(weigh("  \n ** ** 🙂")) == 0
    assert sum(weigh("1969")) > 2 * sum(weigh("year"))
    assert sum(weigh("stop. go")) > sum(weigh("stop go"))
    assert sum(weigh("example.org")) < sum(weigh("example. org"))
    assert len(weigh(TEXTS[0])) == len(TEXTS[0])


def test_the_pace_is_learned_within_bounds() -> None:
    pace = Pace()
    assert pace.ms_per_unit == Pace.PRIOR_MS
    text = "A sentence of ordinary words, which says nothing much."
    frames = sum(weigh(text)) * Pace.PRIOR_MS / FRAME_MS
    for _ in range(30):
        pace.learn(text, round(1.3 * frames))
    assert pace.ms_per_unit == pytest.approx(1.3 * Pace.PRIOR_MS, rel=0.05)
    for _ in range(60):
        pace.learn(text, round(0.9 * frames))
    assert pace.ms_per_unit == pytest.approx(0.9 * Pace.PRIOR_MS, rel=0.05)
    for _ in range(60):
        pace.learn(text, 1)
    assert pace.ms_per_unit == Pace.FASTEST_MS
    before = pace.ms_per_unit
    pace.learn("", 100)
    pace.learn("—", 100)
    assert pace.ms_per_unit == before


def test_a_reply_that_goes_on_after_its_text_is_slower_than_the_pace_says() -> None:
    pieces = [" one", " two", " three", " four"]
    paced = heard(pieces, 4, False, 4, Pace())
    slow = heard(pieces, 60, False, 30, Pace())
    assert slow == Heard(len(" one two"), 2)
    assert paced.pieces <= 2


@pytest.mark.parametrize(("ended", "most"), [(True, 0.6), (False, 1.2)])
def test_the_estimate_is_near_the_truth(ended: bool, most: float) -> None:
    """Of speech whose words' times are known, the mean error in words."""
    errors = []
    for reply in TRUTH:
        pieces = re.findall(r"\s*\S+", reply["text"])
        total = -int(-reply["duration_ms"] // FRAME_MS)
        for step in range(1, 20):
            ms = reply["duration_ms"] * step / 20
            played = ms / FRAME_MS
            frames = total if ended else min(total, int(played) + 6)
            end = heard(pieces, frames, ended, played, Pace()).characters
            estimate = sum(word_end <= end for _, word_end, _ in words(reply["text"]))
            truth = sum(ms >= start + HEARD_SHARE * (stop - start) for _, start, stop in reply["words"])
            errors.append(abs(estimate - truth))
    assert len(errors) >= 200
    assert sum(errors) / len(errors) <= most
    assert max(errors) <= 6
