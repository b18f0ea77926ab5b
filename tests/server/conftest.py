"""Real servers: one with real models, the smaller chat model for speed; two, with and without keys, whose engine says
what is written to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_rt.server.keys import add_key
from tests.support.echo_engine import ECHO
from tests.support.server import RunningServer, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, "local.chat_model=qwen2.5-coder-0.5b-instruct-q4_k_m") as running:
        yield running


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="module")
def key(keys_file: Path) -> str:
    return add_key(keys_file, "someone")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, keys_file: Path, key: str) -> Iterator[RunningServer]:
    """A server that asks for `key`."""
    folder = tmp_path_factory.mktemp("locked")
    with running_server(folder, f"server.keys_file={json.dumps(str(keys_file))}", factory=ECHO) as running:
        yield running


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("unlocked"), factory=ECHO) as running:
        yield running
