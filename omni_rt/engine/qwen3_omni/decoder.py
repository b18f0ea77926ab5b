"""The causal transformer shared by thinker and talker; the rows of several sequences pass through it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.attention import Span, planned, write
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.sdpa import Sdpa
from omni_rt.engine.qwen3_omni.experts import MixtureOfExperts
from omni_rt.engine.qwen3_omni.layers import Attention, GatedMLP, RMSNorm, Rotary, Rotation, upload
from omni_rt.engine.qwen3_omni.spec import DecoderSpec

__all__ = ["Decoder", "DecoderLayer", "Deepstack", "Passed", "Span"]


@dataclass(frozen=True, slots=True)
class Deepstack:
    """Visual features added to the hidden state: `values` [d, v, hidden], after layers 0..d-1, at rows `index` [v].

    `index` (int64) counts the rows of the pass; no row appears twice.
    """

    index: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Passed:
    """`hidden` [n, hidden] after the final norm; `captured` [n, hidden] where one was asked for."""

    hidden: Tensor
    captured: Tensor | None


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each with a residual. `attend` maps queries, keys and values to what was attended."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.self_attn = Attention(spec)
        self.mlp: nn.Module = MixtureOfExperts(spec) if spec.experts else GatedMLP(spec.hidden, spec.mlp)
        self.input_layernorm = RMSNorm(spec.hidden, spec.eps)
        self.post_attention_layernorm = RMSNorm(spec.hidden, spec.eps)

    def forward(self, x: Tensor, rotation: Rotation, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """[..., n, hidden] -> [..., n, hidden]; shapes of `attend`'s arguments as in `Attention.project`."""
        x = x + self.self_attn.merge(attend(*self.self_attn.project(self.input_layernorm(x), rotation)))
        out: Tensor = x + self.mlp(self.post_attention_layernorm.wide(x))
        return out


class Decoder(nn.Module):
    """Layers and final norm. Embeddings and heads are put beside it by those who use it.

    `backend` is what attends; whoever runs the decoder may put another in its place between passes.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(spec.layers))
        self.norm = RMSNorm(spec.hidden, spec.eps)
        self.rotary = Rotary(spec.head_dim, spec.rope)
        self.backend: Backend = Sdpa()

    def forward(
        self,
        rows: Tensor,
        positions: Tensor,
        spans: Sequence[Span],
        *,
        deepstack: Deepstack | None = None,
        capture: int | None = None,
    ) -> Passed:
        """Runs the packed rows of all spans and appends them to the spans' caches.

        rows [n, hidden]; positions float32 [3, n] ([n] or [1, n] for a one-dimensional rope), fractions allowed,
        on the host or the device. `capture` k asks for the output of the first k layers, before layer k-1's deepstack
        addition; with k == layers it is after the final norm, as in Hugging Face's `hidden_states`.

        Raises CacheFull; after any failure all caches are as they were.
        """
        if rows.shape[0] != sum(span.rows for span in spans) or positions.shape[-1] != rows.shape[0]:
            raise ValueError(
                f"{rows.shape[0]} rows, {positions.shape[-1]} positions and spans of "
                f"{sum(span.rows for span in spans)} rows do not fit"
            )
        depth = 0 if deepstack is None else deepstack.values.shape[0]
        captured = None
        if positions.device != rows.device:
            positions = upload(positions.numpy(), rows.device)
        with planned(spans) as plan:
            dtype = self.norm.weight.dtype
            rotation = self.rotary(positions, dtype)
            rows = rows.float()  # what the layers add up is rounded only where a layer reads it
            attend = self.backend.eager(plan)
            for number, layer in enumerate(self.layers):

                def attended(q: Tensor, k: Tensor, v: Tensor, number: int = number) -> Tensor:
                    return attend(q, *write(plan, number, k, v))

                rows = layer(rows, rotation, attended)
                if capture == number + 1:
                    captured = rows.to(dtype)
                if deepstack is not None and number < depth:
                    rows = rows.index_add(0, deepstack.index, deepstack.values[number].to(rows.dtype))
            hidden = self.norm(rows)
        return Passed(hidden=hidden, captured=hidden if capture == self.spec.layers else captured)
