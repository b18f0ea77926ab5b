"""Client secrets: made with a key, good for what they were made for and until they expire."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
import websockets
from openai import AsyncOpenAI
from openai.types.realtime import ClientSecretCreateResponse

from omni_rt.realtime.errors import WireError
from omni_rt.server.ephemeral import MOST_PER_OWNER, Ephemeral
from omni_rt.transport.caller import CallError
from tests.support.clients import call_peer, empty, socket_peer
from tests.support.server import RunningServer

PATH = "/v1/realtime/client_secrets"


async def _ask(server: RunningServer, key: str, body: Any = None, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        return await http.post(PATH, **({"json": body} if body is not None else {}), **options)


def test_a_secret_ends_on_time_and_is_not_kept() -> None:
    now = 1000.5
    ephemeral = Ephemeral(lambda: now)
    value, secret = ephemeral.make("someone", 10, {"instructions": "Be brief."})
    assert secret.expires_at == 1010
    assert value not in repr(vars(ephemeral))
    now = 1009.9
    assert ephemeral.get(value) == secret
    assert ephemeral.get(value + "x") is None
    now = 1010
    assert ephemeral.get(value) is None


def test_secrets_are_not_without_number_and_make_room_when_they_end() -> None:
    now = 0.0
    ephemeral = Ephemeral(lambda: now)
    for _ in range(MOST_PER_OWNER):
        ephemeral.make("someone", 10, {})
    with pytest.raises(WireError) as full:
        ephemeral.make("someone", 10, {})
    assert full.value.code == "too_many_client_secrets"
    ephemeral.make("another", 10, {})
    now = 11
    ephemeral.make("someone", 10, {})
    assert len(vars(ephemeral)["_secrets"]) == 1


@pytest.mark.models
async def test_the_openai_package_makes_one_and_connects_with_it(locked: RunningServer, key: str) -> None:
    await empty(locked)
    async with AsyncOpenAI(base_url=f"{locked.url}/v1", api_key=key) as client:
        made = await client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 30},
            session={
                "type": "realtime",
                "instructions": "Say it in French.",
                "output_modalities": ["text"],
                "audio": {"input": {"turn_detection": None}},
            },
        )
    assert made.value.startswith("ek_")
    assert abs(made.expires_at - time.time() - 30) < 5
    assert made.session.type == "realtime"
    assert made.session.instructions == "Say it in French."
    async with (
        AsyncOpenAI(base_url=f"{locked.url}/v1", api_key=made.value) as client,
        client.realtime.connect(model="echo") as connection,
    ):
        event = await connection.recv()
        assert event.type == "session.created"
        assert event.session.type == "realtime"
        assert event.session.instructions == "Say it in French."
        assert event.session.output_modalities == ["text"]
        await connection.session.update(session={"type": "realtime", "instructions": "In Latin."})
        while (event := await connection.recv()).type != "session.updated":
            pass
        assert event.session.type == "realtime"
        assert event.session.instructions == "In Latin."
        assert event.session.output_modalities == ["text"]


@pytest.mark.models
async def test_the_answer_is_as_openai_types_it(locked: RunningServer, key: str) -> None:
    before = int(time.time())
    answer = await _ask(locked, key)
    assert answer.status_code == 200
    ClientSecretCreateResponse.model_validate(answer.json(), strict=True)
    assert set(answer.json()) == {"value", "expires_at", "session"}
    assert 0 <= answer.json()["expires_at"] - before - 600 <= 5
    again = await _ask(locked, key, {"session": None, "expires_after": None})
    assert again.json()["value"] != answer.json()["value"]


@pytest.mark.models
async def test_a_call_starts_with_the_secrets_settings_and_the_offers_own_on_top(
    locked: RunningServer, key: str
) -> None:
    await empty(locked)
    session = {"type": "realtime", "instructions": "A", "output_modalities": ["text"], "max_output_tokens": 50}
    secret = (await _ask(locked, key, {"session": session})).json()["value"]
    async with call_peer(locked, api_key=secret) as peer:
        created = (await peer.wait("session.created"))["session"]
        assert (created["instructions"], created["output_modalities"]) == ("A", ["text"])
    await empty(locked)
    async with call_peer(locked, api_key=secret, session={"instructions": "B"}) as peer:
        created = (await peer.wait("session.created"))["session"]
        assert (created["instructions"], created["max_output_tokens"]) == ("B", 50)


@pytest.mark.models
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"expires_after": {"anchor": "created_at", "seconds": 9}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": 7201}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"seconds": "60"}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"anchor": "now", "seconds": 60}}, "invalid_value", "expires_after.anchor"),
        ({"expires_after": {"hours": 1}}, "unknown_parameter", "expires_after.hours"),
        ({"expires_after": 60}, "invalid_value", "expires_after"),
        ({"session": []}, "invalid_value", "session"),
        ({"session": {"colour": "red"}}, "unknown_parameter", "session.colour"),
        ({"session": {"type": "transcription"}}, "invalid_value", "session.type"),
        ({"session": {"audio": {"output": {"voice": "nobody"}}}}, "invalid_value", "session.audio.output.voice"),
        ({"sessions": {}}, "unknown_parameter", "sessions"),
        ([], "invalid_value", None),
    ],
)
async def test_a_bad_request_is_refused_by_name(
    locked: RunningServer, key: str, body: Any, code: str, param: str | None
) -> None:
    answer = await _ask(locked, key, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert error["message"]


@pytest.mark.models
async def test_what_is_no_json_or_too_long_is_refused(locked: RunningServer, key: str) -> None:
    for content in (b"{", b"\xff", b"[" * 100_000):
        answer = await _ask(locked, key, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")

    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 10_000

    for long in (b" " * 300_000, endless()):
        answer = await _ask(locked, key, content=long)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.models
async def test_a_bad_session_is_refused_as_by_session_update(locked: RunningServer, key: str) -> None:
    await empty(locked)
    bad = {"type": "realtime", "tools": [{"type": "function", "name": "f", "parameters": {"type": 5}}]}
    refused = (await _ask(locked, key, {"session": bad})).json()["error"]
    async with socket_peer(locked, key) as peer:
        await peer.send("session.update", session=bad)
        error = (await peer.wait("error"))["error"]
    assert error == refused


@pytest.mark.models
async def test_a_secret_makes_no_secret_and_no_secret_comes_without_a_key(locked: RunningServer, key: str) -> None:
    answer = await _ask(locked, "", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    secret = (await _ask(locked, key)).json()["value"]
    answer = await _ask(locked, secret)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_permissions")


@pytest.mark.models
async def test_an_expired_secret_opens_nothing_but_its_sessions_go_on(locked: RunningServer, key: str) -> None:
    await empty(locked)
    made = (await _ask(locked, key, {"expires_after": {"anchor": "created_at", "seconds": 10}})).json()
    async with socket_peer(locked, made["value"]) as peer:
        await peer.wait("session.created")
        await asyncio.sleep(max(0.0, made["expires_at"] - time.time()) + 0.1)
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with socket_peer(locked, made["value"]):
                pass
        assert refused.value.response.status_code == 401
        with pytest.raises(CallError) as call:
            async with call_peer(locked, api_key=made["value"]):
                pass
        assert call.value.code == "invalid_api_key"
        await peer.send("session.update", session={"instructions": "Go on."})
        await peer.wait("session.updated")


@pytest.mark.models
async def test_a_secret_hangs_up_its_own_calls_only(locked: RunningServer, key: str) -> None:
    await empty(locked)
    one, other = [(await _ask(locked, key)).json()["value"] for _ in range(2)]
    async with call_peer(locked, api_key=one) as peer, httpx.AsyncClient(base_url=locked.url) as http:
        await peer.wait("session.created")
        path = f"/v1/realtime/calls/{peer.caller.call_id}/hangup"
        answer = await http.post(path, headers={"Authorization": f"Bearer {other}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "call_not_found")
        answer = await http.post(path, headers={"Authorization": f"Bearer {one}"})
        assert answer.status_code == 200
        answer = await http.post(path, headers={"Authorization": f"Bearer {one}"})
        assert answer.status_code == 404


@pytest.mark.models
async def test_without_keys_a_secret_is_good_for_its_settings(unlocked: RunningServer) -> None:
    await empty(unlocked)
    secret = (await _ask(unlocked, "", {"session": {"instructions": "Be brief."}})).json()["value"]
    async with socket_peer(unlocked, secret) as peer:
        assert (await peer.wait("session.created"))["session"]["instructions"] == "Be brief."
    with pytest.raises(websockets.InvalidStatus):
        async with socket_peer(unlocked, secret + "x"):
            pass


@pytest.mark.models
async def test_the_openai_package_calls_and_hangs_up(locked: RunningServer, key: str) -> None:
    await empty(locked)
    async with AsyncOpenAI(base_url=f"{locked.url}/v1", api_key=key) as maker:
        secret = await maker.realtime.client_secrets.create(session={"type": "realtime", "output_modalities": ["text"]})
    places: list[str] = []
    async with AsyncOpenAI(base_url=f"{locked.url}/v1", api_key=secret.value) as client:

        async def exchange(offer: str) -> str:
            answer = await client.realtime.calls.create(
                sdp=offer, session={"type": "realtime", "instructions": "Be brief."}
            )
            places.append(answer.response.headers["Location"])
            return answer.text

        async with call_peer(locked, exchange=exchange) as peer:
            created = (await peer.wait("session.created"))["session"]
            assert (created["instructions"], created["output_modalities"]) == ("Be brief.", ["text"])
            assert (await peer.write("yes")).strip() == "yes"
            await client.realtime.calls.hangup(places[0].rpartition("/")[2])
            await empty(locked)
