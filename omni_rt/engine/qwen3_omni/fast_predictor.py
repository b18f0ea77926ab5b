"""The code predictor on the kernels: a frame's fifteen residual codes, one row at a time for every reply."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.code_predictor import CodePredictor
from omni_rt.engine.qwen3_omni.decoder import DecoderLayer
from omni_rt.engine.qwen3_omni.eight_bit import NOTHING, EightBit, Held, for_many, for_one, held
from omni_rt.engine.qwen3_omni.fast_decoder import Layer
from omni_rt.engine.qwen3_omni.kernels.draw import draw
from omni_rt.engine.qwen3_omni.kernels.few_keys import attend_few
from omni_rt.engine.qwen3_omni.kernels.heads import angles
from omni_rt.engine.qwen3_omni.kernels.norm import norm
from omni_rt.engine.qwen3_omni.kernels.vector import empty, product
from omni_rt.engine.qwen3_omni.sampler import SamplingParams, SamplingRows

Draws = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Temperature, top_k, tail, penalty and greedy of every row."""


def draws(params: SamplingParams, batch: int, device: torch.device) -> Draws:
    rows = SamplingRows.of([params] * batch, device)
    return rows.temperature, rows.top_k, rows.tail, rows.penalty, rows.greedy


def head_logits(hidden: Tensor, head: Held, weight: Tensor, eps: float) -> Tensor:
    """Float32 rows [B, hidden] -> logits [B, vocab] after the norm, in the dtype of the weights."""
    if len(hidden) == 1:
        narrow = for_one(head)
        return product(hidden, narrow, norm=weight, eps=eps, out=empty(hidden, len(narrow), weight.dtype))
    return F.linear(norm(hidden, weight, eps)[0], for_many(head))


class FastPredictor:
    """Shares the predictor's weights. For up to `most` replies at once."""

    def __init__(self, predictor: CodePredictor, *, most: int, eight_bit: EightBit = NOTHING) -> None:
        model = predictor.model
        device, dtype = model.norm.weight.device, model.norm.weight.dtype
        self._layers = [Layer.of(cast(DecoderLayer, layer), eight_bit) for layer in model.layers]
        self._norm = model.norm.weight
        self._eps = model.norm.eps
        self._heads = [held(cast(nn.Linear, head).weight, eight_bit.head) for head in predictor.lm_head]
        self._tables = [cast(nn.Embedding, table).weight for table in model.codec_embedding]
        of = model.spec
        shape = (of.layers, most, of.kv_heads, model.groups, of.head_dim)
        self._keys, self._values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        positions = torch.arange(model.groups, dtype=torch.float32, device=device)[None]
        self._turn = angles(positions, model.rotary._frequencies.to(device), model.rotary._axis.to(device))

    def predict(
        self, hidden: Tensor, embedded: Tensor, total: Tensor, codes: Tensor, rows: Draws, uniform: Tensor
    ) -> None:
        """Fills columns 1 to 15 of `codes` int64 [B, 16].

        hidden [B, hidden] is the talker's after its final norm. embedded float32 [B, hidden] is the first code's
        embedding; it is changed. total float32 [B, hidden] grows by the embeddings of all codes that are drawn.
        """
        self._pass(hidden.to(torch.float32, copy=True), 0, last=False)
        for number, (head, table) in enumerate(zip(self._heads, self._tables, strict=True), start=1):
            self._pass(embedded, number, last=True)
            logits = head_logits(embedded, head, self._norm, self._eps)
            draw(logits, rows, uniform, number, codes, table, embedded, total)

    def _pass(self, x: Tensor, position: int, *, last: bool) -> None:
        """Rows [B, hidden] at one position, changed in place; without `last` only their keys and values matter."""
        batch = len(x)
        for number, layer in enumerate(self._layers):
            keys, values = self._keys[number, :batch], self._values[number, :batch]
            mixed = layer.project(x)
            attended = attend_few(
                mixed, layer.query_norm, layer.key_norm, layer.eps, self._turn, keys, values, position
            )
            if last or number + 1 < len(self._layers):
                layer.finish(x, attended)
