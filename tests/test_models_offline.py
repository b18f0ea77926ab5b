"""With its models in the cache the server starts where there is no network."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.server import running_server

# Python runs this in every process that inherits the environment: the server and its workers.
GUARD = """
import os, sys
LOCAL = ("127.", "::1", "localhost")

def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
    elif event == "socket.getaddrinfo":
        host = str(arguments[0] or "localhost")
    elif event == "subprocess.Popen" and "pip" in map(str, arguments[1]):
        host = "pip"
    else:
        return
    if not host.startswith(LOCAL):
        with open(os.environ["GUARD_LOG"], "a") as log:
            log.write(f"{event} {host}\\n")
        raise OSError(f"there is no network: {event} {host}")

sys.addaudithook(guard)
"""


@pytest.mark.models
def test_a_start_with_all_models_touches_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "guard.log"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("GUARD_LOG", str(log))

    for code in (
        "import socket; socket.create_connection(('192.0.2.1', 9), 1)",
        "import socket; socket.getaddrinfo('a.b', 1)",
    ):
        tried = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)
        assert "there is no network" in tried.stderr, "the guard must work for its silence to mean anything"
    assert log.read_text() == "socket.getaddrinfo 192.0.2.1\nsocket.getaddrinfo a.b\n"
    log.write_text("")

    with running_server(tmp_path) as server, urllib.request.urlopen(f"{server.url}/", timeout=30) as page:
        assert b"<title>" in page.read()
    assert log.read_text() == ""
