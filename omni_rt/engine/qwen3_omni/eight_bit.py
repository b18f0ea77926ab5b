"""Which weights are held in 8 bit, and those that are held in the model's dtype as well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.decoder import DecoderLayer
from omni_rt.engine.qwen3_omni.experts import Experts, MixtureOfExperts
from omni_rt.engine.qwen3_omni.layers import GatedMLP
from omni_rt.engine.qwen3_omni.quantised import Quantised, Weight


@dataclass(frozen=True, slots=True)
class EightBit:
    """What of thinker, talker and code predictor is held in 8 bit; encoders, embeddings, routers and Code2Wav are not.

    `experts`: with the shared one; `attention`: the projections around it; `mlp`: the predictor's; `head`: the
    thinker's and the predictor's. Routed experts are held in 8 bit only. All else is what a single row reads, beside
    the same numbers in the model's dtype for matrix products of several rows.
    """

    experts: bool = False
    attention: bool = False
    mlp: bool = False
    head: bool = False

    @classmethod
    def of(cls, names: Iterable[str]) -> EightBit:
        """Of the names of its fields. Raises ValueError for another."""
        names = list(names)
        if unknown := [name for name in names if name not in PARTS]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
        return cls(**dict.fromkeys(names, True))


PARTS = tuple(field.name for field in fields(EightBit))
NOTHING = EightBit()
EVERYTHING = EightBit.of(PARTS)


@dataclass(frozen=True, slots=True)
class Both:
    """A weight [outputs, inputs] in 8 bit, which a single row reads, and the same numbers in the model's dtype."""

    narrow: Quantised
    wide: Tensor


Held = Tensor | Both


def held(weight: Tensor, eight_bit: bool) -> Held:
    """A weight, in 8 bit too if so; then it is changed itself, so that all who share it read the same numbers, up to
    the rounding of its dtype."""
    if not eight_bit:
        return weight
    narrow = Quantised.of(weight)
    narrow.copy_to(weight)
    return Both(narrow, weight)


def for_one(weight: Held) -> Weight:
    """What a single row reads."""
    return weight.narrow if isinstance(weight, Both) else weight


def for_many(weight: Held) -> Tensor:
    """What several rows read."""
    return weight.wide if isinstance(weight, Both) else weight


def hold_experts(model: nn.Module) -> None:
    """In 8 bit from now on, one weight after the other; also on the meta device."""
    for module in model.modules():
        if isinstance(module, Experts):
            module.quantise()


def copies(model: nn.Module, heads: Iterable[nn.Linear], eight_bit: EightBit) -> int:
    """Bytes of what is in 8 bit beside a model's weights; `heads` are those that `EightBit.head` means."""
    found = [layer for module in model.modules() for layer in _read_by_one(module, eight_bit)]
    if eight_bit.head:
        found += heads
    return sum(layer.weight.numel() + 4 * layer.weight.shape[0] for layer in found)


def _read_by_one(module: nn.Module, eight_bit: EightBit) -> Iterator[nn.Linear]:
    if not isinstance(module, DecoderLayer):
        return
    attention, mlp = module.self_attn, module.mlp
    if eight_bit.attention:
        yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    shared = mlp.shared_expert if isinstance(mlp, MixtureOfExperts) and eight_bit.experts else None
    for dense in (shared, mlp if eight_bit.mlp else None):
        if isinstance(dense, GatedMLP):
            yield from (dense.gate_proj, dense.up_proj, dense.down_proj)
