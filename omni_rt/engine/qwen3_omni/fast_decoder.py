"""A decoder's layers on the kernels: the same weights and numbers as `decoder.py`, in few launches.

One row is worked on by kernels that read weights once and do nothing else; several rows by matrix products and grouped
experts. In 8 bit one row reads copies of what matrix products need in the model's dtype. Rows are float32 on the way
from layer to layer and changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.decoder import Decoder, DecoderLayer
from omni_rt.engine.qwen3_omni.eight_bit import NOTHING, EightBit, Held, for_many, for_one, held
from omni_rt.engine.qwen3_omni.experts import MixtureOfExperts
from omni_rt.engine.qwen3_omni.kernels.experts_many import mix_many
from omni_rt.engine.qwen3_omni.kernels.experts_one import mix_one
from omni_rt.engine.qwen3_omni.kernels.heads import angles, prepare
from omni_rt.engine.qwen3_omni.kernels.norm import norm
from omni_rt.engine.qwen3_omni.kernels.vector import empty, product
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.layers import GatedMLP
from omni_rt.engine.qwen3_omni.passes import Bucket, Pass
from omni_rt.engine.qwen3_omni.quantised import Quantised, Weight


def joined(*layers: nn.Linear) -> Tensor:
    """Weights of linear layers under one another, [sum of outputs, inputs]; the layers become views of it."""
    weight = torch.cat([layer.weight for layer in layers])
    start = 0
    for layer in layers:
        end = start + layer.weight.shape[0]
        layer.weight.data = weight[start:end]
        start = end
    return weight


@dataclass(frozen=True, slots=True)
class Mixture:
    """Experts of a layer; `router` also in float32, for products of several rows. `counter` is the kernels' own."""

    router: Tensor
    router_wide: Tensor
    counter: Tensor
    gate_up: Weight
    down: Weight
    top: int
    normalise: bool
    shared_gate: Tensor | None = None
    shared_gate_up: Held | None = None
    shared_down: Held | None = None

    @classmethod
    def of(cls, mixture: MixtureOfExperts) -> Mixture:
        gate, mlp = mixture.shared_expert_gate, mixture.shared_expert
        gate_up = mixture.experts.gate_up
        eight_bit = isinstance(gate_up, Quantised)
        return cls(
            router=mixture.gate.weight,
            router_wide=mixture.gate.weight.float(),
            counter=torch.zeros(1, dtype=torch.int32, device=mixture.gate.weight.device),
            gate_up=gate_up,
            down=mixture.experts.down,
            top=mixture.gate.top_k,
            normalise=mixture.gate.normalise,
            shared_gate=gate.weight if gate is not None else None,
            shared_gate_up=held(joined(mlp.gate_proj, mlp.up_proj), eight_bit) if mlp is not None else None,
            shared_down=held(mlp.down_proj.weight, eight_bit) if mlp is not None else None,
        )

    def one(self, x: Tensor, weight: Tensor, eps: float) -> None:
        shared = None
        if self.shared_gate is not None and self.shared_gate_up is not None and self.shared_down is not None:
            gate_up = for_one(self.shared_gate_up)
            half = len(gate_up) // 2
            shared = self.shared_gate, gate_up[:half], gate_up[half:], for_one(self.shared_down)
        routed = self.router, self.gate_up, self.down, self.counter
        mix_one(x, weight, eps, *routed, top=self.top, normalise=self.normalise, shared=shared)

    def many(self, x: Tensor, rows: Tensor, wide: Tensor) -> None:
        shared = None
        if self.shared_gate is not None and self.shared_gate_up is not None and self.shared_down is not None:
            gate, up = F.linear(rows, for_many(self.shared_gate_up)).chunk(2, dim=-1)
            shared = F.linear(F.silu(gate) * up, for_many(self.shared_down)), F.linear(rows, self.shared_gate)
        scores = F.linear(wide, self.router_wide)
        mix_many(x, rows, scores, self.gate_up, self.down, top=self.top, normalise=self.normalise, shared=shared)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights. `mixture` or, without experts, `gate_up` and `down`."""

    eps: float
    before: Tensor
    mixed: Held
    query_norm: Tensor
    key_norm: Tensor
    merge: Held
    between: Tensor
    mixture: Mixture | None
    gate_up: Held | None
    down: Held | None

    @classmethod
    def of(cls, layer: DecoderLayer, eight_bit: EightBit = NOTHING) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        dense = mlp if isinstance(mlp, GatedMLP) else None
        return cls(
            eps=layer.input_layernorm.eps,
            before=layer.input_layernorm.weight,
            mixed=held(joined(attention.q_proj, attention.k_proj, attention.v_proj), eight_bit.attention),
            query_norm=attention.q_norm.weight,
            key_norm=attention.k_norm.weight,
            merge=held(attention.o_proj.weight, eight_bit.attention),
            between=layer.post_attention_layernorm.weight,
            mixture=Mixture.of(mlp) if isinstance(mlp, MixtureOfExperts) else None,
            gate_up=held(joined(dense.gate_proj, dense.up_proj), eight_bit.mlp) if dense is not None else None,
            down=held(dense.down_proj.weight, eight_bit.mlp) if dense is not None else None,
        )

    def project(self, x: Tensor) -> Tensor:
        """Float32 rows [n, hidden] -> queries, keys and values, before their norms [n, all heads * head_dim]."""
        if len(x) == 1:
            mixed = for_one(self.mixed)
            out = empty(x, len(mixed), self.before.dtype)
            return product(x, mixed, norm=self.before, eps=self.eps, out=out)
        return F.linear(norm(x, self.before, self.eps)[0], for_many(self.mixed))

    def finish(self, x: Tensor, attended: Tensor) -> None:
        """Adds to `x`, in place, what was attended [n, heads * head_dim] and what the MLP makes of it."""
        if len(x) == 1:
            product(attended, for_one(self.merge), residual=x, out=x)
            if self.mixture is not None:
                self.mixture.one(x, self.between, self.eps)
            elif self.gate_up is not None and self.down is not None:
                down = for_one(self.down)
                inner = empty(x, down.shape[1], self.between.dtype)
                product(x, for_one(self.gate_up), norm=self.between, eps=self.eps, pair=True, out=inner)
                product(inner, down, residual=x, out=x)
            return
        added = F.linear(attended, for_many(self.merge))
        rows, wide = norm(x, self.between, self.eps, added=added, wide=self.mixture is not None)
        if self.mixture is not None:
            self.mixture.many(x, rows, wide)
        elif self.gate_up is not None and self.down is not None:
            gate, up = F.linear(rows, for_many(self.gate_up)).chunk(2, dim=-1)
            x += F.linear(F.silu(gate) * up, for_many(self.down))


class FastDecoder:
    """Shares a decoder's weights, and its layers' keys and values with a pool; `backend` attends."""

    def __init__(self, decoder: Decoder, pool: KVPool, backend: Backend, eight_bit: EightBit = NOTHING) -> None:
        device = decoder.norm.weight.device
        self.pool = pool
        self.backend = backend
        self.layers = [Layer.of(cast(DecoderLayer, layer), eight_bit) for layer in decoder.layers]
        self._norm = decoder.norm.weight
        self._eps = decoder.norm.eps
        self._frequencies = decoder.rotary._frequencies.to(device)
        self._axis = decoder.rotary._axis.to(device)

    def __call__(
        self, x: Tensor, bucket: Bucket, given: Pass, *, deepstack: Tensor | None = None, capture: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Float32 rows [n, hidden], changed in place -> (after the final norm, after the first `capture` layers), in
        the dtype of the weights. deepstack [d, n, hidden] is added after the first d layers."""
        captured = None
        turn = angles(given.positions, self._frequencies, self._axis)
        attend = self.backend.captured(self.pool, bucket, given)
        for number, layer in enumerate(self.layers):
            keys, values = self.pool.keys[number], self.pool.values[number]
            queries = prepare(
                layer.project(x), layer.query_norm, layer.key_norm, layer.eps, turn, given.slots, keys, values
            )
            layer.finish(x, attend(queries, keys, values).flatten(1))
            if capture == number + 1:
                captured = x.to(self._norm.dtype, copy=True)
            if deepstack is not None and number < len(deepstack):
                x += deepstack[number]
        return norm(x, self._norm, self._eps)[0], captured
