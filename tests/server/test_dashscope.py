"""The DashScope dialect over a real WebSocket: the same door, the same sessions, and its own end."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial

import httpx
import numpy as np
import pytest
import websockets

from omni_rt.engine.api import INPUT_RATE
from omni_rt.session.commands import LARGE_EVENT
from tests.support.calls import eventually
from tests.support.clients import SocketPeer, empty, socket_peer
from tests.support.echo_engine import WORD_MS
from tests.support.scripted_server import TONE_S, ScriptedServer
from tests.support.server import RunningServer
from tests.support.socket_talk import Talk
from tests.support.speech import clip

pytestmark = pytest.mark.models

PATH = "/api-ws/v1/realtime"
dialect_peer = partial(socket_peer, path=PATH)


def _sound(peer: SocketPeer) -> bytes:
    return b"".join(base64.b64decode(e["delta"]) for e in peer.seen if e["type"] == "response.audio.delta")


async def test_the_same_door(locked: RunningServer, key: str) -> None:
    await empty(locked)
    for wrong in ("", "nonsense"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with dialect_peer(locked, wrong):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
    url = locked.url.replace("http", "ws", 1) + PATH
    async with websockets.connect(url, additional_headers={"Authorization": f"bearer {key}"}) as socket:
        created = json.loads(await socket.recv())
    assert (created["type"], created["session"]["input_audio_format"]) == ("session.created", "pcm16")


async def test_the_same_places(unlocked: RunningServer) -> None:
    """The engine has two."""
    await empty(unlocked)
    async with socket_peer(unlocked) as one, dialect_peer(unlocked) as other:
        for peer in (one, other):
            await peer.wait("session.created")
        async with dialect_peer(unlocked) as refused:
            assert (await refused.wait("error"))["error"]["code"] == "busy"
            await refused.socket.wait_closed()
            assert refused.socket.close_code == 1013


async def test_a_session_from_its_beginning_to_its_end(unlocked: RunningServer) -> None:
    await empty(unlocked)
    async with dialect_peer(unlocked, query="model=qwen3-omni-flash-realtime") as peer:
        await peer.wait("session.created")
        for bad in (b"\xff", "nonsense", '{"type": "nothing"}'):
            await peer.socket.send(bad)
            await peer.wait("error")
        await peer.send("session.update", session={"turn_detection": None, "modalities": ["text", "audio"]})
        assert (await peer.wait("session.updated"))["session"]["turn_detection"] is None
        tone = (8000 * np.sin(np.arange(4 * INPUT_RATE) * 2 * np.pi * 440 / INPUT_RATE)).astype("<i2")
        large = tone[INPUT_RATE:]  # so large that it is translated off the event loop
        assert large.nbytes > LARGE_EVENT
        for piece in (*np.split(tone[:INPUT_RATE], 10), large):
            await peer.send("input_audio_buffer.append", audio=base64.b64encode(piece.tobytes()).decode())
        await peer.send("input_audio_buffer.commit")
        heard = (await peer.wait("conversation.item.input_audio_transcription.completed"))["transcript"].split()
        assert int(heard[0]) == pytest.approx(len(tone), abs=100)
        assert int(heard[4]) == pytest.approx(8000, abs=100)
        await peer.send("response.create")
        done = (await peer.wait("response.done"))["response"]
        assert done["output"][0]["content"][0]["transcript"].split() == heard
        assert len(_sound(peer)) == len(heard) * WORD_MS * 48

        words = [f"word{number}" for number in range(40)]
        content = [{"type": "input_text", "text": " ".join(words)}]
        await peer.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await peer.send("response.create")
        await peer.send("session.finish")
        await peer.send("input_audio_buffer.append", audio="what comes after it is not read")
        done = (await peer.wait("response.done"))["response"]
        assert done["output"][0]["content"][0]["transcript"].split() == words
        await peer.wait("session.finished")
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 1000
        assert peer.errors() == ["invalid_json", "invalid_json", "unknown_event"]
    await empty(unlocked)


async def test_a_secrets_settings_go_before_the_dialects_own(locked: RunningServer, key: str) -> None:
    await empty(locked)

    async with httpx.AsyncClient(base_url=locked.url, headers={"Authorization": f"Bearer {key}"}) as http:
        audio = {"input": {"turn_detection": None, "format": {"type": "audio/pcmu"}}}
        settings = {"session": {"type": "realtime", "instructions": "Be brief.", "audio": audio}}
        secret = (await http.post("/v1/realtime/client_secrets", json=settings)).json()["value"]
    async with dialect_peer(locked, secret) as peer:
        session = (await peer.wait("session.created"))["session"]
    assert (session["instructions"], session["turn_detection"]) == ("Be brief.", None)
    assert session["audio"]["input"]["format"] == {"type": "pcm", "sample_rate": 16_000}


async def test_speech_is_found_and_answered(tone_server: ScriptedServer) -> None:
    """Real speech at 16 kHz, the answer at 8 kHz."""
    await eventually(lambda: not len(tone_server.calls.places), "the end of earlier sessions")
    async with websockets.connect(tone_server.url.replace("http", "ws", 1) + PATH) as socket:
        talk = Talk(socket)
        output = {"format": {"type": "pcm", "sample_rate": 8000}}
        await talk.send("session.update", session={"audio": {"output": output}, "turn_detection": {"threshold": 0.2}})
        await talk.until("session.updated")
        speech = np.concatenate([clip("goforward").pcm, np.zeros(2 * INPUT_RATE, np.int16)])
        for start in range(0, len(speech), 3200):
            audio = base64.b64encode(speech[start : start + 3200].tobytes()).decode()
            await talk.send("input_audio_buffer.append", audio=audio)
        async with asyncio.timeout(30):
            turn = await talk.until("response.done")
        kinds = [event["type"] for event in turn]
        assert kinds.index("input_audio_buffer.speech_started") < kinds.index("input_audio_buffer.speech_stopped")
        sound = b"".join(base64.b64decode(e["delta"]) for e in turn if e["type"] == "response.audio.delta")
        assert len(sound) // 2 == pytest.approx(TONE_S * 8000, abs=80)
        pcm = np.frombuffer(sound, "<i2")
        assert np.argmax(np.abs(np.fft.rfft(pcm))) * 8000 / len(pcm) == pytest.approx(440, abs=4)
