"""One real server with the local engine, the smaller chat model for speed, for the stock clients of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from omni_rt.models.manifest import CHAT_SMALL
from tests.browser.conftest import open_page as open_page
from tests.support.server import RunningServer, running_server

# Dialogues with clients in environments of their own, whose folder this names: tests/clients/install makes them.
collect_ignore = [] if os.environ.get("OMNI_RT_CLIENTS") else ["test_environments.py", "test_agents_realtime.py"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """To the same words it says the same, and never much."""
    settings = (f"local.chat_model={CHAT_SMALL}", "local.temperature=0", "local.max_reply_tokens=64")
    with running_server(tmp_path_factory.mktemp("server"), *settings) as running:
        yield running
