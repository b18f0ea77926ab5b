"""Choosing a token of a large vocabulary: the best of each part of it in many programs, then one of these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent
from omni_rt.engine.qwen3_omni.kernels.draw import drawn, ordered, reached

_PART = 4096
KEPT = 64
"""Tokens of a part that can be chosen. A top-k must be smaller; of more than these, equals of the last one are lost."""


@triton.jit
def _best(
    logits, banned, allowed, best, tokens, vocab, parts,
    PART: tl.constexpr, KEPT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = part * PART + tl.arange(0, PART)
    inside = at < vocab
    x = tl.load(logits + row * vocab + at, mask=inside, other=float("-inf")).to(tl.float32)
    gone = tl.load(banned + tl.load(allowed + row).to(tl.int64) * vocab + at, mask=inside, other=1)
    x = tl.where(gone != 0, float("-inf"), x)
    key = ordered(x)
    low = reached(key, KEPT).to(tl.int32)
    above = key > low
    equal = (key == low).to(tl.int32)
    left = KEPT - tl.sum(above.to(tl.int32), 0)
    kept = above | ((equal != 0) & (tl.cumsum(equal, 0) <= left))
    place = tl.cumsum(kept.to(tl.int32), 0) - 1
    target = (row * parts + part) * KEPT + place
    tl.store(best + target, x, mask=kept)
    tl.store(tokens + target, at, mask=kept)


@triton.jit(do_not_specialize=["top_k"])
def _choose(
    best, tokens, temperature, greedy, uniform, chosen, count, top_k, tail,
    COUNT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, COUNT)
    inside = at < count
    x = tl.load(best + row * count + at, mask=inside, other=float("-inf"))
    own = tl.load(greedy + row) != 0
    place = drawn(x, at, count, tl.load(temperature + row), top_k, tail, own, tl.load(uniform + row))
    # of logits that are no numbers none is the best
    place = tl.minimum(place, count - 1)
    tl.store(chosen + row, tl.load(tokens + row * count + place).to(tl.int64))


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the token of each of B rows is chosen: float32 `temperature` and `uniform` (a number in [0, 1) to draw with),
    int32 `greedy` (0 or 1) and `allowed` (the row of `banned` that says which tokens never come), all [B]."""

    temperature: Tensor
    greedy: Tensor
    uniform: Tensor
    allowed: Tensor


def choose(logits: Tensor, wanted: Wanted, banned: Tensor, chosen: Tensor, *, top_k: int, tail: float) -> None:
    """A token for each of B rows of logits [B, V] to `chosen` int64 [B], as `sampler.choose` with the same `top_k`, at
    most `KEPT`, and `tail` (1 - top_p, negative for none). banned: bool [sets, V]."""
    batch, vocab = logits.shape
    part = min(_PART, triton.next_power_of_2(vocab))
    parts = triton.cdiv(vocab, part)
    count = parts * KEPT
    best = torch.full((batch, count), -torch.inf, device=logits.device)
    tokens = torch.zeros(batch, count, device=logits.device, dtype=torch.int32)
    early = dependent(logits)
    _best[(batch, parts)](
        logits, banned.view(torch.int8), wanted.allowed, best, tokens, vocab, parts,
        PART=part, KEPT=KEPT, num_warps=8, **early,
    )  # fmt: skip
    _choose[(batch,)](
        best, tokens, wanted.temperature, wanted.greedy, wanted.uniform, chosen, count, top_k, tail,
        COUNT=triton.next_power_of_2(count), num_warps=8, **early,
    )  # fmt: skip
