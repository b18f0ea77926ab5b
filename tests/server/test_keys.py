"""API keys: made and taken away at the command line, asked for by the real server, and given by the page."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import websockets
from openai import AsyncOpenAI
from websockets.typing import Subprotocol

from omni_rt import cli
from omni_rt.config import API_KEY_ENV, validate
from omni_rt.server.keys import Key, KeyRing, KeysError, add_key, is_loopback, key_ring, read_keys
from omni_rt.transport.caller import CallError
from tests.support.clients import call_peer, empty, socket_peer
from tests.support.server import RunningServer


def test_a_key_is_printed_once_and_kept_as_a_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "keys"
    assert cli.main(["keys", "add", "kiosk", "--file", str(path)]) == 0
    made = capsys.readouterr().out.strip()
    assert len(made) > 40
    assert made not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [kept] = read_keys(path)
    assert kept.opens(made)
    assert not kept.opens(made[:-1])
    assert not kept.opens("")
    assert cli.main(["keys", "add", "kiosk", "--file", str(path)]) == 1
    assert "remove it first" in capsys.readouterr().err
    assert cli.main(["keys", "add", "desk", "-s", f"server.keys_file={path}"]) == 0
    assert cli.main(["keys", "remove", "kiosk", "--file", str(path)]) == 0
    capsys.readouterr()
    assert cli.main(["keys", "list", "--file", str(path)]) == 0
    assert capsys.readouterr().out == "desk\n"
    assert cli.main(["keys", "remove", "kiosk", "--file", str(path)]) == 1
    assert "no key named 'kiosk'" in capsys.readouterr().err
    assert cli.main(["keys", "list"]) == 2
    assert "--file" in capsys.readouterr().err


def test_the_same_key_has_another_hash_each_time() -> None:
    one, other = Key.of("a", "k" * 40), Key.of("a", "k" * 40)
    assert one.digest != other.digest
    assert one.opens("k" * 40)
    assert other.opens("k" * 40)


@pytest.mark.parametrize(
    "text",
    ["someone", "someone sha256:00:00", f"a/b {'0' * 3}", f"{Key.of('a', 'k').line()}\n{Key.of('a', 'k').line()}"],
)
def test_a_bad_keys_file_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# those who may\n{text}\n")
    with pytest.raises(KeysError, match=r"keys, line \d: "):
        KeyRing(path)


def test_a_keys_file_without_keys_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(KeysError, match="there is no keys file"):
        KeyRing(path)
    path.write_text("\n")
    with pytest.raises(KeysError, match="has no key"):
        KeyRing(path)


def test_keys_added_and_removed_while_serving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    first = add_key(path, "first")
    ring = KeyRing(path, {})
    second = add_key(path, "second")
    assert (ring.holder(first), ring.holder(second), ring.holder("x")) == ("first", "second", None)
    path.write_text("nonsense")
    assert ring.holder(first) == "first"
    assert "the keys stay as they were" in caplog.text
    path.write_text("")
    assert ring.holder(first) is None
    assert ring.needed


def test_the_environments_key() -> None:
    ring = KeyRing(None, {API_KEY_ENV: "a-key-of-the-environment"})
    assert ring.needed
    assert ring.holder("a-key-of-the-environment") == API_KEY_ENV
    assert ring.holder("a-key-of-the-environmen") is None
    for poor in ("short", "with spaces in it, and long", "näme-not-ascii-äöüäöüäöü"):
        with pytest.raises(KeysError, match=API_KEY_ENV):
            KeyRing(None, {API_KEY_ENV: poor})
    assert not KeyRing(None, {}).needed


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "192.168.1.2", "", "example.org", "localhost.example.org")],
)
def test_who_reaches_an_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, alone: bool) -> None:
    monkeypatch.delenv(API_KEY_ENV, raising=False)
    assert is_loopback(host) == alone
    settings = validate({"server": {"host": host}}).server
    if alone:
        assert not key_ring(settings).needed
    else:
        with pytest.raises(KeysError, match=r"no API key is set.*server\.allow_without_keys"):
            key_ring(settings)
    meant = validate({"server": {"host": host, "allow_without_keys": True}}).server
    assert not key_ring(meant).needed
    add_key(tmp_path / "keys", "one")
    kept = validate({"server": {"host": host, "keys_file": str(tmp_path / "keys")}}).server
    assert key_ring(kept).needed


def test_a_server_for_others_without_keys_does_not_start() -> None:
    environment = {name: value for name, value in os.environ.items() if name != API_KEY_ENV}
    ended = subprocess.run(
        [sys.executable, "-m", "omni_rt.cli", "serve", "--host", "0.0.0.0", "--port", "1"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "no API key is set" in ended.stderr
    assert "omni-rt keys add" in ended.stderr


PATHS = [
    ("POST", "/v1/realtime/calls"),
    ("POST", "/v1/realtime/calls/rtc_1/hangup"),
    ("GET", "/metrics"),
]


@pytest.mark.models
@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_an_endpoint_asks_for_the_key(locked: RunningServer, key: str, method: str, path: str) -> None:
    bad = ["", "Bearer", f"Basic {key}", "Bearer nonsense", f"Bearer {key}x", "Bearer ek_nonsense"]
    async with httpx.AsyncClient(base_url=locked.url) as http:
        for header in bad:
            answer = await http.request(method, path, headers={"Authorization": header} if header else {})
            assert answer.status_code == 401, header
            assert answer.headers["www-authenticate"] == "Bearer"
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
            assert key not in answer.text
        answer = await http.request(method, path, headers={"Authorization": f"bearer {key}"})
        assert answer.status_code != 401


@pytest.mark.models
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/js/main.js"])
async def test_the_page_and_health_ask_for_none(locked: RunningServer, path: str) -> None:
    async with httpx.AsyncClient(base_url=locked.url) as http:
        assert (await http.get(path)).status_code == 200


@pytest.mark.models
async def test_a_call_with_and_without_the_key(locked: RunningServer, key: str) -> None:
    await empty(locked)
    with pytest.raises(CallError) as refused:
        async with call_peer(locked):
            pass
    assert refused.value.code == "invalid_api_key"
    async with call_peer(locked, api_key=key) as peer:
        await peer.wait("session.created")


@pytest.mark.models
async def test_a_websocket_with_and_without_the_key(locked: RunningServer, key: str) -> None:
    await empty(locked)
    for wrong in ("", "nonsense"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with socket_peer(locked, wrong):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
    async with socket_peer(locked, key) as peer:
        await peer.wait("session.created")


@pytest.mark.models
async def test_a_browsers_websocket_gives_the_key_as_a_subprotocol(locked: RunningServer, key: str) -> None:
    await empty(locked)
    url = locked.url.replace("http", "ws", 1) + "/v1/realtime"

    def offered(given: str) -> list[Subprotocol]:
        return [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{given}")]

    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(url, subprotocols=offered("nonsense"))
    async with websockets.connect(url, subprotocols=offered(key), origin="https://elsewhere.example") as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == "realtime"
        assert json.loads(await socket.recv())["type"] == "session.created"


@pytest.mark.models
async def test_the_openai_package_connects_with_the_key(locked: RunningServer, key: str) -> None:
    await empty(locked)
    async with (
        AsyncOpenAI(base_url=f"{locked.url}/v1", api_key=key) as client,
        client.realtime.connect(model="echo") as connection,
    ):
        assert (await connection.recv()).type == "session.created"
    async with AsyncOpenAI(base_url=f"{locked.url}/v1", api_key="nonsense") as client:
        with pytest.raises(websockets.InvalidStatus):
            await client.realtime.connect(model="echo").enter()


@pytest.mark.models
async def test_a_key_taken_away_opens_nothing_any_more(locked: RunningServer, keys_file: Path) -> None:
    short_lived = add_key(keys_file, "visitor")
    async with httpx.AsyncClient(base_url=locked.url, headers={"Authorization": f"Bearer {short_lived}"}) as http:
        assert (await http.get("/metrics")).status_code == 200
        assert await asyncio.to_thread(cli.main, ["keys", "remove", "visitor", "--file", str(keys_file)]) == 0
        assert (await http.get("/metrics")).status_code == 401


@pytest.mark.models
async def test_on_loopback_any_key_or_none_will_do(unlocked: RunningServer) -> None:
    await empty(unlocked)
    for key in ("", "none"):
        async with socket_peer(unlocked, key) as peer:
            await peer.wait("session.created")
        await empty(unlocked)


@pytest.mark.models
async def test_pages_of_other_sites_cannot_use_an_unlocked_server(unlocked: RunningServer) -> None:
    await empty(unlocked)
    url = unlocked.url.replace("http", "ws", 1) + "/v1/realtime"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url, origin="https://elsewhere.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "origin_not_allowed"
    async with websockets.connect(url, origin=unlocked.url) as socket:  # type: ignore[arg-type]
        assert json.loads(await socket.recv())["type"] == "session.created"
    async with httpx.AsyncClient(base_url=unlocked.url) as http:
        answer = await http.post("/v1/realtime/calls", headers={"Origin": "null", "Content-Type": "application/sdp"})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        for origin in ("http://[", "", "localhost", unlocked.url.replace("http", "https") + "1"):
            assert (await http.get("/metrics", headers={"Origin": origin})).status_code == 403, origin


@pytest.mark.models
async def test_an_unlocked_server_goes_by_local_names_only(unlocked: RunningServer, locked: RunningServer) -> None:
    async with httpx.AsyncClient() as http:
        for host, status in (("evil.example", 403), ("evil.example:8080", 403), ("[", 403), ("10.0.0.1", 403)):
            answer = await http.get(f"{unlocked.url}/metrics", headers={"Host": host})
            assert answer.status_code == status, host
            assert answer.json()["error"]["code"] == "host_not_allowed"
        for host in ("localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "LOCALHOST"):
            assert (await http.get(f"{unlocked.url}/metrics", headers={"Host": host})).status_code == 200, host
        assert (await http.get(f"{locked.url}/metrics", headers={"Host": "evil.example"})).status_code == 401
