"""A real conversation under a retention ratio."""

from __future__ import annotations

import pytest

from tests.support.clients import empty, socket_peer
from tests.support.server import RunningServer

pytestmark = pytest.mark.models


async def test_a_real_conversation_goes_on_past_its_limit(server: RunningServer) -> None:
    await empty(server)
    async with socket_peer(server) as peer:
        await peer.wait("session.created")
        rule = {"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 200}}
        await peer.send("session.update", session={"truncation": rule})
        used: list[int] = []
        for number in range(6):
            await peer.write(
                f"Say the number {number}, and nothing else. " + "Please. " * 25, output_modalities=["text"]
            )
            done = [event["response"] for event in peer.seen if event["type"] == "response.done"]
            used.append(done[-1]["usage"]["input_tokens"])
        exchange = used[1] - used[0]
        assert exchange > 40, used
        assert max(used) < used[1] + exchange, used
        assert not peer.errors()
