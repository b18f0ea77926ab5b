"""The picture of the engine's benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from omni_rt.client.report import Report, Row
from tools.gpu.references import WANTED
from tools.plot_engine import FOLDER, MISSED, Scale, main, picture

KEPT = [FOLDER / "engine_h200.json", FOLDER / "sessions_h200.json"]


def said(svg: str) -> list[str]:
    return [word for word in ElementTree.fromstring(svg).itertext() if word.strip()]


def report(*rows: Row) -> dict[str, object]:
    return Report(rows, machine="one GPU & a <CPU>", commit="abc").as_json()


def test_every_row_of_the_kept_results_is_in_the_picture() -> None:
    results = [json.loads(path.read_text("utf-8")) for path in KEPT]
    words = said(picture(results))
    rows = [row for result in results for row in result["rows"]]
    assert len(rows) > 30
    for row in rows:
        figures = [row["p50"], row["p95"]] if "p50" in row else [row["value"]]
        assert any(word.startswith(f"{row['name']}:") and all(str(f) in word for f in figures) for word in words), row


def test_the_kept_picture_is_that_of_the_kept_results() -> None:
    kept = (FOLDER / "engine_h200.svg").read_text("utf-8")
    assert kept == picture([json.loads(path.read_text("utf-8")) for path in KEPT])


def test_what_was_missed_stands_out_and_what_was_reached_does_not() -> None:
    reached, missed = Row("talker_frame", "ms", 9, p50=3.9, p95=5.0), Row("talker_frame", "ms", 9, p50=4.1, p95=5.0)
    legend_only = picture([report(reached)]).count(MISSED)
    assert picture([report(missed)]).count(MISSED) == legend_only + 1
    assert any("wanted 4" in word for word in said(picture([report(missed)])))


@pytest.mark.parametrize("name", WANTED)
def test_everything_wanted_says_so(name: str) -> None:
    assert any(f"(wanted {WANTED[name]:g})" in word for word in said(picture([report(Row(name, "ms", 1, value=1.0))])))


def test_talkers_with_a_camera_have_lines_of_their_own() -> None:
    svg = picture([
        report(
            Row("first_packet_8", "ms", 5, p50=20.0, p95=30.0),
            Row("first_packet_camera_8", "ms", 5, p50=25.0, p95=35.0),
            Row("underruns_camera_8", "replies' pauses", 5, value=3),
        )
    ])  # fmt: skip
    words = said(svg)
    assert "camera: underruns (pauses within replies)" in words
    assert {"20", "30", "25", "35", "3"} <= set(words)
    assert svg.count("stroke-dasharray") == 2


def test_nothing_measured_is_drawn_all_the_same() -> None:
    words = said(picture([report(Row.of("thinker_step", "ms", []), Row("failed_8", "replies", 0, value=0))]))
    assert any("one GPU & a <CPU>" in word for word in words)
    assert "thinker_step" in words


def test_a_decade_is_as_wide_as_another() -> None:
    scale = Scale.over([0.5, 80.0], 0.0, 300.0)
    assert (scale.low, scale.high) == (0.1, 100.0)
    assert [round(scale.at(value)) for value in (0.1, 1, 10, 100, 0.0)] == [0, 100, 200, 300, 0]


def test_files_in_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.svg"
    monkeypatch.setattr("sys.argv", ["plot_engine", str(KEPT[1]), "--svg", str(out)])
    main()
    assert "first_packet_64" in out.read_text("utf-8")
