"""The one format of all benchmark results (docs/benchmarks/README.md), as JSON and as a table."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: quantiles of `n` measurements, or one `value` taken over `n` things. `ratio`: how many times the
    reference of the same run took."""

    name: str
    unit: str
    n: int
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    value: float | None = None
    ratio: float | None = None

    @classmethod
    def of(cls, name: str, unit: str, measured: Sequence[float]) -> Row:
        """Quantiles, interpolated linearly; none of nothing."""
        if not measured:
            return cls(name, unit, 0)
        p50, p90, p95 = (round(float(q), 3) for q in np.percentile(measured, (50, 90, 95)))
        return cls(name, unit, len(measured), p50, p90, p95)


@dataclass(frozen=True, slots=True)
class Report:
    """Rows and what is needed to believe them; `details` are further keys of the JSON object."""

    rows: Sequence[Row]
    machine: str = field(default_factory=lambda: describe_machine())
    commit: str = field(default_factory=lambda: describe_commit())
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = field(default_factory=lambda: shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        rows = [{key: value for key, value in asdict(row).items() if value is not None} for row in self.rows]
        head = {"machine": self.machine, "commit": self.commit, "date": self.date, "command": self.command}
        return {**head, "rows": rows, **self.details}

    def write(self, path: Path) -> None:
        """Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """The rows for people to read, under one line that says where they are from."""
        heads = ("name", "unit", "n", "p50", "p90", "p95", "value", "ratio")
        cells = [heads, *(tuple(_cell(getattr(row, head)) for head in heads) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        aligned = ["left", "left", *["right"] * 6]
        lines = [
            "  ".join(
                cell.ljust(width) if side == "left" else cell.rjust(width)
                for cell, width, side in zip(line, widths, aligned, strict=True)
            ).rstrip()
            for line in cells
        ]
        return "\n".join([f"{self.machine}; commit {self.commit}; {self.date}", *lines])


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return str(value)


def describe_machine() -> str:
    """Processor, cores this process may use, memory, operating system and Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [_processor(), f"{cores} cores"]
    if memory := _memory_gb():
        parts.append(f"{memory:.0f} GB")
    return ", ".join([*parts, platform.system(), f"Python {platform.python_version()}"])


def describe_commit() -> str:
    """The checkout's commit, marked if files differ from it; outside of one, the package's version."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return f"release {version('omni-rt')}"
    return f"{commit} with changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    """Virtual machines hide a processor's generation; whether it can sum up 8-bit products at once (VNNI) makes most of
    the difference to the local engine's models."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): fact.strip() for name, _, fact in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} with VNNI" if "vnni" in facts.get("flags", "") else name


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return None
