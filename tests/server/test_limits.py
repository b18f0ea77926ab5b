"""How many sessions, how long, and how much in one: each limit has its own error, which costs nothing else."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from omni_rt.server.keys import add_key
from omni_rt.transport.caller import CallError
from tests.support.clients import SocketPeer, call_peer, empty, socket_peer
from tests.support.echo_engine import ECHO
from tests.support.server import RunningServer, running_server

pytestmark = pytest.mark.models

IDLE_S, TOTAL_S = 2.0, 5.0
APPEND = "input_audio_buffer.append"
CREATE = "conversation.item.create"
SIZES = {
    "max_event_bytes": 60_000,
    "max_append_bytes": 24_000,
    "max_buffered_audio_s": 10,
    "max_items": 10,
    "max_item_characters": 1000,
    "max_item_bytes": 20_000,
}


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


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    options = (f"server.{name}={value}" for name, value in SIZES.items())
    with running_server(tmp_path_factory.mktemp("narrow"), *options, factory=ECHO) as running:
        yield running


@pytest.fixture
async def pushing(narrow: RunningServer) -> AsyncIterator[SocketPeer]:
    """Push-to-talk on that server."""
    await empty(narrow)
    async with socket_peer(narrow) as peer:
        await peer.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await peer.wait("session.updated")
        yield peer


def _sound(ms: int) -> str:
    return base64.b64encode(np.full(24 * ms, 500, "<i2").tobytes()).decode()


def _message(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(parts)}


def _text(length: int) -> dict[str, Any]:
    return {"type": "input_text", "text": "a" * length}


def _picture(side: int) -> dict[str, Any]:
    """Noise, so that it takes as many bytes as it has values."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (side, side, 3), np.uint8)).save(file, "PNG")
    return {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}


async def _refused(peer: SocketPeer, kind: str, **fields: Any) -> tuple[str, str | None]:
    """Code and param of the error that this event brings."""
    await peer.send(kind, event_id="mine", **fields)
    error = (await peer.wait("error"))["error"]
    assert (error["type"], error["event_id"]) == ("invalid_request_error", "mine")
    assert "server.max_" in error["message"]
    return error["code"], error["param"]


async def test_the_size_of_an_event(pushing: SocketPeer) -> None:
    assert await _refused(pushing, APPEND, audio="A" * SIZES["max_event_bytes"]) == ("event_too_large", None)
    wide = "\N{SNOWMAN}" * (SIZES["max_event_bytes"] // 3)
    await pushing.socket.send(json.dumps({"type": CREATE, "item": wide, "event_id": "last"}, ensure_ascii=False))
    assert (await pushing.wait("error"))["error"]["event_id"] == "last"
    assert "here" in await pushing.write("here", output_modalities=["text"])


async def test_the_size_of_an_append(pushing: SocketPeer) -> None:
    assert await _refused(pushing, APPEND, audio=_sound(501)) == ("append_too_large", "audio")
    await pushing.send(APPEND, audio=_sound(500))
    await pushing.send("input_audio_buffer.commit")
    await pushing.wait("input_audio_buffer.committed")
    assert len(pushing.errors()) == 1


async def test_sound_that_waits_for_a_commit(pushing: SocketPeer) -> None:
    """What is there stays, and what is refused is not heard in part."""
    pieces = SIZES["max_buffered_audio_s"] * 2
    for _ in range(pieces):
        await pushing.send(APPEND, audio=_sound(500))
    assert await _refused(pushing, APPEND, audio=_sound(100)) == ("input_audio_buffer_full", "audio")
    await pushing.send("input_audio_buffer.commit")
    heard = (await pushing.wait("conversation.item.input_audio_transcription.completed"))["usage"]["seconds"]
    assert heard == pytest.approx(pieces / 2, abs=0.01)
    await pushing.send(APPEND, audio=_sound(100))
    await pushing.send("input_audio_buffer.clear")
    await pushing.wait("input_audio_buffer.cleared")
    assert len(pushing.errors()) == 1


async def test_the_number_of_items(pushing: SocketPeer) -> None:
    for n in range(SIZES["max_items"]):
        await pushing.send(CREATE, item=_message(_text(1)) | {"id": f"item_{n}"})
    assert await _refused(pushing, CREATE, item=_message(_text(1))) == ("too_many_items", None)
    await pushing.send("conversation.item.delete", item_id="item_3")
    await pushing.wait("conversation.item.deleted")
    await pushing.send(CREATE, item=_message(_text(1)) | {"id": "instead"})
    while (await pushing.wait("conversation.item.done"))["item"]["id"] != "instead":
        pass
    assert len(pushing.errors()) == 1


async def test_turns_beyond_that_number_push_out_the_oldest(pushing: SocketPeer) -> None:
    """A tenth of all leave at once, and the client is told which."""
    for n in range(SIZES["max_items"]):
        await pushing.send(CREATE, item=_message(_text(1)) | {"id": f"item_{n}"})
    await pushing.send(APPEND, audio=_sound(200))
    await pushing.send("input_audio_buffer.commit")
    gone = [(await pushing.wait("conversation.item.deleted"))["item_id"] for _ in range(2)]
    assert gone == ["item_0", "item_1"]
    await pushing.send("response.create")
    assert (await pushing.wait("response.done"))["response"]["status"] == "completed"
    await pushing.send("conversation.item.retrieve", item_id="item_0", event_id="mine")
    assert (await pushing.wait("error"))["error"]["code"] == "item_retrieve_invalid_item_id"
    assert len(pushing.errors()) == 1


async def test_the_size_of_an_item(pushing: SocketPeer) -> None:
    call = {"type": "function_call", "name": "f", "call_id": "c"}
    result = {"type": "function_call_output", "call_id": "c"}
    long = "a" * (SIZES["max_item_characters"] + 1)
    for item in (
        _message(_text(len(long))),
        _message(_text(600), _text(600)),
        _message({"type": "output_audio", "transcript": long}, role="assistant"),
        call | {"arguments": long},
        result | {"output": long},
        _message(_picture(75)),
        _message({"type": "input_audio", "audio": _sound(200)}, {"type": "input_audio", "audio": _sound(200)}),
    ):
        assert await _refused(pushing, CREATE, item=item) == ("item_too_large", "item")
        aside = {"conversation": "none", "output_modalities": ["text"], "input": [_message(_text(1)), item]}
        assert await _refused(pushing, "response.create", response=aside) == ("item_too_large", "response.input.1")
    for item in (
        _message(_text(500), _text(500)),
        call | {"arguments": long[1:]},
        result | {"output": long[1:]},
        _message(_picture(60)),
        _message({"type": "input_audio", "audio": _sound(300)}),
    ):
        await pushing.send(CREATE, item=item)
        await pushing.wait("conversation.item.done")
    assert set(pushing.errors()) == {"item_too_large"}
