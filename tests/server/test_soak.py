"""Hundreds of short conversations with one server: each is answered, none leaves anything behind."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE
from omni_rt.media.resample import resample
from tests.support.clients import SocketPeer, empty, socket_peer
from tests.support.echo_engine import ECHO
from tests.support.health import resident, tasks, worker
from tests.support.server import RunningServer, running_server
from tests.support.speech import clip

pytestmark = [pytest.mark.models, pytest.mark.timeout(420)]

WARM_UP, CONVERSATIONS, AT_ONCE = 100, 200, 2
# What a process may have grown by after CONVERSATIONS; a leak of 42 kB each would be more.
MOST_GROWTH = 8 * 2**20
_PACKET = OUTPUT_RATE // 10


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("soak"), factory=ECHO) as running:
        yield running


@cache
def speech(name: str) -> tuple[str, ...]:
    """A clip and the silence after it as events."""
    sound = np.concatenate([resample(clip(name).pcm, INPUT_RATE, OUTPUT_RATE), np.zeros(2 * OUTPUT_RATE, np.int16)])
    packets = [sound[at : at + _PACKET].tobytes() for at in range(0, len(sound), _PACKET)]
    kind = "input_audio_buffer.append"
    return tuple(json.dumps({"type": kind, "audio": base64.b64encode(packet).decode()}) for packet in packets)


async def _say(peer: SocketPeer, name: str) -> None:
    for event in speech(name):
        await peer.socket.send(event)


async def _asks(peer: SocketPeer) -> str:
    """A question by voice, and its answer to the end."""
    await _say(peer, "goforward")
    return str((await peer.wait("response.done"))["response"]["status"])


async def _asks_twice(peer: SocketPeer) -> str:
    await _asks(peer)
    await peer.send("input_audio_buffer.clear")
    return await _asks(peer)


async def _interrupts(peer: SocketPeer) -> str:
    """Something else is said while the answer has no end."""
    await peer.send(
        "conversation.item.create",
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "wait !forever never"}]},
    )
    await peer.send("response.create")
    await peer.wait("response.output_audio.delta")
    await _say(peer, "card3")
    return str((await peer.wait("response.done"))["response"]["status"])


async def _hangs_up(peer: SocketPeer) -> str:
    """In the middle of speech, without a word."""
    for event in speech("card5")[:12]:
        await peer.socket.send(event)
    peer.socket.transport.abort()
    return "gone"


async def _writes(peer: SocketPeer) -> str:
    return "completed" if await peer.write("good morning") else "silent"


KINDS = (_asks, _interrupts, _hangs_up, _writes, _asks_twice)


async def _converse(server: RunningServer, number: int) -> tuple[str, str]:
    kind = KINDS[number % len(KINDS)]
    async with socket_peer(server) as peer:
        await peer.wait("session.created")
        status = await kind(peer)
        assert not peer.errors()
        return kind.__name__, status


async def test_hundreds_of_conversations(target: RunningServer) -> None:
    await empty(target)
    pids = target.process.pid, await worker(target)
    before = await tasks(target)
    outcomes: Counter[tuple[str, str]] = Counter()
    memory: list[list[int]] = []
    for first in range(0, WARM_UP + CONVERSATIONS, AT_ONCE):
        outcomes.update(await asyncio.gather(*(_converse(target, first + n) for n in range(AT_ONCE))))
        await empty(target)
        async with asyncio.timeout(20):
            while await tasks(target) > before:
                await asyncio.sleep(0.01)
        if first + AT_ONCE in (WARM_UP, WARM_UP + CONVERSATIONS):
            memory.append([resident(pid) for pid in pids])
    each = (WARM_UP + CONVERSATIONS) // len(KINDS)
    assert outcomes == {
        ("_asks", "completed"): each,
        ("_interrupts", "cancelled"): each,
        ("_hangs_up", "gone"): each,
        ("_writes", "completed"): each,
        ("_asks_twice", "completed"): each,
    }
    assert (target.process.pid, await worker(target)) == pids
    growth = [after - half for half, after in zip(*memory, strict=True)]
    print("grown by", growth)
    assert max(growth) < MOST_GROWTH
    assert "Traceback" not in target.log.read_text(errors="replace")
