"""The code predictor: a frame's first code and the talker's hidden state in, its fifteen residual codes out.

A small dense decoder that starts afresh for every frame. Its memory is a static tensor of `code_groups` slots, and
which slot a pass writes depends on the number of the pass alone, so that a whole frame can be captured as one graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.decoder import DecoderLayer
from omni_rt.engine.qwen3_omni.layers import RMSNorm, Rotary, Rotation, attention, linear
from omni_rt.engine.qwen3_omni.sampler import SamplingRows, choose
from omni_rt.engine.qwen3_omni.spec import TalkerSpec


@dataclass(frozen=True, slots=True)
class _Slots:
    """Keys and values [layers, B, code_groups, kv_heads, head_dim] of one frame, with the rotation of every slot."""

    keys: Tensor
    values: Tensor
    rotation: Rotation

    def attend(self, layer: int, start: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Writes the keys and values of slots `start`.. and attends to all slots up to there."""
        end = start + k.shape[1]
        keys, values = self.keys[layer, :, :end], self.values[layer, :, :end]
        keys[:, start:] = k
        values[:, start:] = v
        return attention(q, keys, values, causal=start == 0)


class CodePredictorModel(nn.Module):
    """Layers, final norm, and an embedding table for each residual code."""

    def __init__(self, spec: TalkerSpec) -> None:
        super().__init__()
        self.spec = spec.predictor
        self.groups = spec.code_groups
        self.layers = nn.ModuleList(DecoderLayer(self.spec) for _ in range(self.spec.layers))
        self.norm = RMSNorm(self.spec.hidden, self.spec.eps)
        self.codec_embedding = nn.ModuleList(
            nn.Embedding(self.spec.vocab, self.spec.hidden) for _ in range(spec.code_groups - 1)
        )
        self.rotary = Rotary(self.spec.head_dim, self.spec.rope)

    def slots(self, like: Tensor) -> _Slots:
        """An empty memory for the batch, on the device and in the dtype of `like` [B, hidden]."""
        shape = (self.spec.layers, like.shape[0], self.groups, self.spec.kv_heads, self.spec.head_dim)
        positions = torch.arange(self.groups, dtype=torch.float32, device=like.device)
        return _Slots(like.new_empty(shape), like.new_empty(shape), self.rotary(positions, like.dtype))

    def forward(self, rows: Tensor, start: int, slots: _Slots) -> Tensor:
        """Rows [B, n, hidden] for slots `start`.. -> the last one's hidden state after the final norm [B, hidden]."""
        end = start + rows.shape[1]
        rows = rows.float()
        rotation = Rotation(slots.rotation.cos[start:end], slots.rotation.sin[start:end])
        for number, layer in enumerate(self.layers):

            def attend(q: Tensor, k: Tensor, v: Tensor, number: int = number) -> Tensor:
                return slots.attend(number, start, q, k, v)

            rows = layer(rows, rotation, attend)
        out: Tensor = self.norm(rows[:, -1])
        return out


class CodePredictor(nn.Module):
    """Weights only; raises ValueError where the predictor is not as wide as the talker (there is no projection)."""

    def __init__(self, spec: TalkerSpec) -> None:
        super().__init__()
        if spec.predictor.hidden != spec.decoder.hidden:
            raise ValueError(
                f"the code predictor is {spec.predictor.hidden} wide, the talker {spec.decoder.hidden}; they must agree"
            )
        self.model = CodePredictorModel(spec)
        self.lm_head = nn.ModuleList(
            linear(spec.predictor.hidden, spec.predictor.vocab) for _ in range(spec.code_groups - 1)
        )
        self.requires_grad_(False)

    def predict(
        self, hidden: Tensor, code: Tensor, embedded: Tensor, rows: SamplingRows, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The frame that begins with `code`.

        hidden [B, hidden], the talker's after its final norm; code int64 [B] and its embedding by the talker
        `embedded` [B, hidden]; uniform float32 [B, 15] in [0, 1), one number for each residual code. Returns the codes
        int64 [B, 16] and the sum of their 16 embeddings [B, hidden].
        """
        slots = self.model.slots(hidden)
        last = self.model(torch.stack((hidden, embedded), dim=1), 0, slots)
        codes, embeddings = [code], [embedded]
        for number, (head, table) in enumerate(zip(self.lm_head, self.model.codec_embedding, strict=True)):
            codes.append(choose(head(last), rows, uniform[:, number]))
            embeddings.append(table(codes[-1]))
            if number + 2 < self.model.groups:
                last = self.model(embeddings[-1][:, None], number + 2, slots)
        return torch.stack(codes, dim=1), torch.stack(embeddings, dim=1).sum(1)
