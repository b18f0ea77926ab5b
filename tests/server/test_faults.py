"""Bad input and broken parts: each gets a named error, and the session that did nothing wrong lives on."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal

import httpx
import pytest

from tests.support.clients import call_peer, empty, socket_peer
from tests.support.server import RunningServer

pytestmark = pytest.mark.models

PLAIN_OFFER = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
FORM_WITHOUT_SDP = b'--x\r\nContent-Disposition: form-data; name="session"\r\n\r\n{}\r\n--x--\r\n'
AUDIO_EVENT = "input_audio_buffer.append"


async def _post(server: RunningServer, content: bytes, kind: str) -> tuple[int, str, str]:
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"{server.url}/v1/realtime/calls", content=content, headers={"Content-Type": kind} if kind else {}
        )
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"garbage", "application/sdp", 400, "invalid_sdp"),
        (b"", "application/sdp", 400, "invalid_sdp"),
        (b"\xff\xfe\x00", "application/sdp", 400, "invalid_sdp"),
        (PLAIN_OFFER.encode(), "application/sdp", 400, "no_audio"),
        (b"x" * 300_000, "application/sdp", 413, "offer_too_large"),
        (b"{}", "application/json", 415, "unsupported_content_type"),
        (b"v=0", "", 415, "unsupported_content_type"),
        (FORM_WITHOUT_SDP, "multipart/form-data; boundary=x", 400, "missing_required_parameter"),
        (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x", 400, "invalid_form"),
        (b"nothing", "multipart/form-data", 400, "invalid_form"),
    ],
)
async def test_bad_offer_is_refused_by_name(
    server: RunningServer, content: bytes, kind: str, status: int, code: str
) -> None:
    await empty(server)
    async with socket_peer(server) as bystander:
        await bystander.wait("session.created")
        got = await _post(server, content, kind)
        assert got[:2] == (status, code), got
        assert await bystander.write("Say hello.", output_modalities=["text"])
        assert not bystander.errors()


async def test_bad_session_in_the_form_is_refused_by_name(server: RunningServer) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"{server.url}/v1/realtime/calls",
            files={"sdp": (None, PLAIN_OFFER), "session": (None, json.dumps({"type": "realtime", "colour": "red"}))},
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "session.colour"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("not json", "invalid_json"),
        ('{"type":"party.start"}', "unknown_event"),
        (json.dumps({"type": AUDIO_EVENT, "audio": "A" * 20 * 2**20}), "event_too_large"),
        (
            json.dumps(
                {
                    "type": "conversation.item.create",
                    "item": {
                        "type": "message",
                        "role": "user",
                        "content": [
                            {
                                "type": "input_image",
                                "image_url": "data:image/png;base64," + base64.b64encode(b"no image").decode(),
                            }
                        ],
                    },
                }
            ),
            "invalid_image",
        ),
        (json.dumps({"type": AUDIO_EVENT, "audio": ""}), None),
    ],
)
async def test_bad_event_costs_only_itself(server: RunningServer, raw: str, code: str | None) -> None:
    await empty(server)
    async with socket_peer(server) as culprit, socket_peer(server) as bystander:
        await culprit.socket.send(raw)
        if code is not None:
            error = (await culprit.wait("error"))["error"]
            assert error["code"] == code
            assert error["message"]
        for peer in (culprit, bystander):
            assert await peer.write("Say hello.", output_modalities=["text"])
        assert culprit.errors() == ([code] if code else [])
        assert not bystander.errors()


async def test_bad_event_over_the_data_channel(server: RunningServer) -> None:
    await empty(server)
    async with call_peer(server) as peer:
        await peer.wait("session.created")
        await peer.send("party.start", event_id="mine")
        assert (await peer.wait("error"))["error"]["event_id"] == "mine"
        assert await peer.write("Say hello.", output_modalities=["text"])


async def _kill_worker(server: RunningServer) -> int:
    async with httpx.AsyncClient() as http:
        pid: int = (await http.get(f"{server.url}/readyz")).json()["worker_pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


async def _ready(server: RunningServer) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(120):
        while (await http.get(f"{server.url}/readyz")).status_code != 200:
            await asyncio.sleep(0.2)


async def test_worker_killed_while_idle_is_replaced_and_remembers(server: RunningServer) -> None:
    await empty(server)
    async with call_peer(server) as peer:
        await peer.write("My name is Zebulon. Remember it.", output_modalities=["text"])
        await _kill_worker(server)
        assert (await peer.wait("error"))["error"]["code"] == "engine_lost"
        await _ready(server)
        answer = await peer.write("What is my name? Answer with the name.", output_modalities=["text"])
        assert "zebulon" in answer.lower()


async def test_worker_killed_while_speaking_fails_that_reply_only(server: RunningServer) -> None:
    await empty(server)
    async with call_peer(server) as peer:
        await peer.send(
            "conversation.item.create",
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "Tell me a long story about a fox and a river."}],
            },
        )
        await peer.send("response.create")
        await peer.wait("response.output_audio_transcript.delta")
        await _kill_worker(server)
        done = await peer.wait("response.done")
        assert done["response"]["status"] in ("failed", "completed")
        await _ready(server)
        assert await peer.write("Say hello.", output_modalities=["text"])
        assert "engine_lost" in peer.errors()
