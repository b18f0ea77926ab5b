"""A second line to a running call: who attaches sees and does what the call's own client can."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
import websockets
from openai import AsyncOpenAI

from omni_rt.server.keys import add_key
from omni_rt.server.sideband import MOST_PER_CALL
from tests.support.clients import CallPeer, call_peer, empty, socket_peer
from tests.support.server import RunningServer

pytestmark = pytest.mark.models


@asynccontextmanager
async def _call(server: RunningServer, key: str) -> AsyncIterator[CallPeer]:
    await empty(server)
    async with call_peer(server, api_key=key) as peer:
        await peer.wait("session.created")
        yield peer


async def _refused(server: RunningServer, key: str, call_id: str) -> tuple[int, str]:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with socket_peer(server, key, f"call_id={call_id}"):
            pass
    response = refused.value.response
    return response.status_code, json.loads(response.body)["error"]["code"]


async def test_it_sees_the_calls_events_and_sends_its_own(locked: RunningServer, key: str) -> None:
    async with _call(locked, key) as call:
        await call.send("session.update", session={"instructions": "Be brief."})
        await call.wait("session.updated")
        async with (
            socket_peer(locked, key, f"call_id={call.caller.call_id}") as one,
            socket_peer(locked, key, f"call_id={call.caller.call_id}") as other,
        ):
            for line in (one, other):
                assert (await line.wait("session.created"))["session"]["instructions"] == "Be brief."
            assert "words" in await call.write("words")
            done = await call.wait("output_audio_buffer.stopped")
            for line in (one, other):
                await line.wait("output_audio_buffer.stopped")
                kinds = [event["type"] for event in line.seen]
                assert kinds.index("conversation.item.added") < kinds.index("response.created")
                assert [e for e in line.seen if e["type"] == done["type"]] == [done]
            ids = [event["event_id"] for event in call.seen]
            assert [event["event_id"] for event in one.seen[1:]] == ids[-len(one.seen) + 1 :]

            await one.send("session.update", session={"instructions": "Be long."})
            for peer in (call, one, other):
                assert (await peer.wait("session.updated"))["session"]["instructions"] == "Be long."
            assert "told" in await other.write("told", output_modalities=["text"])
            assert (await call.wait("response.done"))["response"]["status"] == "completed"
            await other.send("party.start", event_id="mine")
            assert (await other.wait("error"))["error"]["event_id"] == "mine"


async def test_it_may_leave_and_the_call_goes_on(locked: RunningServer, key: str) -> None:
    async with _call(locked, key) as call:
        async with socket_peer(locked, key, f"call_id={call.caller.call_id}") as line:
            await line.wait("session.created")
        assert "still" in await call.write("still", output_modalities=["text"])


async def test_it_ends_with_the_call(locked: RunningServer, key: str) -> None:
    async with _call(locked, key) as call:
        call_id = call.caller.call_id
        async with socket_peer(locked, key, f"call_id={call_id}") as line:
            await line.wait("session.created")
            async with httpx.AsyncClient(base_url=locked.url, headers={"Authorization": f"Bearer {key}"}) as http:
                assert (await http.post(f"/v1/realtime/calls/{call_id}/hangup")).status_code == 200
            async with asyncio.timeout(10):
                await line.socket.wait_closed()
            assert line.socket.close_code == 1000
    assert await _refused(locked, key, call_id) == (404, "call_not_found")


async def test_a_call_that_is_not_theirs_is_as_unknown_as_one_that_is_not(
    locked: RunningServer, key: str, keys_file: object
) -> None:
    stranger = add_key(keys_file, "stranger")  # type: ignore[arg-type]
    async with _call(locked, key) as call:
        call_id = call.caller.call_id
        assert await _refused(locked, key, "rtc_0000") == (404, "call_not_found")
        assert await _refused(locked, key, "") == (404, "call_not_found")
        assert await _refused(locked, stranger, call_id) == (404, "call_not_found")
        assert await _refused(locked, "", call_id) == (401, "invalid_api_key")
    async with socket_peer(locked, key) as own:
        created = await own.wait("session.created")
        assert await _refused(locked, key, created["session"]["id"]) == (404, "call_not_found")


async def test_not_without_number(locked: RunningServer, key: str) -> None:
    async with _call(locked, key) as call, AsyncExitStack() as lines:
        query = f"call_id={call.caller.call_id}"
        for _ in range(MOST_PER_CALL):
            line = await lines.enter_async_context(socket_peer(locked, key, query))
            await line.wait("session.created")
        assert await _refused(locked, key, call.caller.call_id) == (429, "too_many_sidebands")


async def test_the_openai_package_attaches(locked: RunningServer, key: str) -> None:
    async with (
        _call(locked, key) as call,
        AsyncOpenAI(base_url=f"{locked.url}/v1", api_key=key) as client,
        client.realtime.connect(call_id=call.caller.call_id) as connection,
    ):
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session={"type": "realtime", "instructions": "From afar."})
        assert (await call.wait("session.updated"))["session"]["instructions"] == "From afar."
