"""One real server with real models, the smaller chat model for speed, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import RunningServer, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, "local.chat_model=qwen2.5-coder-0.5b-instruct-q4_k_m") as running:
        yield running
