"""Mixture of experts: a router picks a few small MLPs for every row."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.layers import GatedMLP, linear
from omni_rt.engine.qwen3_omni.quantised import Quantised, Weight, wide
from omni_rt.engine.qwen3_omni.spec import DecoderSpec


class Router(nn.Module):
    """Chooses `top_k` experts for a row and their weights, from a softmax in float32 over all of them."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.experts, spec.hidden), requires_grad=False)
        self.top_k = spec.top_k
        self.normalise = spec.normalise_top_k

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[n, hidden] -> weights float32 [n, top_k], experts int64 [n, top_k]; all in float32, since a rounded score
        sends a row to another expert."""
        weights, experts = F.linear(rows.float(), self.weight.float()).softmax(-1).topk(self.top_k, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, experts


class Experts(nn.Module):
    """The weights of all experts: `gate_up_proj` [experts, 2 * inner, hidden], `down_proj` [experts, hidden, inner].

    In 8 bit (`quantise`) these are the values and `gate_up_proj_scale` and `down_proj_scale` their scales.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(spec.experts, 2 * spec.mlp, spec.hidden), requires_grad=False)
        self.down_proj = nn.Parameter(torch.empty(spec.experts, spec.hidden, spec.mlp), requires_grad=False)
        self.gate_up_proj_scale: nn.Parameter | None = None
        self.down_proj_scale: nn.Parameter | None = None

    def quantise(self) -> None:
        """Hold the weights in 8 bit; what already is stays as it is."""
        if self.gate_up_proj_scale is not None:
            return
        for name in ("gate_up_proj", "down_proj"):
            held = Quantised.of(getattr(self, name))
            setattr(self, name, nn.Parameter(held.values, requires_grad=False))
            setattr(self, f"{name}_scale", nn.Parameter(held.scale, requires_grad=False))

    @property
    def gate_up(self) -> Weight:
        return _held(self.gate_up_proj, self.gate_up_proj_scale)

    @property
    def down(self) -> Weight:
        return _held(self.down_proj, self.down_proj_scale)

    def forward(self, rows: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """The weighted sum of each row's experts: [n, hidden], [n, top_k], int64 [n, top_k] -> float32 [n, hidden].

        In bfloat16 on a GPU the experts run as grouped products whose shapes do not depend on the routing, without the
        host waiting; elsewhere one expert after the other. What is held in 8 bit is made wide for the time of the call.
        """
        top_k = experts.shape[1]
        chosen, order = experts.flatten().sort(stable=True)
        picked = rows[order // top_k]
        numbers = torch.arange(self.down_proj.shape[0], device=rows.device)
        ends = torch.searchsorted(chosen, numbers, right=True, out_int32=True)
        grouped = rows.is_cuda and rows.dtype == torch.bfloat16
        apply = _grouped if grouped else _one_by_one
        held = wide(self.gate_up, rows.dtype), wide(self.down, rows.dtype)
        done = torch.empty_like(picked).index_copy_(0, order, apply(picked, ends, *held))
        return (done.view(-1, top_k, rows.shape[1]) * weights[..., None]).sum(1)


def _grouped(picked: Tensor, ends: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    inner = F.grouped_mm(picked, gate_up.transpose(1, 2), offs=ends)
    gate, up = inner.chunk(2, dim=-1)
    return F.grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)


def _one_by_one(picked: Tensor, ends: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    out = torch.empty_like(picked)
    start = 0
    for number, end in enumerate(ends.tolist()):
        if end > start:
            gate, up = F.linear(picked[start:end], gate_up[number]).chunk(2, dim=-1)
            out[start:end] = F.linear(F.silu(gate) * up, down[number])
        start = end
    return out


def _held(weight: Tensor, scale: Tensor | None) -> Weight:
    return weight if scale is None else Quantised(weight, scale)


class MixtureOfExperts(nn.Module):
    """Routed experts and, where the spec has one, a shared expert behind a sigmoid gate."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.gate = Router(spec)
        self.experts = Experts(spec)
        self.shared_expert: GatedMLP | None = None
        self.shared_expert_gate: nn.Linear | None = None
        if spec.shared:
            self.shared_expert = GatedMLP(spec.hidden, spec.shared)
            self.shared_expert_gate = linear(spec.hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [..., hidden] to the same; the experts read it rounded to their dtype, the router as it is."""
        wide = x.reshape(-1, x.shape[-1])
        rows = wide.to(self.gate.weight.dtype)
        out: Tensor = self.experts(rows, *self.gate(wide))
        if self.shared_expert is not None and self.shared_expert_gate is not None:
            out = out + self.shared_expert_gate(rows).sigmoid() * self.shared_expert(rows)
        return out.view_as(x)
