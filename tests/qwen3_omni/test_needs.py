"""What serving would take, told before anything is loaded, is what it takes then."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from omni_rt.config import Settings, cache_dir, load
from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni import needs
from omni_rt.engine.qwen3_omni.eight_bit import EVERYTHING, NOTHING, PARTS, Both, EightBit
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.engine.qwen3_omni.fast_decoder import Layer
from omni_rt.engine.qwen3_omni.fast_machine import FastMachine
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.model import load as load_model
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


@pytest.mark.parametrize("parts", [*PARTS, ",".join(PARTS)])
def test_weights_in_8_bit_take_as_much_as_was_told(parts: str) -> None:
    eight_bit = EightBit.of(parts.split(","))
    told = needs.needs(settings("qwen.weights=random:tiny"), torch.float32, eight_bit)
    omni = load_model("random:tiny", device="cpu", dtype=torch.float32, eight_bit=eight_bit)
    assert omni.spec.talker is not None
    pools = [KVPool(decoder, tokens=64) for decoder in (omni.spec.text, omni.spec.talker.decoder)]
    machine = FastMachine(omni, *pools, lines=1, batches=(1,), rows=(16,), eight_bit=eight_bit)
    assert machine._talker is not None
    predictor = machine._talker._predictor
    layers = [*machine._decoder.layers, *machine._talker._decoder.layers, *predictor._layers]
    beside = [machine._head, *predictor._heads, *(weight for layer in layers for weight in _weights(layer))]
    narrow = sum(weight.narrow.nbytes for weight in beside if isinstance(weight, Both))
    assert told.weights == sum(parameter.nbytes for parameter in omni.parameters()) + narrow
    assert told.weights != needs.needs(settings("qwen.weights=random:tiny"), torch.float32).weights
    assert (narrow > 0) == (parts != "experts" or bool(omni.spec.talker.decoder.shared))


def _weights(layer: Layer) -> list[object]:
    mixture = layer.mixture
    shared = [mixture.shared_gate_up, mixture.shared_down] if mixture is not None else []
    return [layer.mixed, layer.merge, layer.gate_up, layer.down, *shared]


def test_the_released_models_in_8_bit_take_half() -> None:
    told = needs.released(settings("qwen.quantisation=fp8"))
    assert told.kind == "fp8 and bfloat16"
    assert told.weights < 0.6 * needs.released(settings()).weights


@pytest.mark.parametrize(
    ("overrides", "device", "dtype", "capability", "cause"),
    [
        (
            ("qwen.machine=plain",),
            "cuda",
            torch.bfloat16,
            (9, 0),
            "qwen.machine is 'plain'.*set qwen.machine to",
        ),
        ((), "cpu", torch.bfloat16, (9, 0), "would run on cpu.*take a GPU"),
        ((), "cuda", torch.float32, (9, 0), "qwen.dtype is 'float32'.*set qwen.dtype to 'auto'"),
        ((), "cuda", torch.bfloat16, (8, 6), "A card has compute capability 8.6, and it takes 8.9; take a GPU"),
    ],
)
def test_what_cannot_be_in_8_bit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    device: str,
    dtype: torch.dtype,
    capability: tuple[int, int],
    cause: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    place = needs.Place(torch.device(device), dtype, "A card", None)
    with pytest.raises(EngineError, match=f"cannot be had: .*{cause}.* or set it to 'none'") as refused:
        needs.quantisation(settings("qwen.quantisation=fp8", *overrides).qwen, place)
    assert refused.value.code == "no_fp8"
    assert needs.quantisation(settings(*overrides).qwen, place) == NOTHING


def test_a_gpu_that_can_has_everything_in_8_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    place = needs.Place(torch.device("cuda"), torch.bfloat16, "A card", None)
    wanted = settings("qwen.quantisation=fp8").qwen
    assert needs.quantisation(wanted, place) == EVERYTHING
    monkeypatch.setattr(needs, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match="Triton is not installed; pip install triton"):
        needs.quantisation(wanted, place)


def test_an_engine_that_cannot_have_8_bit_does_not_start() -> None:
    with pytest.raises(EngineError) as refused:
        asyncio.run(
            QwenEngine(settings("qwen.weights=random:tiny", "qwen.quantisation=fp8"), ModelStore(cache_dir())).start()
        )
    assert refused.value.code == "no_fp8"


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
