"""From logits to a token: repetition penalty, suppression, temperature, top-k, top-p, then one draw per row.

The order and the treatment of ties are those of the reference implementation (transformers' logits processors): what
equals the k-th largest logit stays, and top-p drops the smallest tokens whose probabilities add up to at most
1 - top_p. Everything runs on the device, without a host synchronisation, and every row has its own parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to draw one token. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `repetition_penalty` 1 are off.

    Raises ValueError for a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 (greedy) or above, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or above, not {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must lie between 0 and 1, not {self.top_p}")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")

    def greedy(self) -> SamplingParams:
        """The same, always taking the likeliest token."""
        return replace(self, temperature=0.0)


THINKER = SamplingParams(temperature=0.6, top_k=20, top_p=0.95)
TALKER = SamplingParams(temperature=0.9, top_k=50, repetition_penalty=1.05)
PREDICTOR = SamplingParams(temperature=1.0, top_k=50, top_p=0.8)


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """The parameters of a batch of B rows, as tensors on the device; made before a step, not within it.

    `temperature` and `penalty` float32 [B, 1] (a greedy row divides by 1), `top_k` int64 [B, 1] (0: off), `tail`
    float32 [B, 1] the probability that top-p may drop (1 - top_p; off: -1), `greedy` bool [B, 1]. The host knows the
    largest top_k, whether any row uses top-p and whether all are greedy, so that nothing is sorted in vain.
    """

    temperature: Tensor
    top_k: Tensor
    tail: Tensor
    penalty: Tensor
    greedy: Tensor
    largest_k: int
    any_top_p: bool
    all_greedy: bool

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device | str) -> SamplingRows:
        """One row per element of `params`."""

        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        return cls(
            temperature=column([p.temperature or 1.0 for p in params]),
            top_k=column([p.top_k for p in params], torch.int64),
            tail=column([1 - p.top_p if p.top_p < 1 else -1.0 for p in params]),
            penalty=column([p.repetition_penalty for p in params]),
            greedy=column([p.temperature == 0 for p in params], torch.bool),
            largest_k=max(p.top_k for p in params),
            any_top_p=any(p.top_p < 1 for p in params),
            all_greedy=all(p.temperature == 0 for p in params),
        )


def adjust(
    logits: Tensor, rows: SamplingRows, *, seen: Tensor | None = None, suppressed: Tensor | None = None
) -> Tensor:
    """Logits [B, V] after the repetition penalty and the suppression, float32 [B, V].

    `seen` bool [B, V] marks the tokens to penalise (a positive logit is divided, a negative one multiplied: Keskar et
    al. 2019, CTRL), `suppressed` bool [V] or [B, V] those that must not come.
    """
    logits = logits.float()
    if seen is not None:
        penalised = torch.where(logits < 0, logits * rows.penalty, logits / rows.penalty)
        logits = torch.where(seen, penalised, logits)
    if suppressed is not None:
        logits = logits.masked_fill(suppressed, -torch.inf)
    return logits


def probabilities(adjusted: Tensor, rows: SamplingRows) -> Tensor:
    """Adjusted logits float32 [B, V] -> the distribution to draw from, float32 [B, V]; greedy rows are one-hot."""
    vocab = adjusted.shape[-1]
    kept = adjusted / rows.temperature
    if rows.largest_k:
        best = kept.topk(min(rows.largest_k, vocab)).values
        smallest = best.gather(-1, (rows.top_k - 1).clamp(0, vocab - 1))
        kept = kept.masked_fill((kept < smallest) & (rows.top_k > 0), -torch.inf)
    if rows.any_top_p:
        # which of equal logits stay is up to the sort, so it must be the reference's, of the same values
        ascending, order = kept.sort()
        dropped = ascending.softmax(-1).cumsum(-1) <= rows.tail
        dropped[:, -1] = False
        kept = kept.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
    likeliest = torch.zeros_like(kept).scatter(-1, adjusted.argmax(-1, keepdim=True), 1.0)
    return torch.where(rows.greedy, likeliest, kept.softmax(-1))


def sample(distribution: Tensor, uniform: Tensor) -> Tensor:
    """One token per row by the inverse of the cumulated distribution [B, V] at `uniform` [B] in [0, 1), int64 [B].

    A token of probability 0 never comes.
    """
    cumulated = distribution.double().cumsum(-1)
    return (cumulated <= uniform.double()[:, None] * cumulated[:, -1:]).sum(-1)


def choose(
    logits: Tensor,
    rows: SamplingRows,
    uniform: Tensor,
    *,
    seen: Tensor | None = None,
    suppressed: Tensor | None = None,
) -> Tensor:
    """Logits [B, V] -> one token per row, int64 [B]; see `adjust` for the masks and `sample` for `uniform` [B]."""
    adjusted = adjust(logits, rows, seen=seen, suppressed=suppressed)
    if rows.all_greedy:
        return adjusted.argmax(-1)
    return sample(probabilities(adjusted, rows), uniform)


def noise(generator: torch.Generator, count: int) -> Tensor:
    """The next `count` uniform numbers in [0, 1) of a session's generator, float32 [count] on its device."""
    return torch.rand(count, generator=generator, device=generator.device)
