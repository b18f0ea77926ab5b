"""Thousands of malformed and hostile inputs against one server: none brings it down, hangs it, is felt by another
session, or leaves anything behind. The same inputs in every run."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support import hostile_offers
from tests.support.clients import SocketPeer, empty, sessions, socket_peer
from tests.support.echo_engine import ECHO
from tests.support.health import resident, tasks, worker
from tests.support.hostile_events import Generator, Hostile
from tests.support.server import RunningServer, running_server

pytestmark = pytest.mark.models

EVENT_LIMIT = 64 * 1024
# A session gets so many events, a few at a time.
PER_SESSION, PER_BATCH = 500, 50
WARM_UP, EVENTS = 12_500, 10_000
# What a process may have grown by after EVENTS events; a leak of 840 bytes each would be more.
MOST_GROWTH = 8 * 2**20
OFFERS = 600
FIELDS = {"type", "code", "message", "param", "event_id"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    limit = f"server.max_event_bytes={EVENT_LIMIT}"
    with running_server(tmp_path_factory.mktemp("fuzz"), limit, factory=ECHO) as running:
        yield running


class Bystander:
    """Another session on the same server, which does nothing wrong."""

    def __init__(self, peer: SocketPeer) -> None:
        self._peer = peer
        self._said = 0

    async def goes_on(self) -> None:
        self._said += 1
        words = f"bystander {self._said}"
        assert (await self._peer.write(words, output_modalities=["text"])).strip() == words
        assert not self._peer.errors()

    def knows_nothing_of(self, others: str) -> None:
        assert others not in json.dumps(self._peer.seen)
        assert sum(event["type"] == "response.done" for event in self._peer.seen) == self._said


@asynccontextmanager
async def undisturbed(server: RunningServer) -> AsyncIterator[Bystander]:
    """A bystander; at the end nothing is left on the server that was not there at the beginning."""
    await empty(server)
    async with socket_peer(server) as peer:
        await peer.wait("session.created")
        bystander = Bystander(peer)
        await bystander.goes_on()
        before = await tasks(server)
        yield bystander
        await bystander.goes_on()
        bystander.knows_nothing_of("hostile")
        async with asyncio.timeout(20):
            while await sessions(server) > 1 or await tasks(server) > before:
                await asyncio.sleep(0.1)
    log = server.log.read_text(errors="replace")
    # uvicorn tells of a frame that is no UTF-8 that way.
    assert log.count("Traceback") == log.count("Invalid UTF-8 sequence received from client."), log
    assert "never retrieved" not in log


async def _probe(peer: SocketPeer, name: str) -> None:
    """Wait until everything before this was carried out."""
    await peer.send("conversation.item.retrieve", item_id="probe", event_id=name)
    while (await peer.wait("error"))["error"]["event_id"] != name:
        pass


def _judge(given: list[Hostile], errors: list[dict[str, Any]]) -> None:
    """Each bad event was answered by one error with the client's id, others by one at most."""
    for error in errors:
        assert error.keys() == FIELDS
        assert error["message"], error
        assert error["code"], error
        assert error["code"] != "internal", error
        assert len(json.dumps(error)) < 8000
    by_id = Counter(error["event_id"] for error in errors if error["type"] == "invalid_request_error")
    for one in given:
        count = by_id[one.event_id] if one.event_id else 1
        assert count == 1 if one.bad else count <= 1, (count, one)
    assert by_id[None] == sum(one.bad and one.event_id is None for one in given), given


async def _one_session(server: RunningServer, hostile: Generator, number: int) -> None:
    async with socket_peer(server) as peer:
        for batch in range(PER_SESSION // PER_BATCH):
            before = len(peer.seen)
            given = list(hostile.take(PER_BATCH))
            for one in given:
                await peer.socket.send(one.raw)
            await _probe(peer, f"probe-{batch}")
            _judge(given, [event["error"] for event in peer.seen[before:] if event["type"] == "error"][:-1])
        assert peer.seen[0]["type"] == "session.created"
        if number % 3 == 1:
            await peer.send("session.update", session={"output_modalities": ["audio"]})
            await peer.send("response.create")
            peer.socket.transport.abort()
        elif number % 3 == 2:
            await peer.socket.send(b"\xff\xff", text=True)
            await peer.socket.wait_closed()


async def test_events(target: RunningServer) -> None:
    hostile = Generator(20_26, EVENT_LIMIT)
    async with undisturbed(target) as bystander:
        pids = target.process.pid, await worker(target)
        memory: list[list[int]] = []
        for sessions_wanted in (WARM_UP // PER_SESSION, EVENTS // PER_SESSION):
            for number in range(sessions_wanted):
                await _one_session(target, hostile, number)
                await bystander.goes_on()
                while await sessions(target) > 1:
                    await asyncio.sleep(0.02)
            memory.append([resident(pid) for pid in pids])
        assert (target.process.pid, await worker(target)) == pids
    growth = [after - before for before, after in zip(*memory, strict=True)]
    print("grown by", growth)
    assert max(growth) < MOST_GROWTH


async def test_offers(target: RunningServer) -> None:
    """What is answered is hung up."""
    bodies = hostile_offers.Generator(20_27, await hostile_offers.real_offer())
    statuses: Counter[int] = Counter()
    async with undisturbed(target) as bystander, httpx.AsyncClient(base_url=target.url, timeout=20) as http:
        before = 0
        for number, body in enumerate(bodies.take(OFFERS)):
            answer = await http.post(
                "/v1/realtime/calls", content=body.content, headers={"Content-Type": body.kind} if body.kind else {}
            )
            statuses[answer.status_code] += 1
            if answer.status_code == 201:
                assert not body.bad, body
                assert answer.text.startswith("v=0")
                assert (await http.post(answer.headers["location"] + "/hangup")).status_code == 200
            else:
                assert answer.status_code in (400, 413, 415), (answer.status_code, body)
                error = answer.json()["error"]
                assert error.keys() == FIELDS
                assert error["code"], error
                assert error["message"], error
            if number % (OFFERS // 10) == 0:
                await bystander.goes_on()
            if number == OFFERS // 2:
                before = resident(target.process.pid)
        assert resident(target.process.pid) - before < MOST_GROWTH
    assert statuses[201] > OFFERS // 20, statuses
    assert statuses[400] > OFFERS // 3, statuses
