"""Several people at once: nobody hears another, and one too many is told so at no cost to the rest."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from omni_rt.client.words import word_error_rate
from omni_rt.transport.caller import CallError
from tests.support.clients import CallPeer, call_peer, empty, sessions
from tests.support.server import RunningServer
from tests.support.speech import clip

pytestmark = pytest.mark.models


async def _say(peer: CallPeer, name: str) -> str:
    """Speak a clip; gives what the server understood."""
    peer.caller.speak(np.concatenate([clip(name).pcm, np.zeros(8000, np.int16)]))
    heard: list[str] = []
    while not heard or len(heard[-1].split()) < 1:
        event = await peer.wait("conversation.item.input_audio_transcription.completed")
        heard.append(event["transcript"])
    return " ".join(heard)


async def test_three_sessions_hear_only_their_own(server: RunningServer) -> None:
    await empty(server)
    names = ("goforward", "card5", "something")
    async with call_peer(server) as first, call_peer(server) as second, call_peer(server) as third:
        peers = (first, second, third)
        understood = await asyncio.gather(*(_say(peer, name) for peer, name in zip(peers, names, strict=True)))
        for name, text in zip(names, understood, strict=True):
            assert word_error_rate(clip(name).words, text) <= 0.34, (name, text)
        for peer in peers:
            done = await peer.wait("response.done")
            assert done["response"]["status"] == "completed"
            ids = {event["item"]["id"] for event in peer.seen if event["type"] == "conversation.item.added"}
            for other in peers:
                if other is not peer:
                    assert not ids & {e["item"]["id"] for e in other.seen if e["type"] == "conversation.item.added"}

        with pytest.raises(CallError) as busy:
            async with call_peer(server):
                pass
        assert busy.value.code == "busy"
        assert "3" in str(busy.value)
        assert await sessions(server) == 3
        assert await first.write("Say the word apple.")
        assert not first.errors()

    await empty(server)
    async with call_peer(server) as again:
        assert await again.write("Say the word pear.")


async def test_what_one_session_was_told_another_does_not_know(server: RunningServer) -> None:
    await empty(server)
    async with call_peer(server) as first, call_peer(server) as second:
        await first.write("My name is Zebulon. Remember it.", output_modalities=["text"])
        knows, guesses = await asyncio.gather(
            first.write("What is my name? Answer with the name.", output_modalities=["text"]),
            second.write("What is my name? Answer with the name.", output_modalities=["text"]),
        )
    assert "zebulon" in knows.lower()
    assert "zebulon" not in guesses.lower()
