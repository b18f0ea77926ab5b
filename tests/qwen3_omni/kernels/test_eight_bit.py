"""Kernels that read weights in 8 bit against plain modules that hold what these stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from omni_rt.engine.qwen3_omni.experts import MixtureOfExperts
from omni_rt.engine.qwen3_omni.kernels.experts_many import mix_many
from omni_rt.engine.qwen3_omni.kernels.experts_one import mix_one
from omni_rt.engine.qwen3_omni.kernels.norm import norm
from omni_rt.engine.qwen3_omni.kernels.vector import product
from omni_rt.engine.qwen3_omni.layers import GatedMLP, RMSNorm
from omni_rt.engine.qwen3_omni.quantised import Quantised
from tests.qwen3_omni.kernels.test_kernels import DEVICE, drawn, filled, spec

DTYPES = [torch.float32, torch.bfloat16]


def narrowed(weight: Tensor) -> Quantised:
    """The weight in 8 bit; it becomes what that stands for, up to the rounding of its dtype."""
    # outputs of very different sizes: a scale that is taken from another output shows
    weight.mul_(torch.linspace(-2, 1, weight.shape[-2], device=weight.device).exp2()[:, None])
    held = Quantised.of(weight)
    held.copy_to(weight)
    return held


def near(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    if dtype == torch.float32:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    else:  # what the plain modules round on the way; the interpreter cuts off where a GPU rounds
        apart = (ours.float() - theirs.float()).norm(dim=-1) / theirs.float().norm(dim=-1)
        assert (apart < 0.03).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inner", "outer"), [(64, 96), (48, 40), (100, 7)])
def test_a_row_times_a_matrix(inner: int, outer: int, dtype: torch.dtype) -> None:
    weight, plain = drawn(outer, inner, seed=2).to(dtype), RMSNorm(inner, 1e-6).to(DEVICE)
    plain.weight.data = drawn(inner, seed=3).to(dtype)
    x, held = drawn(1, inner), narrowed(weight)
    out = torch.empty(1, outer, device=DEVICE, dtype=dtype)
    near(product(x.to(dtype), held, out=out), F.linear(x.to(dtype), weight), dtype)
    near(product(x, held, norm=plain.weight, eps=1e-6, out=out), F.linear(plain(x), weight), dtype)
    added = drawn(1, outer, seed=4)
    expected = F.linear(x.to(dtype), weight) + added
    near(product(x.to(dtype), held, residual=added, out=added), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gated_pair(dtype: torch.dtype) -> None:
    x, mlp = drawn(1, 48).to(dtype), filled(GatedMLP(48, 56)).to(dtype)
    assert isinstance(mlp, GatedMLP)
    fused = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
    held, down = narrowed(fused), narrowed(mlp.down_proj.weight.data)
    mlp.gate_proj.weight.data, mlp.up_proj.weight.data = fused.chunk(2)
    opened = torch.empty(1, 56, device=DEVICE, dtype=dtype)
    product(x, held, pair=True, out=opened)
    out = torch.empty(1, 48, device=DEVICE, dtype=dtype)
    near(product(opened, down, out=out), mlp(x), dtype)


class Mixed:
    """Experts in 8 bit, the rows that they are given after a norm, and what the plain module makes of them."""

    def __init__(self, rows: int, shared: int, dtype: torch.dtype, mlp: int = 24) -> None:
        of = replace(spec().text, hidden=48, experts=8, top_k=3, mlp=mlp, shared=shared)
        mixture = filled(MixtureOfExperts(of)).to(dtype)
        assert isinstance(mixture, MixtureOfExperts)
        self.routing = {"top": 3, "normalise": of.normalise_top_k}
        self.router = mixture.gate.weight
        self.experts = narrowed(mixture.experts.gate_up_proj.data), narrowed(mixture.experts.down_proj.data)
        self.x, plain = drawn(rows, 48), RMSNorm(48, 1e-6).to(DEVICE)
        plain.weight.data = drawn(48, seed=2).to(dtype)
        self.norm = plain.weight
        self.rounded, self.wide = norm(self.x.clone(), plain.weight, 1e-6, wide=True)
        self.own: tuple[Tensor, Quantised, Quantised, Quantised] | None = None
        self.shared: tuple[Tensor, Tensor] | None = None
        if mixture.shared_expert is not None and mixture.shared_expert_gate is not None:
            own, gate = mixture.shared_expert, mixture.shared_expert_gate
            first, second, last = (narrowed(each.weight.data) for each in (own.gate_proj, own.up_proj, own.down_proj))
            self.own = gate.weight, first, second, last
            self.shared = own(self.rounded), gate(self.rounded)
        self.expected = mixture(plain.wide(self.x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize("mlp", [24, 304])  # the columns of one read, and of two
def test_experts_of_one_row(mlp: int, shared: int, dtype: torch.dtype) -> None:
    of = Mixed(1, shared, dtype, mlp)
    x, counter = of.x.clone(), torch.zeros(1, dtype=torch.int32, device=DEVICE)
    mix_one(x, of.norm, 1e-6, of.router, *of.experts, counter, **of.routing, shared=of.own)
    near(x - of.x, of.expected, dtype)
    assert not counter.any()


# the interpreter multiplies the bits of bfloat16 matrices as if they were whole numbers
@pytest.mark.parametrize("dtype", DTYPES if DEVICE == "cuda" else DTYPES[:1])
@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize("rows", [1, 7, 150, 300])
def test_experts_of_many_rows(shared: int, rows: int, dtype: torch.dtype) -> None:
    of = Mixed(rows, shared, dtype)
    x = of.x.clone()
    scores = F.linear(of.wide, of.router.float())
    mix_many(x, of.rounded, scores, *of.experts, **of.routing, shared=of.shared)
    near(x - of.x, of.expected, dtype)
