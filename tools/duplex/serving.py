"""A server of our own in a process of its own, on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_READY_S = 300.0


class ServerFailed(Exception):
    """The server did not start; the message ends with the end of its log."""


@contextmanager
def serving(log: Path, overrides: Sequence[str]) -> Iterator[str]:
    """`omni-rt serve` on a free port, ready to be called: its URL. What it prints goes to `log`. Raises
    ServerFailed."""
    command = [sys.executable, "-m", "omni_rt.cli", "serve", "--host", "127.0.0.1", "--port", "0"]
    if overrides:
        command += ["--set", *overrides]
    with log.open("wb") as file:
        # A session of its own, so that the group holds the server and its workers and nothing else.
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield _wait(process, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def underruns(url: str) -> int:
    """How often the voice of the sessions that are open has run dry so far; 0 if the server does not tell."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=2) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    return next((int(float(line.split()[1])) for line in lines if line.startswith("omni_output_underruns ")), 0)


def ready_url(log: Path) -> str | None:
    """Where a server whose output is in `log` says that it listens; None before it does."""
    said = re.search(r" ready: (http://\S+)\n", _read(log))
    return said and said[1]


def _wait(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"the server ended with status {process.returncode}:\n{_read(log)[-3000:]}")
        if url := ready_url(log):
            with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return url
        time.sleep(0.2)
    raise ServerFailed(f"the server was not ready within {_READY_S:g} s:\n{_read(log)[-3000:]}")


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
