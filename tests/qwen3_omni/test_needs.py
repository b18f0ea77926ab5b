"""What serving would take, told before anything is loaded, is what it takes then."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omni_rt.config import Settings, cache_dir, load
from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni import needs
from omni_rt.engine.qwen3_omni.eight_bit import EVERYTHING, NOTHING, PARTS, Both, EightBit
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.engine.qwen3_omni.fast_decoder import Layer
from omni_rt.engine.qwen3_omni.fast_machine import BATCHES, ROWS, FastMachine
from omni_rt.engine.qwen3_omni.fast_needs import convolutions, fast_needs, joined, routers, scaled
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.model import load as load_model
from omni_rt.engine.qwen3_omni.scheduler import MOST_ROWS, TOGETHER
from omni_rt.models.manifest import QWEN_TOKENIZER
from omni_rt.models.store import ModelStore
from tests.support.speech import model

GPU = torch.device("cuda")


HERE = needs.Place(torch.device("cpu"), torch.float32, False, "this CPU", None)


def settings(*overrides: str) -> Settings:
    return load(None, ["engine.kind=qwen3_omni", "qwen.device=cpu", *overrides])


def gpu(free: int) -> needs.Place:
    return needs.Place(GPU, torch.bfloat16, True, "a GPU", free)


@pytest.fixture(scope="module")
def omni() -> Omni:
    return load_model("random:tiny", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def machine(omni: Omni) -> FastMachine:
    """Its steps are not run."""
    assert omni.spec.talker is not None
    pools = (KVPool(decoder, tokens=640) for decoder in (omni.spec.text, omni.spec.talker.decoder))
    with torch.inference_mode():
        return FastMachine(omni, *pools, lines=5)


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
    told = needs.needs(chosen, place)
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
        assert told.machine is None
    finally:
        asyncio.run(engine.close())


def test_the_released_models_have_35_billion_weights() -> None:
    assert needs.released(settings()).weights == 2 * 35_259_818_545


@pytest.mark.parametrize("parts", [*PARTS, ",".join(PARTS)])
def test_weights_in_8_bit_take_as_much_as_was_told(parts: str) -> None:
    eight_bit = EightBit.of(parts.split(","))
    told = needs.needs(settings("qwen.weights=random:tiny"), HERE, eight_bit)
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
    assert told.weights != needs.needs(settings("qwen.weights=random:tiny"), HERE).weights
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
    place = needs.Place(torch.device(device), dtype, True, "A card", None)
    with pytest.raises(EngineError, match=f"cannot be had: .*{cause}.* or set it to 'none'") as refused:
        needs.quantisation(settings("qwen.quantisation=fp8", *overrides).qwen, place)
    assert refused.value.code == "no_fp8"
    assert needs.quantisation(settings(*overrides).qwen, place) == NOTHING


def test_a_gpu_that_can_has_everything_in_8_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    place = needs.Place(torch.device("cuda"), torch.bfloat16, True, "A card", None)
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
        needs.needs(settings(f"qwen.weights={tmp_path}"), needs.place(settings().qwen))
    with pytest.raises(EngineError, match="tokenizer"):
        needs.check_tokenizer(settings(f"qwen.weights={tmp_path}").qwen)


def test_too_little_memory_for_weights_and_caches_is_told_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings("qwen.weights=random:tiny")
    told = needs.needs(chosen, needs.place(chosen.qwen))
    monkeypatch.setattr(needs, "free_memory", lambda _: told.bytes - 1)
    with pytest.raises(EngineError) as refused:
        asyncio.run(QwenEngine(chosen, ModelStore(cache_dir())).start())
    assert refused.value.code == "too_little_memory"
    assert all(f"{number:,}" in str(refused.value) for number in (told.weights, told.caches, told.bytes - 1))


def layers(machine: FastMachine) -> Iterator[tuple[nn.Module, list[Layer]]]:
    """Each decoder with the layers that the machine made of it."""
    omni, talker = machine._omni, machine._talker
    assert omni.talker is not None
    assert omni.code2wav is not None
    assert talker is not None
    yield omni.thinker.model.language_model, machine._decoder.layers
    yield omni.talker.model, talker._decoder.layers
    yield omni.talker.code_predictor.model, talker._predictor._layers
    yield omni.code2wav.pre_transformer, talker._render._window._layers


def test_the_fast_machine_copies_the_weights_that_are_counted(omni: Omni, machine: FastMachine) -> None:
    for decoder, made in layers(machine):
        mixtures = [layer.mixture for layer in made if layer.mixture is not None]
        together: list[Tensor | None] = [*(layer.mixed for layer in made), *(layer.gate_up for layer in made)]
        together += [mixture.shared_gate_up for mixture in mixtures]
        assert sum(weight.numel() for weight in together if weight is not None) == joined(decoder)
        assert sum(mixture.router_wide.numel() for mixture in mixtures) == routers(decoder)
        assert all(mixture.router_wide.dtype == torch.float32 for mixture in mixtures)
    assert omni.code2wav is not None
    window = list(layers(machine))[-1][1]
    both = [weight for layer in window for weight in (layer.merge, layer.down) if weight is not None]
    assert sum(weight.numel() for weight in both) == scaled(omni.code2wav.pre_transformer)


def test_the_fast_machine_remembers_of_replies_what_is_counted(omni: Omni, machine: FastMachine) -> None:
    talker = machine._talker
    assert talker is not None
    sound = talker._sound
    held = [sound.frames, sound.keys, sound.values, *sound.past, talker._sums, talker._seen]
    assert fast_needs(omni, torch.float32, 5).replies == sum(tensor.nbytes for tensor in held)


def test_the_convolutions_in_another_layout_are_what_is_counted(omni: Omni, machine: FastMachine) -> None:
    talker = machine._talker
    assert talker is not None
    assert omni.code2wav is not None
    render = talker._render
    layers = [render._first, render._last]
    for widening in render._widenings:
        layers += [widening.repeat, widening.open, widening.close]
    for block in render._blocks:
        layers.append(block.transposed)
        layers += [each for residual in block.residuals for each in (residual.first, residual.second)]
    weights = sum(layer.weight.numel() for layer in layers)
    assert weights <= convolutions(omni.code2wav) <= 1.1 * weights


def test_the_passes_memory_holds_at_least_what_the_machine_keeps(omni: Omni, machine: FastMachine) -> None:
    talker = machine._talker
    assert talker is not None
    kept = [machine._features, machine._deepstack, machine._embedded, machine._accepted, machine._hidden]
    kept += [machine._choosing, machine._banned, talker._out, talker._codes]
    kept += [talker._predictor._keys, talker._predictor._values]
    assert fast_needs(omni, torch.float32, 5).passes > sum(tensor.nbytes for tensor in kept)


def test_passes_are_counted_for_the_largest_that_there_are() -> None:
    assert (max(ROWS), max(BATCHES)) == (MOST_ROWS, TOGETHER)


def test_what_the_released_models_take_on_a_gpu() -> None:
    """With caches of 36,864 tokens an H200 had 75.9 GB in PyTorch's hands (docs/benchmarks/engine_h200.json)."""
    told = needs.released(settings("server.max_sessions=8", "qwen.cache_tokens=36864"))
    assert told.machine is not None
    assert told.bytes == told.weights + told.caches + told.machine.bytes
    held = told.bytes - told.machine.driver
    assert 75.9e9 < held < 77e9
    assert told.machine.copies == pytest.approx(1.06e9, rel=0.01)
    more = needs.released(settings("server.max_sessions=64", "qwen.context_tokens=4096")).machine
    assert more is not None
    assert more.replies == pytest.approx(169e6, rel=0.01)
    assert needs.released(settings("qwen.machine=plain")).machine is None


@pytest.mark.parametrize(
    "overrides",
    [
        ("qwen.context_tokens=32768",),
        ("server.max_sessions=64", "qwen.context_tokens=4096"),
        ("server.max_sessions=2", "qwen.context_tokens=65536"),
        ("qwen.cache_tokens=200000",),
    ],
)
@pytest.mark.parametrize("free", [79_500_000_000, 84_000_000_000])
def test_what_is_proposed_to_a_card_of_80_gb_fits(overrides: tuple[str, ...], free: int) -> None:
    chosen = settings("qwen.weights=random:30b-a3b", *overrides)
    wanted = needs.needs(chosen, gpu(free))
    assert wanted.bytes > free
    proposed = re.findall(r"([a-z]+\.[a-z_]+)=(\d+)", needs.smaller(chosen, wanted, free))
    assert proposed
    for name, number in proposed:
        fitting = settings("qwen.weights=random:30b-a3b", *overrides, f"{name}={number}")
        assert needs.needs(fitting, gpu(free)).bytes <= free
        if name != "server.max_sessions":  # and what is a little larger does not
            larger = settings("qwen.weights=random:30b-a3b", *overrides, f"{name}={int(number) + 64}")
            assert needs.needs(larger, gpu(free)).bytes > free


def test_a_card_without_room_for_any_cache_is_proposed_nothing() -> None:
    chosen = settings("qwen.weights=random:30b-a3b")
    assert needs.smaller(chosen, needs.needs(chosen, gpu(0)), 71_000_000_000) == ""


def test_the_refusal_names_every_part_and_settings_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings("qwen.weights=random:30b-a3b")
    where = gpu(80_000_000_000)
    monkeypatch.setattr("omni_rt.engine.qwen3_omni.engine.place", lambda _: where)
    with pytest.raises(EngineError) as refused:
        asyncio.run(QwenEngine(chosen, ModelStore(cache_dir())).start())
    told, machine = str(refused.value), needs.needs(chosen, where).machine
    assert refused.value.code == "too_little_memory"
    assert machine is not None
    assert all(f"{part:,}" in told for part in (machine.copies, machine.replies, machine.passes, machine.driver))
    assert all(name in told for name in ("server.max_sessions=", "qwen.context_tokens=", "qwen.cache_tokens="))


def test_caches_are_whole_pages_of_what_attends() -> None:
    told = {}
    for name in ("sdpa", "flash"):
        chosen = settings("qwen.weights=random:tiny", "qwen.cache_tokens=1000", f"qwen.attention={name}")
        told[name] = needs.needs(chosen, replace(HERE, dtype=torch.bfloat16))
    assert (told["sdpa"].tokens, told["flash"].tokens) == (1024, 1024)
    a_token = told["sdpa"].caches // (1024 + 64)
    assert told["flash"].caches == (1024 + 256) * a_token


def test_attention_that_cannot_be_is_told_before_loading() -> None:
    with pytest.raises(EngineError, match="needs a GPU, not cpu") as refused:
        asyncio.run(
            QwenEngine(settings("qwen.weights=random:tiny", "qwen.attention=flash"), ModelStore(cache_dir())).start()
        )
    assert refused.value.code == "no_flash"
