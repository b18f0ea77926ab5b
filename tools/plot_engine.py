"""A picture of what the engine's benchmarks measured, as SVG.

    python3 -m tools.plot_engine      # docs/benchmarks/engine_h200.json and sessions_h200.json to engine_h200.svg
    python3 -m tools.plot_engine engine.json sessions.json --svg PATH

Takes results of tools.bench_engine and tools.bench_sessions, any number of files; every row is in the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tools.gpu.references import FRAME_REFERENCE, REFERENCES, WANTED, WANTED_P95

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
WIDTH, LEFT, RIGHT = 960, 258, 760
OURS, MISSED, P95, THEIRS = "#2b6cb0", "#dd6b20", "#6b46c1", "#b8bec6"
INK, DIM, PALE = "#1a202c", "#4a5568", "#e2e8f0"
_TALKERS = re.compile(r"(first_packet|underruns|failed|gpu_use)_(camera_)?(\d+)")


class Drawing:
    """An SVG under way; `y` is where the next part begins, in pixels from the top."""

    def __init__(self) -> None:
        self.y = 0.0
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, fill: str, title: str = "") -> None:
        self._add("rect", title, x=x, y=y, width=max(width, 0.5), height=height, fill=fill)

    def line(self, *points: tuple[float, float], stroke: str = INK, width: float = 1.0, dash: str = "") -> None:
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{at}" fill="none" stroke="{stroke}" stroke-width="{width}"'
            + (f' stroke-dasharray="{dash}"' if dash else "")
            + "/>"
        )

    def dot(self, x: float, y: float, fill: str, title: str) -> None:
        self._add("circle", title, cx=x, cy=y, r=4, fill=fill)

    def text(
        self, x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", fill: str = INK,
        bold: bool = False, title: str = "",
    ) -> None:  # fmt: skip
        about = f"<title>{escape(title)}</title>" if title else ""
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}"{weight} '
            'stroke="white" stroke-width="3" paint-order="stroke">'
            f"{about}{escape(words)}</text>"
        )

    def svg(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y:.0f}" width="{WIDTH}" '
            f'height="{self.y:.0f}" font-family="DejaVu Sans, Verdana, sans-serif">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )

    def _add(self, tag: str, title: str, **attributes: float | str) -> None:
        written = " ".join(
            f'{name}="{value if isinstance(value, str) else format(value, ".1f")}"'
            for name, value in attributes.items()
        )
        self._parts.append(f"<{tag} {written}><title>{escape(title)}</title></{tag}>")


@dataclass(frozen=True, slots=True)
class Scale:
    """Decades from `low` to `high` over pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """Whole decades around all values above zero."""
        found = [value for value in values if value > 0] or [1.0]
        low, high = math.floor(math.log10(min(found) * 0.999)), math.ceil(math.log10(max(found) * 1.001))
        return cls(10.0**low, 10.0**high, start, end)

    def at(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def decades(self) -> list[float]:
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of ours, or of Hugging Face's alone; None is not known."""

    name: str
    unit: str
    ours: dict[str, Any] | None
    theirs: dict[str, Any] | None = None
    theirs_value: float | None = None

    @property
    def wanted(self) -> float | None:
        return WANTED.get(self.name)


def value_of(row: dict[str, Any]) -> float:
    return float(row["p50"] if "p50" in row else row.get("value", 0.0))


def about(row: dict[str, Any]) -> str:
    """All that a row says, for whoever points at it."""
    figures = ", ".join(f"{key} {row[key]}" for key in ("p50", "p90", "p95", "value", "ratio") if key in row)
    return f"{row['name']}: {figures} {row['unit']} (n {row['n']})"


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def bars(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    """Ours with their references, then references of nothing."""
    of = {row["name"]: row for row in rows}
    found, used = [], set()
    for name, row in of.items():
        if name.startswith("hf_"):
            continue
        theirs = of.get(REFERENCES.get(name, ""))
        value = value_of(theirs) if theirs else None
        if name == "reply_rtf" and FRAME_REFERENCE in of:
            theirs = of[FRAME_REFERENCE]
            value = value_of(theirs) / 80
        if theirs is not None:
            used.add(theirs["name"])
        found.append(Bar(name, row["unit"], row, theirs, value))
    alone = [row for name, row in of.items() if name.startswith("hf_") and name not in used]
    return [*found, *(Bar(row["name"], row["unit"], None, row, value_of(row)) for row in alone)]


def draw_bars(drawing: Drawing, title: str, shown: Sequence[Bar]) -> None:
    """Those that something was wanted of first."""
    shown = sorted(shown, key=lambda bar: (bar.wanted is None, bar.ours is None))
    values = [each for bar in shown for each in (bar.wanted, bar.theirs_value) if each is not None]
    values += [value_of(bar.ours) for bar in shown if bar.ours is not None]
    heights = [36 if bar.ours is not None and bar.theirs is not None else 24 for bar in shown]
    scale, top = Scale.over(values, LEFT, RIGHT), drawing.y + 52
    bottom = top + sum(heights)
    drawing.text(24, drawing.y + 26, title, size=15, bold=True)
    for tick in scale.decades():
        drawing.line((scale.at(tick), top - 6), (scale.at(tick), bottom), stroke=PALE)
        drawing.text(scale.at(tick), top - 10, f"{tick:g}", size=11, anchor="middle", fill=DIM)
    y: float = top
    for bar, height in zip(shown, heights, strict=True):
        drawing.text(
            LEFT - 8, y + 14, bar.name if bar.unit == "ms" else f"{bar.name}, {bar.unit}", anchor="end", size=11
        )
        if bar.ours is not None:
            _ours(drawing, scale, y + 4, bar)
        if bar.theirs is not None:
            _theirs(drawing, scale, y + (4 if bar.ours is None else 17), bar)
        y += height
    drawing.y = bottom + 14


def _theirs(drawing: Drawing, scale: Scale, y: float, bar: Bar) -> None:
    assert bar.theirs is not None
    assert bar.theirs_value is not None
    end = scale.at(bar.theirs_value)
    drawing.box(LEFT, y, end - LEFT, 10, THEIRS, about(bar.theirs))
    over = " / 80 ms" if bar.name == "reply_rtf" else ""
    name = "" if bar.ours is None else f"  {bar.theirs['name']}{over}"
    drawing.text(end + 6, y + 9, f"{number(bar.theirs_value)}{name}", size=10, fill=DIM)


def _ours(drawing: Drawing, scale: Scale, y: float, bar: Bar) -> None:
    assert bar.ours is not None
    value = value_of(bar.ours)
    missed = bar.wanted is not None and value > bar.wanted
    drawing.box(LEFT, y, scale.at(value) - LEFT, 11, MISSED if missed else OURS, about(bar.ours))
    end = scale.at(value)
    if bar.wanted is not None:
        at = scale.at(bar.wanted)
        drawing.line((at, y - 3), (at, y + 14), width=2.5)
        end = max(end, at)
    wanted = "" if bar.wanted is None else f" (wanted {number(bar.wanted)})"
    drawing.text(end + 6, y + 10, f"{number(value)}{wanted}", size=11, bold=missed)


def draw_talkers(drawing: Drawing, rows: Sequence[dict[str, Any]]) -> None:
    """First packets against the number of talkers, and beneath, what else was counted with so many."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        match = _TALKERS.fullmatch(row["name"])
        assert match is not None
        what, camera, count = match.groups()
        found.setdefault((camera or "", what), {})[int(count)] = row
    counts = sorted({count for series in found.values() for count in series})
    drawing.text(24, drawing.y + 26, "First packet against the number of talkers, ms", size=15, bold=True)
    left, right, top = LEFT, RIGHT, drawing.y + 52
    for x, colour, words in ((RIGHT - 110, OURS, "p50"), (RIGHT - 40, P95, "p95")):
        drawing.line((x - 24, drawing.y + 22), (x - 4, drawing.y + 22), stroke=colour, width=2)
        drawing.text(x, drawing.y + 26, words)
    bottom = top + 230
    packets = [row for (_, what), series in found.items() if what == "first_packet" for row in series.values()]
    wanted = [WANTED_P95[count] for count in counts if count in WANTED_P95]
    values = [row[key] for row in packets for key in ("p50", "p95") if key in row]
    scale = Scale.over([*values, *wanted], bottom, top)
    places = {count: left + 50 + (right - left - 100) * n / max(1, len(counts) - 1) for n, count in enumerate(counts)}
    for tick in scale.decades():
        drawing.line((left, scale.at(tick)), (right, scale.at(tick)), stroke=PALE)
        drawing.text(left - 8, scale.at(tick) + 4, f"{tick:g}", size=11, anchor="end", fill=DIM)
    for camera in sorted({camera for camera, _ in found}):
        _lines(drawing, scale, found.get((camera, "first_packet"), {}), places, dash="5 4" if camera else "")
    for count in (count for count in counts if count in WANTED_P95):
        y = scale.at(WANTED_P95[count])
        drawing.line((places[count] - 20, y), (places[count] + 20, y), width=2.5)
        drawing.text(places[count] - 26, y + 4, f"p95 wanted {WANTED_P95[count]:g}", size=10, anchor="end")
    drawing.y = bottom + 20
    _table(drawing, found, counts, places)


def _lines(
    drawing: Drawing, scale: Scale, series: dict[int, dict[str, Any]], places: dict[int, float], dash: str
) -> None:
    for key, colour in (("p50", OURS), ("p95", P95)):
        points = {count: (places[count], scale.at(row[key])) for count, row in sorted(series.items()) if key in row}
        if points:
            drawing.line(*points.values(), stroke=colour, width=2, dash=dash)
        for count, (x, y) in points.items():
            row = series[count]
            late = key == "p95" and row[key] > WANTED_P95.get(count, math.inf)
            drawing.dot(x, y, colour, about(row))
            drawing.text(
                x, y + (16 if key == "p50" else -9), number(row[key]), size=11, anchor="middle",
                fill=MISSED if late else colour, bold=late,
            )  # fmt: skip


def _table(
    drawing: Drawing,
    found: dict[tuple[str, str], dict[int, dict[str, Any]]],
    counts: Sequence[int],
    places: dict[int, float],
) -> None:
    drawing.text(LEFT - 8, drawing.y, "talkers", anchor="end", bold=True)
    for count in counts:
        drawing.text(places[count], drawing.y, str(count), anchor="middle", bold=True)
    for camera in sorted({camera for camera, _ in found}):
        lines = (
            ("first_packet", "replies (n)"),
            ("underruns", "underruns (pauses within replies)"),
            ("failed", "replies that failed"),
            ("gpu_use", "GPU use, %"),
        )
        for what, label in lines:
            drawing.y += 18
            drawing.text(LEFT - 8, drawing.y, ("camera: " if camera else "") + label, size=11, anchor="end")
            for count, row in found.get((camera, what), {}).items():
                value = row["n"] if what == "first_packet" else value_of(row)
                bad = what in ("underruns", "failed") and value > 0
                drawing.text(
                    places[count], drawing.y, number(value), size=11, anchor="middle", bold=bad,
                    fill=MISSED if bad else INK, title=about(row),
                )  # fmt: skip
    drawing.y += 20


def _legend(drawing: Drawing) -> None:
    x = 24.0
    for colour, words in (
        (OURS, "this engine, p50"),
        (MISSED, "the same, above what was wanted"),
        (THEIRS, "Hugging Face, same run"),
    ):
        drawing.box(x, drawing.y, 14, 11, colour)
        drawing.text(x + 20, drawing.y + 10, words)
        x += 48 + 7.2 * len(words)
    drawing.line((x + 6, drawing.y - 2), (x + 6, drawing.y + 13), width=2.5)
    drawing.text(x + 16, drawing.y + 10, "wanted, at most")
    drawing.y += 20


def picture(reports: Sequence[dict[str, Any]]) -> str:
    """SVG of all rows of the reports."""
    drawing = Drawing()
    drawing.text(24, 34, "The GPU engine: Qwen3-Omni-30B-A3B, random weights, bfloat16", size=18, bold=True)
    drawing.y = 54
    for told in dict.fromkeys(f"{each['machine']}; commit {each['commit']}; {each['date'][:10]}" for each in reports):
        drawing.text(24, drawing.y, told, size=10, fill=DIM)
        drawing.y += 15
    drawing.y += 4
    _legend(drawing)
    rows = [row for each in reports for row in each["rows"]]
    talkers = [row for row in rows if _TALKERS.fullmatch(row["name"])]
    shown = bars([row for row in rows if not _TALKERS.fullmatch(row["name"])])
    for title, part in (
        ("Times, ms (logarithmic)", [bar for bar in shown if bar.unit == "ms"]),
        ("Other figures, each in its unit (logarithmic)", [bar for bar in shown if bar.unit != "ms"]),
    ):
        if part:
            draw_bars(drawing, title, part)
    if talkers:
        draw_talkers(drawing, talkers)
    return drawing.svg()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [FOLDER / "engine_h200.json", FOLDER / "sessions_h200.json"]
    parser.add_argument("results", type=Path, nargs="*", default=default, metavar="JSON")
    parser.add_argument("--svg", type=Path, default=FOLDER / "engine_h200.svg", metavar="PATH")
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.results]
    arguments.svg.write_text(picture(reports), encoding="utf-8")
    print(arguments.svg)


if __name__ == "__main__":
    main()
