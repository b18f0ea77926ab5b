"""A reply out of band by the real engine: it knows its own input, and the conversation knows nothing of it."""

from __future__ import annotations

import pytest

from tests.support.clients import SocketPeer, empty, socket_peer
from tests.support.server import RunningServer

pytestmark = pytest.mark.models


async def _aside(peer: SocketPeer, text: str, **response: object) -> str:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    aside = {"conversation": "none", "output_modalities": ["text"], "input": [item], "max_output_tokens": 40}
    await peer.send("response.create", response=aside | response)
    done = (await peer.wait("response.done"))["response"]
    assert done["conversation_id"] is None
    return " ".join(part["text"] for output in done["output"] for part in output["content"])


async def test_it_knows_its_input_and_is_not_remembered(server: RunningServer) -> None:
    await empty(server)
    async with socket_peer(server) as peer:
        await peer.wait("session.created")
        await peer.write("My name is Zebulon. Remember it.", output_modalities=["text"])
        items = [event["item"]["id"] for event in peer.seen if event["type"] == "conversation.item.done"]
        said = await _aside(peer, "The password is marzipan. What is the password? Answer with the password.")
        assert "marzipan" in said.lower()
        assert "zebulon" not in (await _aside(peer, "What is my name? Answer with the name.")).lower()
        assert items == [event["item"]["id"] for event in peer.seen if event["type"] == "conversation.item.done"]
        answer = await peer.write("What is my name? Answer with the name.", output_modalities=["text"])
        assert "zebulon" in answer.lower()
        assert "marzipan" not in answer.lower()
        assert not peer.errors()


async def test_it_can_be_spoken(server: RunningServer) -> None:
    await empty(server)
    async with socket_peer(server) as peer:
        await peer.wait("session.created")
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}
        await peer.send("response.create", response={"conversation": "none", "input": [item]})
        done = (await peer.wait("response.done"))["response"]
        assert done["status"] == "completed"
        assert sum(len(e["delta"]) for e in peer.seen if e["type"] == "response.output_audio.delta") > 10_000
