"""Sampling equals the reference processors, and its edge cases."""

from __future__ import annotations

import pytest
import torch

from omni_rt.engine.qwen3_omni.sampler import SamplingParams, SamplingRows, adjust, choose, noise, probabilities, sample
from tools.exact.lines import failures
from tools.exact.sampling import lines


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_distribution_equals_the_reference(seed: int) -> None:
    assert failures(lines(seed)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"repetition_penalty": 0.0},
    ],
)
def test_impossible_parameters_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_ties_with_the_last_of_top_k_stay() -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    kept = probabilities(logits, SamplingRows.of([SamplingParams(top_k=2)], "cpu"))
    assert (kept > 0).tolist() == [[True, True, True, True, False]]


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]])
    greedy, mixed = SamplingParams(temperature=0), SamplingParams(temperature=0, top_k=2, top_p=0.5)
    last = torch.tensor([0.999, 0.999])
    assert choose(logits, SamplingRows.of([greedy, greedy], "cpu"), last).tolist() == [1, 0]
    with_other = SamplingRows.of([mixed, SamplingParams()], "cpu")
    assert choose(logits, with_other, last).tolist() == [1, 2]


def test_the_penalty_makes_a_seen_token_less_likely_whatever_its_sign() -> None:
    rows = SamplingRows.of([SamplingParams(repetition_penalty=2.0)], "cpu")
    seen = torch.tensor([[True, True, False]])
    assert adjust(torch.tensor([[4.0, -4.0, 4.0]]), rows, seen=seen).tolist() == [[2.0, -8.0, 4.0]]


def test_a_draw_inverts_the_cumulated_distribution() -> None:
    distribution = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(5, -1)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.9, 1 - 2**-24])
    assert sample(distribution, uniform).tolist() == [1, 1, 3, 3, 3]


def test_noise_repeats_with_the_sessions_seed() -> None:
    first = torch.Generator().manual_seed(5)
    second = torch.Generator().manual_seed(5)
    assert torch.equal(torch.cat([noise(first, 16), noise(first, 16)]), noise(second, 32))
    assert not torch.equal(noise(first, 16), noise(torch.Generator().manual_seed(5), 16))
