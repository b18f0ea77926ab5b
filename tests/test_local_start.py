"""What keeps the local engine from starting is told with its cause and its remedy."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from omni_rt.config import Settings, cache_dir, validate
from omni_rt.engine.api import EngineError, SessionSettings
from omni_rt.engine.local import engine as engine_module
from omni_rt.engine.local.engine import LocalEngine
from omni_rt.engine.local.gguf import read_facts
from omni_rt.engine.memory import available_memory
from omni_rt.models.manifest import CHAT_SMALL
from omni_rt.models.store import ModelStore
from tests.support.local import Listener


def settings(**local: object) -> Settings:
    return validate({"local": {"chat_model": CHAT_SMALL, "eyes": False, **local}})


async def refused(settings: Settings, store: Path) -> EngineError:
    engine = LocalEngine(settings, ModelStore(store))
    with pytest.raises(EngineError) as error:
        await engine.start()
    with pytest.raises(EngineError, match="not started"):
        await engine.open("x", SessionSettings(), Listener())
    await engine.close()
    return error.value


async def test_a_missing_file_is_named_with_the_ways_to_get_it(tmp_path: Path) -> None:
    error = await refused(settings(), tmp_path)
    assert error.code == "model_missing"
    assert CHAT_SMALL in str(error)
    assert "omni-rt doctor --fetch" in str(error)
    assert str(tmp_path) in str(error)


async def test_a_file_of_ones_own_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60))
    error = await refused(settings(chat_model=str(path)), cache_dir())
    assert error.code == "bad_chat_model"
    assert str(path) in str(error)


@pytest.mark.models
async def test_too_little_memory_is_told_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "available_memory", lambda: 123_456_789)
    error = await refused(settings(), cache_dir())
    assert error.code == "too_little_memory"
    assert "123,456,789" in str(error)
    assert "max_sessions" in str(error)


@pytest.mark.models
def test_a_model_file_says_what_it_takes() -> None:
    facts = read_facts(ModelStore(cache_dir()).path(CHAT_SMALL))
    assert facts.context_tokens == 32768
    assert facts.memory(4096) - facts.memory(0) == 4096 * facts.token_bytes
    assert facts.token_bytes == 24 * 2 * 128 * 2, "24 layers, 2 heads of keys and 2 of values, 64 numbers of 2 bytes"


def test_memory_is_known_here() -> None:
    memory = available_memory()
    assert memory is None or memory > 2**20
