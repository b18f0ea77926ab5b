"""A real server in a process of its own, with the default models unless told otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tools.duplex.serving import ready_url

LOG_TAIL = 6000
# Tests that run beside others leave them a core: models whose threads wait for one another's turn on it are slow.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 0
"""What `local.threads` is in tests."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """`url` has no slash at the end; `log` is everything the process wrote."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End the server and its workers at once, as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ask the server to end; kill what is left of it. Safe to call again."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_server(folder: Path, *overrides: str, ready_s: float = 240.0, factory: str = "") -> Iterator[RunningServer]:
    """`omni-rt serve` on a free port of 127.0.0.1, ready to be called; ended on the way out.

    `overrides` are `section.key=value`. `factory` (`module:callable`) makes the engine in the worker, in place of the
    settings. The log goes to `folder`; its end is added to whatever is raised meanwhile.
    """
    log = folder / f"server-{len(list(folder.glob('server-*.log')))}.log"
    options = ["--host", "127.0.0.1", "--port", "0", "--set", f"local.threads={THREADS}", *overrides]
    code = (
        "from tests.support.strict_events import install_in_server; install_in_server(); "
        "import sys; from omni_rt.cli import main; sys.exit(main(['serve', *sys.argv[1:]]))"
    )
    if factory:
        code = (
            "from functools import partial; import omni_rt.server.app as app; "
            f"app.RemoteEngine = partial(app.RemoteEngine, factory={factory!r}); {code}"
        )
    with log.open("wb") as file:
        # A session of its own, so that the group holds the server and its workers and nothing else.
        process = subprocess.Popen(
            [sys.executable, "-c", code, *options], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = RunningServer("", log, process)
    try:
        server = replace(server, url=_wait_until_ready(server, ready_s))
        yield server
    except BaseException as error:
        error.add_note(f"--- end of {log} ---\n{log.read_text(errors='replace')[-LOG_TAIL:]}")
        raise
    finally:
        server.stop()


def _wait_until_ready(server: RunningServer, limit_s: float) -> str:
    """Its URL."""
    deadline = time.monotonic() + limit_s
    last = "it does not listen"
    while time.monotonic() < deadline:
        status = server.process.poll()
        if status is not None:
            raise RuntimeError(f"the server ended with status {status} before it was ready")
        if url := ready_url(server.log):
            try:
                with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                    json.load(answer)
                    return url
            except urllib.error.HTTPError as error:
                last = error.read().decode(errors="replace")
            except OSError:
                pass
        time.sleep(0.2)
    raise TimeoutError(f"the server was not ready within {limit_s:.0f} s: {last}")
