"""How many sessions, and how long: each limit has its own error, and frees the place."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from omni_rt.server.keys import add_key
from omni_rt.transport.caller import CallError
from tests.support.clients import call_peer, empty, socket_peer
from tests.support.echo_engine import ECHO
from tests.support.server import RunningServer, running_server

pytestmark = pytest.mark.models

IDLE_S, TOTAL_S = 2.0, 5.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    return path, add_key(path, "one"), add_key(path, "other")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, str, str]) -> Iterator[RunningServer]:
    """One session a key, two in all."""
    options = (f"server.keys_file={json.dumps(str(keys[0]))}", "server.max_sessions=2", "server.max_sessions_per_key=1")
    with running_server(tmp_path_factory.mktemp("crowded"), *options, factory=ECHO) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    options = (f"server.idle_s={IDLE_S}", f"server.max_session_s={TOTAL_S}")
    with running_server(tmp_path_factory.mktemp("hasty"), *options, factory=ECHO) as running:
        yield running


async def test_sessions_of_a_key(crowded: RunningServer, keys: tuple[Path, str, str]) -> None:
    await empty(crowded)
    _, one, other = keys
    async with httpx.AsyncClient(base_url=crowded.url, headers={"Authorization": f"Bearer {one}"}) as http:
        secret = (await http.post("/v1/realtime/client_secrets")).json()["value"]
    async with socket_peer(crowded, one) as first:
        await first.wait("session.created")
        for same in (one, secret):
            with pytest.raises(CallError) as full:
                async with call_peer(crowded, api_key=same):
                    pass
            assert full.value.code == "too_many_sessions"
            async with socket_peer(crowded, same) as refused:
                error = (await refused.wait("error"))["error"]
                assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_sessions")
                await refused.socket.wait_closed()
                assert refused.socket.close_code == 1013
        async with call_peer(crowded, api_key=other) as second:
            await second.wait("session.created")
    await empty(crowded)
    async with call_peer(crowded, api_key=secret) as again:
        await again.wait("session.created")


async def test_a_full_server_says_429_and_when_to_come_back(
    crowded: RunningServer, keys: tuple[Path, str, str]
) -> None:
    await empty(crowded)
    path, one, other = keys
    third = add_key(path, "third")
    offer = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"  # refused for its place before it is looked at
    async with socket_peer(crowded, one) as a, socket_peer(crowded, other) as b:
        for peer in (a, b):
            await peer.wait("session.created")
        async with httpx.AsyncClient(base_url=crowded.url) as http:
            for key, code in ((third, "busy"), (one, "busy")):
                headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/sdp"}
                answer = await http.post("/v1/realtime/calls", content=offer, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (429, code)
                assert answer.headers["retry-after"] == "5"
        assert "here" in await a.write("here", output_modalities=["text"])


async def test_an_idle_websocket_is_told_and_closed(hasty: RunningServer) -> None:
    await empty(hasty)
    async with socket_peer(hasty) as peer:
        await peer.wait("session.created")
        assert (await peer.wait("error"))["error"]["code"] == "session_idle"
        async with asyncio.timeout(10):
            await peer.socket.wait_closed()
    await empty(hasty)


async def test_an_idle_call_is_told_and_ended(hasty: RunningServer) -> None:
    """Its microphone sends silence all the time."""
    await empty(hasty)
    async with call_peer(hasty) as peer:
        await peer.wait("session.created")
        assert (await peer.wait("error"))["error"]["code"] == "session_idle"
        await empty(hasty)


async def test_who_does_something_stays_until_the_time_is_up(hasty: RunningServer) -> None:
    await empty(hasty)
    async with socket_peer(hasty) as peer:
        await peer.wait("session.created")

        async def stir() -> None:
            while True:
                await peer.send("input_audio_buffer.clear")
                await asyncio.sleep(IDLE_S / 4)

        stirring = asyncio.create_task(stir())
        try:
            assert (await peer.wait("error"))["error"]["code"] == "session_expired"
        finally:
            stirring.cancel()
    await empty(hasty)


async def test_sound_keeps_a_call_until_the_time_is_up(hasty: RunningServer) -> None:
    await empty(hasty)
    noise = np.random.default_rng(1).normal(0, 300, 16_000 * 8).astype(np.int16)
    async with call_peer(hasty) as peer:
        await peer.wait("session.created")
        peer.caller.speak(noise)
        assert (await peer.wait("error"))["error"]["code"] == "session_expired"
    await empty(hasty)


async def test_a_reply_that_is_spoken_is_not_idle(hasty: RunningServer) -> None:
    """Four seconds of speech; nothing comes from the client meanwhile but silence."""
    await empty(hasty)
    async with call_peer(hasty) as peer:
        await peer.wait("session.created")
        began = time.monotonic()
        await peer.write(" ".join(["word"] * 34))
        await peer.wait("output_audio_buffer.stopped")
        assert time.monotonic() - began > IDLE_S + 1.0
        assert not peer.errors()
