"""How far a fetch or a load has come: lines that stay, and a running total that suits a terminal and a log."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

_TERMINAL_S = 0.25
_LOG_S = 10.0


class Progress:
    """Reports to `out` while entered. `total` bytes are awaited; files in the folders `live` count as on their way.

    `doing` is what the running total begins with.
    """

    def __init__(self, out: TextIO, total: int, live: Sequence[Path] = (), doing: str = "fetching models") -> None:
        self._out = out
        self._total = total
        self._live = live
        self._doing = doing
        self._done = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._terminal = out.isatty()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._terminal:
            self._write("\r\x1b[K")

    def add(self, size: int) -> None:
        """Count `size` bytes as there for good."""
        with self._lock:
            self._done += size

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._write(f"\r\x1b[K{text}\n" if self._terminal else f"{text}\n")

    def _run(self) -> None:
        while not self._end.wait(_TERMINAL_S if self._terminal else _LOG_S):
            done = min(self._done + sum(map(_size, self._live)), self._total)
            percent = 100 * done // max(self._total, 1)
            text = f"{self._doing}: {done / 1e6:.0f} of {self._total / 1e6:.0f} MB ({percent} %)"
            self._write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")

    def _write(self, text: str) -> None:
        with self._lock:
            self._out.write(text)
            self._out.flush()


def _size(folder: Path) -> int:
    """Bytes of all files under a folder whose contents change meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(f"{place}/{name}").st_size  # noqa: PTH116
    return total
