"""Weights in 8 bit: how far they are off, where they stand, and that loading makes them one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni import random_weights
from omni_rt.engine.qwen3_omni import weights as weights_module
from omni_rt.engine.qwen3_omni.eight_bit import EVERYTHING, PARTS, Both, EightBit, for_many, for_one, held
from omni_rt.engine.qwen3_omni.experts import Experts
from omni_rt.engine.qwen3_omni.model import Omni, load
from omni_rt.engine.qwen3_omni.quantised import FP8, LARGEST, Quantised
from tools.exact import loading as exact

EXPERTS = EightBit(experts=True)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_of_every_number_is_bounded(dtype: torch.dtype) -> None:
    # outputs of all sizes, and numbers of many sizes within an output
    size = torch.logspace(-30, 30, 61)[:, None] * torch.exp2(-drawn(61, 400, seed=1).abs() * 4)
    weight = (drawn(61, 400) * size).to(dtype)
    quantised = Quantised.of(weight)
    wide, weight = quantised.wide(torch.float64), weight.double()
    scale = quantised.scale.double()[:, None]
    normal = weight.abs() >= scale / 64
    assert 0.3 < normal.float().mean() < 0.999
    error = (wide - weight).abs()
    rounding = 1 + 1e-6
    assert (error[normal] <= rounding * weight.abs()[normal] / 16).all()
    assert (error <= rounding * torch.maximum(weight.abs() / 16, scale / 1024)).all()
    assert (error[normal] > weight.abs()[normal] / 32).any()


def test_the_largest_number_stays_and_zeros_are_zeros() -> None:
    weight = drawn(2, 5, 96)
    weight[0, 1] = 0
    weight[1, 3] = 0
    weight[1, 3, 7] = -3e-44  # all but nothing
    weight[1, 4] *= 3e37
    quantised = Quantised.of(weight)
    assert (quantised.values.dtype, quantised.scale.dtype) == (FP8, torch.float32)
    assert quantised.scale.shape == (2, 5)
    assert quantised.scale[0, 1] == 1
    assert not quantised.wide(torch.float32)[0, 1].any()
    wide = quantised.wide(torch.float32)
    assert wide.isfinite().all()
    assert not wide[1, 3].any()
    ordinary = torch.ones(2, 5, dtype=torch.bool)
    ordinary[0, 1] = ordinary[1, 3] = False
    torch.testing.assert_close(wide.abs().amax(-1)[ordinary], weight.abs().amax(-1)[ordinary], rtol=1e-6, atol=0)
    assert (quantised.values.float().abs().amax(-1)[ordinary] == LARGEST).all()


def test_quantising_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    once = Quantised.of(drawn(40, 64).bfloat16())
    wide = once.wide(torch.bfloat16)
    assert torch.equal(Quantised.of(wide).wide(torch.bfloat16), wide)
    assert torch.equal(once[8:].wide(torch.bfloat16), wide[8:])
    # in parts, of which the last is smaller
    monkeypatch.setattr("omni_rt.engine.qwen3_omni.quantised._AT_ONCE", 7 * 64)
    assert torch.equal(Quantised.of(wide).wide(torch.bfloat16), wide)


def test_what_is_held_twice_is_the_same() -> None:
    weight = drawn(6, 32).bfloat16()
    before = weight.clone()
    assert held(weight, False) is weight
    both = held(weight, True)
    assert isinstance(both, Both)
    narrow = for_one(both)
    assert isinstance(narrow, Quantised)
    assert for_many(both) is weight
    assert torch.equal(weight, narrow.wide(torch.bfloat16))
    assert not torch.equal(weight, before)


def test_parts_have_names() -> None:
    assert EightBit.of(PARTS) == EVERYTHING == EightBit(True, True, True, True)
    assert EightBit.of(["head", "experts"]) == EightBit(experts=True, head=True)
    with pytest.raises(ValueError, match="'heads' is none of experts, attention, mlp, head"):
        EightBit.of(["heads"])


def experts(model: Omni) -> dict[str, Experts]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Experts)}


def assert_quantised_twin(ours: Omni, plain: Omni) -> None:
    """Experts are the quantised ones of `plain`, everything else is the same."""
    found, wanted = experts(ours), experts(plain)
    assert len(found) == len(wanted) > 3
    for name, each in found.items():
        for mine, theirs in ((each.gate_up, wanted[name].gate_up_proj), (each.down, wanted[name].down_proj)):
            assert isinstance(mine, Quantised)
            twin = Quantised.of(theirs.data)
            assert torch.equal(mine.values.view(torch.uint8), twin.values.view(torch.uint8))
            assert torch.equal(mine.scale, twin.scale)
    rest = {name: weight for name, weight in ours.named_parameters() if ".mlp.experts." not in name}
    for name, weight in plain.named_parameters():
        if ".mlp.experts." not in name:
            assert torch.equal(rest.pop(name), weight)
    assert not rest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_those_of_the_wide_model_quantised(dtype: torch.dtype) -> None:
    ours = load("random:tiny:2", device="cpu", dtype=dtype, eight_bit=EXPERTS)
    assert_quantised_twin(ours, load("random:tiny:2", device="cpu", dtype=dtype))
    assert ours.dtype == dtype


@pytest.mark.parametrize("stacked", [False, True])
def test_a_checkpoint_is_quantised_as_it_is_read(
    stacked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load("random:tiny:2", device="cpu", dtype=torch.bfloat16)
    named = dict(plain.named_parameters())
    stored = {name: weight.data for name, weight in named.items()} if stacked else dict(exact.released_layout(named))
    config = (random_weights._PRESETS / "tiny.json").read_text(encoding="utf-8")
    folder = exact.write(tmp_path / "whole", config, stored, [number % 3 for number in range(len(stored))])
    wide: list[int] = []
    of = weights_module.quantise

    def spy(weight: Tensor, *to: Tensor) -> None:
        wide.append(weight.nbytes)
        of(weight, *to)

    monkeypatch.setattr(weights_module, "quantise", spy)
    ours = load(str(folder), device="cpu", dtype=torch.bfloat16, eight_bit=EXPERTS)
    assert_quantised_twin(ours, plain)
    of_experts = [weight.nbytes for name, weight in named.items() if ".mlp.experts." in name]
    assert sum(wide) == sum(of_experts)
    assert max(wide) <= max(of_experts)
    assert len(wide) >= len(of_experts)


def test_experts_in_8_bit_mix_as_the_numbers_they_stand_for() -> None:
    model = load("random:tiny", device="cpu", dtype=torch.float32, eight_bit=EXPERTS)
    mixture = model.thinker.model.language_model.layers[0].mlp
    x = drawn(5, model.spec.text.hidden)
    with torch.inference_mode():
        out = mixture(x)
        each = mixture.experts
        gate_up, down = each.gate_up.wide(torch.float32), each.down.wide(torch.float32)
        weights, chosen = mixture.gate(x)
        expected = torch.zeros_like(x)
        for row in range(5):
            for weight, number in zip(weights[row], chosen[row].tolist(), strict=True):
                gate, up = (gate_up[number] @ x[row]).chunk(2)
                expected[row] += weight * (down[number] @ (torch.nn.functional.silu(gate) * up))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
