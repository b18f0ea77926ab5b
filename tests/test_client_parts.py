"""What talk and bench are made of: word errors, the end of speech, the tape, the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.client.report import Report, Row, describe_commit, describe_machine
from omni_rt.client.speech import UnreadableFile, read_speech, read_utterance, speech_end
from omni_rt.client.tape import Tape
from omni_rt.client.words import normalise, spell, word_error_rate, word_errors
from omni_rt.media.vad import SileroVad
from omni_rt.transport.caller import Arrival
from tests.support.speech import FOLDER, clip, clips, model, silence, with_noise

TEXT = st.lists(st.sampled_from(["go", "forward", "ten", "meters", "now"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("said", "understood", "edits", "words"),
    [
        ("go forward ten meters", "Go forward ten meters.", 0, 4),
        ("go forward ten meters", "go forward 10 meters", 0, 4),
        ("go forward ten meters", "go forward meters", 1, 4),
        ("go forward ten meters", "so go forward then ten meters", 2, 4),
        ("go forward ten meters", "", 4, 4),
        ("", "anything at all", 3, 0),
        ("and mister john dashwood", "And Mr. John Dashwood,", 0, 4),
        ("cold hearted", "cold-hearted", 0, 2),
        ("don't", "dont", 0, 1),
        ("it’s three hundred and five", "it's 300 and 5", 0, 5),
        ("one thousand two hundred", "1,200", 0, 4),
        ("CAFÉ", "café", 0, 1),
    ],
)
def test_word_errors(said: str, understood: str, edits: int, words: int) -> None:
    found = word_errors(said, understood)
    assert (found.edits, found.words) == (edits, words)


@given(TEXT, TEXT)
def test_word_errors_are_an_edit_distance(a: str, b: str) -> None:
    there, back = word_errors(a, b).edits, word_errors(b, a).edits
    assert there == back
    assert abs(len(a.split()) - len(b.split())) <= there <= max(len(a.split()), len(b.split()))
    assert (there == 0) == (a == b)


@given(TEXT, TEXT, TEXT)
def test_word_errors_obey_the_triangle(a: str, b: str, c: str) -> None:
    assert word_errors(a, c).edits <= word_errors(a, b).edits + word_errors(b, c).edits


def test_rates_add_up_over_utterances() -> None:
    total = word_errors("a b c d", "a b c") + word_errors("e f", "e f")
    assert total.rate == pytest.approx(1 / 6)
    assert word_error_rate("a b", "a x") == 0.5


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (815, "eight hundred fifteen"),
        (999_999, "nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_numbers_are_spelt(number: int, words: str) -> None:
    assert " ".join(spell(number)) == words
    assert normalise(f"({number})") == words.split()


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return SileroVad(model("silero-vad-v6"), gated=False)


@pytest.mark.models
def test_the_end_of_speech_does_not_depend_on_what_follows(vad: SileroVad) -> None:
    for spoken in clips():
        end = speech_end(vad, spoken.pcm)
        assert end is not None
        again = speech_end(vad, np.concatenate([spoken.pcm[: end + 1600], silence(3)]))
        assert again is not None
        assert abs(again - end) <= 800, spoken.name


@pytest.mark.models
def test_the_end_of_speech_is_the_end_of_the_sound(vad: SileroVad) -> None:
    for spoken in clips():
        end = speech_end(vad, spoken.pcm)
        assert end is not None
        cut = spoken.pcm[: end - 3200]
        after = np.concatenate([cut, silence(1)])
        found = speech_end(vad, after)
        assert found is not None
        assert found <= len(cut) + 160, spoken.name


@pytest.mark.models
def test_noise_has_no_end_of_speech(vad: SileroVad) -> None:
    assert speech_end(vad, with_noise(silence(3), 300)) is None
    assert speech_end(vad, np.zeros(0, np.int16)) is None


@pytest.mark.models
def test_an_utterance_is_read_with_its_words(vad: SileroVad, tmp_path: Path) -> None:
    utterance = read_utterance(FOLDER / "card1.wav", vad)
    assert (utterance.name, utterance.words) == ("card1", "ten of clubs")
    np.testing.assert_array_equal(utterance.pcm, clip("card1").pcm)
    assert 0 < utterance.speech_end <= len(utterance.pcm)
    alone = tmp_path / "alone.wav"
    alone.write_bytes((FOLDER / "card1.wav").read_bytes())
    assert read_utterance(alone, vad).words == ""


def test_a_folder_is_no_sound(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=str(tmp_path)):
        read_speech(tmp_path)


def arrival(at: float, level: int, ms: int = 20) -> Arrival:
    return Arrival(at, 0, np.full(24 * ms, level, np.int16), False)


def test_the_tape_keeps_gaps_and_hides_jitter() -> None:
    tape = Tape()
    tape.add(arrival(4.0, 9))
    tape.start(5.0)
    for at, level in ((5.1, 1), (5.135, 2), (5.14, 3), (5.5, 4)):
        tape.add(arrival(at, level))
    pcm = tape.pcm()
    assert len(pcm) == round(0.52 * 24_000)
    assert not pcm[: 24 * 100].any()
    assert [int(pcm[24 * ms]) for ms in (110, 130, 150, 170, 400, 510)] == [1, 2, 3, 0, 0, 4]


def test_an_empty_tape_is_empty() -> None:
    assert len(Tape().pcm()) == 0


def test_the_report_has_the_format_and_the_table_the_same_rows(tmp_path: Path) -> None:
    rows = [
        Row.of("speech_end_to_first_text", "ms", list(range(1, 102))),
        Row("word_error_rate", "share", 40, value=0.05),
    ]
    report = Report([*rows, Row.of("nothing", "ms", [])], details={"clock": "shared"})
    path = tmp_path / "deep" / "result.json"
    report.write(path)
    read = json.loads(path.read_text())
    assert list(read) == ["machine", "commit", "date", "command", "rows", "clock"]
    assert read["rows"] == [
        {"name": "speech_end_to_first_text", "unit": "ms", "n": 101, "p50": 51.0, "p90": 91.0, "p95": 96.0},
        {"name": "word_error_rate", "unit": "share", "n": 40, "value": 0.05},
        {"name": "nothing", "unit": "ms", "n": 0},
    ]
    lines = report.table().splitlines()
    assert read["machine"] in lines[0]
    assert lines[1].split() == ["name", "unit", "n", "p50", "p90", "p95", "value", "ratio"]
    assert lines[2].split() == ["speech_end_to_first_text", "ms", "101", "51.0", "91.0", "96.0"]
    assert lines[3].split() == ["word_error_rate", "share", "40", "0.050"]


def test_a_report_says_where_it_is_from() -> None:
    assert "cores" in describe_machine()
    assert describe_commit()
