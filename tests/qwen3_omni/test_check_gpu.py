"""The check that runs on a GPU, on the CPU with tiny shapes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from omni_rt.engine.qwen3_omni.eight_bit import EVERYTHING, NOTHING, EightBit
from omni_rt.engine.qwen3_omni.model import load
from omni_rt.engine.qwen3_omni.quantised import Quantised
from tools.gpu import correct, costs, spoken
from tools.gpu.lines import Compared, table
from tools.gpu.models import Pair, build, question
from tools.gpu.weights import Weights, settle


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        built = build("tiny", torch.device("cpu"), torch.float32, layers=3)
    yield built
    torch.set_num_threads(threads)


def test_in_float32_every_part_equals_hugging_faces(pair: Pair) -> None:
    prompt = question(pair, frames=130, grid=(4, 2))
    with torch.inference_mode():
        lines = [
            correct.audio(pair, 60),
            *correct.vision(pair, (4, 2)),
            correct.code2wav(pair, 2),
            *correct.thinker(pair, prompt),
            *spoken.talker(pair, prompt, 2),
        ]
    assert [line.what for line in lines if not (line.apart <= 1e-4 and line.holds)] == []
    assert "FAIL" not in table(lines)


def test_a_changed_weight_is_seen(pair: Pair) -> None:
    tower = pair.ours.thinker.model.audio_tower
    shared = tower.proj1.weight
    tower.proj1.weight = nn.Parameter(shared * 1.1, requires_grad=False)
    try:
        with torch.inference_mode():
            line = correct.audio(pair, 60)
    finally:
        tower.proj1.weight = shared
    assert not line.holds
    assert "FAIL" in table([line])


def test_what_cannot_hold() -> None:
    nan = float("nan")
    assert not Compared("nothing compared", 0, 0.0).holds
    assert not Compared("no number", 1, nan, nan, 0.0).holds
    assert not Compared("wrong tokens", 1, 0.0, 0.0, wrong=1).holds
    assert Compared("near float32, not near Hugging Face's", 1, 0.03, 0.01).holds
    assert not Compared("Hugging Face's alone is near float32", 1, 0.03, 0.03, 0.01).holds
    assert Compared("a yardstick", 1, 0.5, bound=None).holds


def test_every_step_is_timed(pair: Pair) -> None:
    clock = costs.Clock(pair.device, 1)
    with torch.inference_mode():
        costs.ours(pair, clock, 20, (4, 2))
        costs.memory(pair, clock)
    names = [row.name for row in clock.rows]
    assert len(set(names)) == len(names)
    assert {"thinker_token", "code2wav_later_frame", "context_token_read_by_host", "weights_all"} <= set(names)
    assert all((row.p50 or row.value or 0) > 0 for row in clock.rows)


def test_weights_are_named_on_the_command_line() -> None:
    wide, all_of_it, some = (Weights.parse(text) for text in ("bfloat16", "fp8", "fp8:experts,head"))
    assert (wide.eight_bit, wide.suffix) == (NOTHING, "")
    assert (all_of_it.eight_bit, all_of_it.suffix) == (EVERYTHING, "_fp8")
    assert (some.eight_bit, some.suffix) == (EightBit(experts=True, head=True), "_fp8_experts_head")
    assert all_of_it.holds(some)
    assert some.holds(wide)
    assert not some.holds(all_of_it)
    for wrong in ("int4", "bfloat16:head", "fp8:", "fp8:heads"):
        with pytest.raises(argparse.ArgumentTypeError):
            Weights.parse(wrong)


def test_a_model_is_put_into_8_bit_where_it_stands() -> None:
    omni = load("random:tiny", device="cpu", dtype=torch.float32)
    before = sum(weight.nbytes for weight in omni.parameters())
    settle(omni, Weights.parse("fp8:head"))
    assert sum(weight.nbytes for weight in omni.parameters()) == before
    for _ in range(2):  # the second time nothing is left to do
        settle(omni, Weights.parse("fp8"))
        experts = omni.thinker.model.language_model.layers[0].mlp.experts  # type: ignore[union-attr]
        assert isinstance(experts.gate_up, Quantised)
    assert sum(weight.nbytes for weight in omni.parameters()) < before
