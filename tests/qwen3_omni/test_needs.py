"""What serving would take, told before anything is loaded, is what it takes then."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from omni_rt.config import Settings, cache_dir, load
from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni import needs
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.models.manifest import QWEN_TOKENIZER
from omni_rt.models.store import ModelStore
from tests.support.speech import model


def settings(*overrides: str) -> Settings:
    return load(None, ["engine.kind=qwen3_omni", "qwen.device=cpu", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        ("qwen.weights=random:tiny:3", "qwen.context_tokens=777", "server.max_sessions=5"),
        ("qwen.weights=random:tiny", "qwen.cache_tokens=1000", "qwen.dtype=bfloat16"),
        ("qwen.weights=random:tiny", "qwen.cache_tokens=1000", "qwen.attention=triton"),
    ],
)
@pytest.mark.models
def test_the_engine_takes_as_much_as_was_told(overrides: tuple[str, ...]) -> None:
    chosen = settings(*overrides)
    place = needs.place(chosen.qwen)
    told = needs.needs(chosen, place.dtype)
    model(QWEN_TOKENIZER)
    engine = QwenEngine(chosen, ModelStore(cache_dir()))
    asyncio.run(engine.start())
    parts = engine._started()
    try:
        assert (parts.omni.device, parts.omni.dtype) == (place.device, place.dtype)
        assert told.weights == sum(parameter.nbytes for parameter in parts.omni.parameters())
        assert parts.talker_pool is not None
        assert told.caches == parts.pool.bytes + parts.talker_pool.bytes
        assert told.tokens == parts.pool.tokens
    finally:
        asyncio.run(engine.close())


def test_the_released_models_have_35_billion_weights() -> None:
    assert needs.released(settings()).weights == 2 * 35_259_818_545


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is it the folder of a checkpoint"):
        needs.needs(settings(f"qwen.weights={tmp_path}"), needs.place(settings().qwen).dtype)
    with pytest.raises(EngineError, match="tokenizer"):
        needs.check_tokenizer(settings(f"qwen.weights={tmp_path}").qwen)


def test_too_little_memory_for_weights_and_caches_is_told_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings("qwen.weights=random:tiny")
    told = needs.needs(chosen, needs.place(chosen.qwen).dtype)
    monkeypatch.setattr(needs, "free_memory", lambda _: told.bytes - 1)
    with pytest.raises(EngineError) as refused:
        asyncio.run(QwenEngine(chosen, ModelStore(cache_dir())).start())
    assert refused.value.code == "too_little_memory"
    assert all(f"{number:,}" in str(refused.value) for number in (told.weights, told.caches, told.bytes - 1))


def test_caches_are_whole_pages_of_what_attends() -> None:
    told = {}
    for name in ("sdpa", "flash"):
        chosen = settings("qwen.weights=random:tiny", "qwen.cache_tokens=1000", f"qwen.attention={name}")
        told[name] = needs.needs(chosen, torch.bfloat16)
    assert (told["sdpa"].tokens, told["flash"].tokens) == (1024, 1024)
    a_token = told["sdpa"].caches // (1024 + 64)
    assert told["flash"].caches == (1024 + 256) * a_token


def test_attention_that_cannot_be_is_told_before_loading() -> None:
    with pytest.raises(EngineError, match="needs a GPU, not cpu") as refused:
        asyncio.run(
            QwenEngine(settings("qwen.weights=random:tiny", "qwen.attention=flash"), ModelStore(cache_dir())).start()
        )
    assert refused.value.code == "no_flash"
