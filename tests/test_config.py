"""Settings: both files in configs/ are good, and whatever is not allowed is refused with its name and what is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omni_rt.config import ConfigError, IceServer, Settings, cache_dir, describe, load
from omni_rt.models.manifest import MANIFEST, needed

FILES = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
KEYS = [(key, allowed) for key, _, allowed, _ in describe()]


def bad_value(allowed: str) -> Any:
    """Something that a key which takes `allowed` must refuse."""
    return {"a string": 5, "a list of strings": "no list"}.get(allowed, -1)


def test_there_are_a_default_and_a_kiosk() -> None:
    assert [file.name for file in FILES] == ["default.toml", "kiosk-small.toml"]


def test_the_default_file_changes_nothing() -> None:
    assert load(FILES[0]) == Settings()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_models_of_a_file_are_known(file: Path) -> None:
    assert set(needed(load(file))) <= set(MANIFEST)


@pytest.mark.parametrize(("key", "allowed"), KEYS, ids=[key for key, _ in KEYS])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_value_out_of_range_is_refused_by_name(file: Path, key: str, allowed: str) -> None:
    value = bad_value(allowed)
    with pytest.raises(ConfigError) as raised:
        load(file, [f"{key}={json.dumps(value)}"])
    assert str(raised.value) == f"{key} = {value!r} is not allowed; it takes {allowed}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_unknown_key_is_refused_with_the_known_ones(file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(file, ["server.prot=1"])
    assert "unknown key 'server.prot'; [server] takes: host, port, max_sessions" in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        load(file, ["sever.port=1"])
    assert str(raised.value) == "unknown section 'sever'; there are: server, engine, local, qwen, turn, media, models"


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, ["server.port=-1", "turn.onset_ms=1", "local.nonsense=1"])
    text = str(raised.value)
    assert all(key in text for key in ("server.port", "turn.onset_ms", "local.nonsense"))


@pytest.mark.parametrize("override", ["port=1", "server.port", "server", "=1", ""])
def test_an_override_has_a_form(override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load(None, [override])


def test_overrides_come_after_the_file_and_take_plain_words() -> None:
    settings = load(
        FILES[1], ["server.max_sessions=2", "server.host=::1", "local.eyes=false", 'server.ice_servers=["stun:a"]']
    )
    assert (settings.server.max_sessions, settings.server.host, settings.local.eyes) == (2, "::1", False)
    assert settings.server.ice_servers == (IceServer(urls=("stun:a",)),)
    assert settings.local.max_reply_tokens == 96


def test_a_file_that_is_no_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.toml"):
        load(tmp_path / "gone.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[server\n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        load(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        load(broken)
    broken.write_text("server = 3")
    with pytest.raises(ConfigError, match="server"):
        load(broken)
    with pytest.raises(ConfigError, match="server is a section"):
        load(broken, ["server.port=1"])


def test_where_models_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMNI_RT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("OMNI_RT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "omni_rt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "omni_rt"
