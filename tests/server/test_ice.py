"""STUN and TURN servers: what may be configured, what each end is told, and a call through a TURN server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import tomllib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from omni_rt import cli
from omni_rt.config import ConfigError, IceServer, load, validate
from omni_rt.transport.ice import ice_servers
from tests.support.clients import call_peer, empty
from tests.support.echo_engine import ECHO
from tests.support.server import RunningServer, running_server

SECRET = "north"
TURN = "turn:turn.example:3478?transport=udp"
SERVERS = f'server.ice_servers=["stun:stun.example", {{urls=["{TURN}"]}}]'


def test_a_url_alone_a_table_and_credentials() -> None:
    table = {"urls": [TURN, "turns:turn.example"], "username": "me", "credential": "pass"}
    settings = validate({"server": {"ice_servers": ["stun:a", table, {"urls": "stun:b:1"}]}}).server
    assert [server.urls for server in settings.ice_servers] == [
        ("stun:a",),
        (TURN, "turns:turn.example"),
        ("stun:b:1",),
    ]
    assert settings.ice_servers[1].username == "me"
    assert "pass" not in repr(settings)
    assert ice_servers(settings, "someone") == settings.ice_servers


@pytest.mark.parametrize(
    ("servers", "named"),
    [
        (["http://a"], "server.ice_servers.0.urls.0"),
        (["stun:"], "server.ice_servers.0.urls.0"),
        (["stun:a?transport=udp"], "server.ice_servers.0.urls.0"),
        ([{"urls": []}], "server.ice_servers.0.urls"),
        ([{"url": "stun:a"}], "server.ice_servers.0.url"),
        ([TURN], "server.turn_secret"),
        ([{"urls": [TURN], "username": "me"}], "server.turn_secret"),
        ("stun:a", "server.ice_servers"),
    ],
)
def test_a_bad_server_is_refused_by_name(servers: Any, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate({"server": {"ice_servers": servers}})
    assert named in str(refused.value)


def test_credentials_of_a_shared_secret_are_coturns() -> None:
    settings = load(None, [SERVERS, f"server.turn_secret={SECRET}", "server.turn_ttl_s=3600"]).server
    stun, turn = ice_servers(settings, "someone", now=1_433_895_918.7)
    assert stun == IceServer(urls=("stun:stun.example",))
    assert turn.urls == (TURN,)
    assert turn.username == "1433899518:someone"
    # printf 1433899518:someone | openssl dgst -sha1 -hmac north -binary | base64
    assert turn.credential == "XQj8FlZoT0ULAbs3bgVIWSym31g="


def test_the_secrets_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "-s", SERVERS, "-s", "server.turn_secret=topsecret"]) == 0
    printed = capsys.readouterr().out
    assert "topsecret" not in printed
    assert "turn_secret is set" in printed
    assert "turn_secret" not in tomllib.loads(printed)["server"]


@pytest.fixture(scope="module")
def relaying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that has a secret in common with a TURN server that is not there."""
    options = ('server.ice_servers=[{urls=["turn:127.0.0.1:9?transport=tcp"]}]', f"server.turn_secret={SECRET}")
    with running_server(tmp_path_factory.mktemp("relaying"), *options, factory=ECHO) as running:
        yield running


@pytest.mark.models
async def test_clients_are_told(relaying: RunningServer, locked: RunningServer, key: str) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{relaying.url}/v1/realtime/ice_servers")
        assert answer.headers["cache-control"] == "no-store"
        [server] = answer.json()["ice_servers"]
        assert server["urls"] == ["turn:127.0.0.1:9?transport=tcp"]
        expiry, _, name = server["username"].partition(":")
        assert name == "client"
        assert abs(int(expiry) - time.time() - 86_400) < 10
        digest = hmac.new(SECRET.encode(), server["username"].encode(), hashlib.sha1).digest()
        assert server["credential"] == base64.b64encode(digest).decode()

        path = f"{locked.url}/v1/realtime/ice_servers"
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers={"Authorization": f"Bearer {key}"})).json() == {"ice_servers": []}


CORS = "access-control-allow-origin"


@pytest.mark.models
async def test_other_sites_may_not_unless_they_are_named(
    unlocked: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site, stranger = "https://site.example", "https://stranger.example"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    path = "/v1/realtime/client_secrets"
    async with httpx.AsyncClient(base_url=unlocked.url) as http:
        assert CORS not in (await http.options(path, headers={"Origin": site, **asked})).headers
        assert CORS not in (await http.post(path, headers={"Origin": site})).headers
    options = f"server.cors_origins={json.dumps([site])}"
    with running_server(tmp_path_factory.mktemp("cors"), options, factory=ECHO) as server:
        async with httpx.AsyncClient(base_url=server.url) as http:
            preflight = await http.options(path, headers={"Origin": site, **asked})
            assert (preflight.status_code, preflight.headers[CORS]) == (200, site)
            assert "authorization" in preflight.headers["access-control-allow-headers"]
            made = await http.post(path, headers={"Origin": site})
            assert (made.status_code, made.headers[CORS]) == (200, site)
            assert "Location" in made.headers["access-control-expose-headers"]
            assert CORS not in (await http.options(path, headers={"Origin": stranger, **asked})).headers
            refused = await http.post(path, headers={"Origin": stranger})
            assert refused.status_code == 403
            assert CORS not in refused.headers
            assert CORS not in (await http.get("/", headers={"Origin": site})).headers


@pytest.mark.models
async def test_a_turn_server_that_is_not_there_does_not_stop_a_call(relaying: RunningServer) -> None:
    await empty(relaying)
    async with call_peer(relaying) as peer:
        await peer.wait("session.created")
