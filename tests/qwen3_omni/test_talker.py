"""The talker equals Hugging Face's, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.code_predictor import CodePredictor
from omni_rt.engine.qwen3_omni.kv_cache import CacheFull, KVCache, KVPool
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER, SamplingRows
from omni_rt.engine.qwen3_omni.talker import PREFIX_ROWS, FixedRows, Talker, TalkerState
from tools.exact.draw import draw
from tools.exact.lines import failures
from tools.exact.talker import lines, ours


@pytest.mark.parametrize("seed", [1, 2])
def test_frames_equal_the_reference(seed: int) -> None:
    assert failures(lines(seed)) == []


@pytest.fixture(scope="module")
def talker() -> Talker:
    return ours(draw(1))


@pytest.fixture(scope="module")
def fixed(talker: Talker) -> FixedRows:
    return talker.fixed_rows(draw(1).reference.thinker.get_input_embeddings())


def cache(tokens: int = 256) -> KVCache:
    spec = draw(1).spec.talker
    assert spec is not None
    return KVPool(spec.decoder, tokens=tokens, page=8).new()


def begun(talker: Talker, fixed: FixedRows, memory: KVCache) -> TalkerState:
    state = talker.start(memory, 0, 0.0)
    talker.prefill([state], [fixed.prefix("Ethan")])
    return state


def frame(talker: Talker, states: list[TalkerState], text: torch.Tensor) -> torch.Tensor:
    greedy = [p.greedy() for p in (TALKER, PREDICTOR)]
    codes, residuals = (SamplingRows.of([p] * len(states), "cpu") for p in greedy)
    return talker.frames(states, text.expand(len(states), -1), codes, residuals, torch.zeros(len(states), 16))


def test_voices_are_found_in_any_case_and_an_unknown_one_names_those_there_are(fixed: FixedRows) -> None:
    assert torch.equal(fixed.prefix("ETHAN"), fixed.prefix("ethan"))
    assert not torch.equal(fixed.prefix("Ethan"), fixed.prefix("Chelsie"))
    with pytest.raises(EngineError, match="Aiden, Chelsie, Ethan") as refused:
        fixed.prefix("Bob")
    assert refused.value.code == "unknown_voice"


def test_a_frame_holds_sixteen_codes_that_may_be_spoken(talker: Talker, fixed: FixedRows) -> None:
    state = begun(talker, fixed, cache())
    codes = frame(talker, [state], fixed.pad)
    assert codes.shape == (1, 16)
    assert codes.dtype == torch.int64
    assert (codes < 2048).all() or codes[0, 0] == talker.codec.eos
    assert state.frames == 1
    assert state.cache.length == PREFIX_ROWS + 1


def test_the_end_of_speech_is_the_first_code(talker: Talker) -> None:
    assert talker.ended([2150, *range(15)])
    assert not talker.ended([7, 2150, *range(14)])


def test_only_the_end_of_speech_may_be_drawn_of_the_control_codes(talker: Talker, fixed: FixedRows) -> None:
    state = begun(talker, fixed, cache())
    control = talker.codec_head.weight[2048:]
    kept = control.clone()
    try:
        control.mul_(100)  # the likeliest code is always one of them
        first = [int(frame(talker, [state], fixed.pad)[0, 0]) for _ in range(6)]
    finally:
        control.copy_(kept)
    assert all(code < 2048 or code == talker.codec.eos for code in first)


def test_a_repeated_code_is_penalised_until_its_frame_is_forgotten(talker: Talker, fixed: FixedRows) -> None:
    state = begun(talker, fixed, cache())
    first = [int(frame(talker, [state], fixed.pad)[0, 0]) for _ in range(4)]
    seen = (state.first_frame < 4).nonzero().flatten().tolist()
    assert seen == sorted(set(first))
    state.keep(2)
    assert (state.first_frame < 4).nonzero().flatten().tolist() == sorted(set(first[:2]))
    with pytest.raises(ValueError, match="cannot keep 3 of 2"):
        state.keep(3)


def test_a_code_that_comes_again_was_first_drawn_in_its_first_frame(talker: Talker, fixed: FixedRows) -> None:
    state = begun(talker, fixed, cache())
    weight = talker.codec_head.weight
    kept = weight.clone()
    try:
        weight.zero_()  # code 0 every time
        codes = [int(frame(talker, [state], fixed.pad)[0, 0]) for _ in range(3)]
    finally:
        weight.copy_(kept)
    assert codes == [0, 0, 0]
    assert int(state.first_frame[0]) == 0
    state.keep(1)
    assert int(state.first_frame[0]) == 0
    state.keep(0)
    assert int(state.first_frame[0]) > 1 << 30


def test_order_is_kept(talker: Talker, fixed: FixedRows) -> None:
    state = talker.start(cache(), 0, 0.0)
    with pytest.raises(ValueError, match="behind the prefix"):
        frame(talker, [state], fixed.pad)
    talker.prefill([state], [fixed.prefix("Aiden")])
    with pytest.raises(ValueError, match="behind the user's rows"):
        talker.prefill([state], [fixed.prefix("Aiden")])


def test_a_full_cache_changes_nothing(talker: Talker, fixed: FixedRows) -> None:
    state = begun(talker, fixed, cache(tokens=PREFIX_ROWS + 1))
    while state.cache.length < state.cache.pool.tokens:
        frame(talker, [state], fixed.pad)
    frames = state.frames
    with pytest.raises(CacheFull):
        frame(talker, [state], fixed.pad)
    assert state.frames == frames
    assert state.cache.length == PREFIX_ROWS + frames


def test_widths_that_do_not_fit_are_refused() -> None:
    spec = draw(1).spec.talker
    assert spec is not None
    with pytest.raises(ValueError, match="wide"):
        CodePredictor(replace(spec, predictor=replace(spec.predictor, hidden=8)))


def test_a_model_that_only_writes_has_no_talker() -> None:
    with pytest.raises(ValueError, match="no talker"):
        Talker(replace(draw(1).spec, talker=None))
