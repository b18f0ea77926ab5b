"""Each kernel against the plain modules, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from omni_rt.engine.qwen3_omni.attention import Span, planned, write
from omni_rt.engine.qwen3_omni.backends.sdpa import Sdpa
from omni_rt.engine.qwen3_omni.code2wav import Code2Wav
from omni_rt.engine.qwen3_omni.code2wav_layers import Snake
from omni_rt.engine.qwen3_omni.code_predictor import CodePredictorModel
from omni_rt.engine.qwen3_omni.decoder import DecoderLayer
from omni_rt.engine.qwen3_omni.experts import MixtureOfExperts
from omni_rt.engine.qwen3_omni.fast_code2wav import FastCode2Wav, SoundState
from omni_rt.engine.qwen3_omni.fast_window import FastWindow
from omni_rt.engine.qwen3_omni.kernels.choose import Wanted
from omni_rt.engine.qwen3_omni.kernels.choose import choose as choose_large
from omni_rt.engine.qwen3_omni.kernels.draw import draw
from omni_rt.engine.qwen3_omni.kernels.experts_many import mix_many
from omni_rt.engine.qwen3_omni.kernels.experts_one import mix_one
from omni_rt.engine.qwen3_omni.kernels.few_keys import attend_few
from omni_rt.engine.qwen3_omni.kernels.heads import angles, prepare
from omni_rt.engine.qwen3_omni.kernels.norm import norm
from omni_rt.engine.qwen3_omni.kernels.paged_attention import attend as attend_paged
from omni_rt.engine.qwen3_omni.kernels.snake import snake
from omni_rt.engine.qwen3_omni.kernels.vector import product
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.layers import GatedMLP, RMSNorm, Rotary, Rotation
from omni_rt.engine.qwen3_omni.passes import Reading
from omni_rt.engine.qwen3_omni.random_weights import RandomSource
from omni_rt.engine.qwen3_omni.sampler import SamplingParams, SamplingRows, choose
from omni_rt.engine.qwen3_omni.spec import DecoderSpec, OmniSpec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def spec() -> OmniSpec:
    source = RandomSource.parse("random:tiny")
    assert source is not None
    return source.spec()


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(scale).to(DEVICE)


def filled(module: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = 1.0 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator).mul(scale)
    return module.to(DEVICE)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("inner", "outer"), [(64, 96), (48, 40), (100, 7)])
def test_a_row_times_a_matrix(inner: int, outer: int) -> None:
    x, weight, scale = drawn(1, inner), drawn(outer, inner, seed=2), drawn(inner, seed=3)
    out = torch.empty(1, outer, device=DEVICE)
    close(product(x, weight, out=out), F.linear(x, weight))
    plain = RMSNorm(inner, 1e-6).to(DEVICE)
    plain.weight.data = scale
    close(product(x, weight, norm=scale, eps=1e-6, out=out), F.linear(plain(x), weight))
    added = drawn(1, outer, seed=4)
    expected = F.linear(x, weight) + added
    close(product(x, weight, residual=added, out=added), expected)


def test_a_gated_pair() -> None:
    x, mlp = drawn(1, 48), filled(GatedMLP(48, 56))
    assert isinstance(mlp, GatedMLP)
    fused = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
    out = torch.empty(1, 56, device=DEVICE)
    product(x, fused, pair=True, out=out)
    close(F.linear(out, mlp.down_proj.weight), mlp(x))


@pytest.mark.parametrize("added", [True, False])
def test_the_norm_of_rows(added: bool) -> None:
    x, more, plain = drawn(5, 48), drawn(5, 48, seed=1), RMSNorm(48, 1e-6).to(DEVICE)
    plain.weight.data = drawn(48, seed=2)
    total = x + more if added else x.clone()
    rounded, wide = norm(x, plain.weight, 1e-6, added=more if added else None, wide=True)
    close(x, total)
    close(rounded, plain(total))
    close(wide, plain.wide(total))


def routed(shared: int) -> tuple[MixtureOfExperts, DecoderSpec]:
    base = spec().text
    of = replace(base, hidden=48, experts=8, top_k=3, mlp=24, shared=shared)
    mixture = filled(MixtureOfExperts(of))
    assert isinstance(mixture, MixtureOfExperts)
    return mixture, of


@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize("rows", [1, 2, 7, 20])
def test_experts(shared: int, rows: int) -> None:
    mixture, of = routed(shared)
    x, plain = drawn(rows, 48), RMSNorm(48, 1e-6).to(DEVICE)
    plain.weight.data = drawn(48, seed=2)
    expected = x + mixture(plain.wide(x))
    weights = mixture.gate.weight, mixture.experts.gate_up_proj, mixture.experts.down_proj
    several = x.clone()
    rounded, wide = norm(several, plain.weight, 1e-6, wide=True)
    both = None
    if mixture.shared_expert is not None and mixture.shared_expert_gate is not None:
        both = mixture.shared_expert(rounded), mixture.shared_expert_gate(rounded)
    scores = F.linear(wide, weights[0])
    mix_many(several, rounded, scores, *weights[1:], top=3, normalise=of.normalise_top_k, shared=both)
    close(several, expected)
    if rows == 1:
        own = None
        if mixture.shared_expert is not None and mixture.shared_expert_gate is not None:
            mlp = mixture.shared_expert
            gates = mixture.shared_expert_gate.weight, mlp.gate_proj.weight, mlp.up_proj.weight
            own = (*gates, mlp.down_proj.weight)
        counter = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        mix_one(x, plain.weight, 1e-6, *weights, counter, top=3, normalise=of.normalise_top_k, shared=own)
        close(x, expected)
        assert not counter.any()


@pytest.mark.parametrize("block", [1, 4])
def test_attention_over_pages(block: int) -> None:
    of = spec().text
    pool = KVPool(of, tokens=256, page=16, device=DEVICE)
    layer = filled(DecoderLayer(of))
    assert isinstance(layer, DecoderLayer)
    caches = [pool.new() for _ in range(3)]
    before = [0, 37, 16]
    counts = [1, 1, 1] if block == 1 else [5, 9, 4]
    pool.keys.copy_(drawn(*pool.keys.shape))
    pool.values.copy_(drawn(*pool.values.shape, seed=1))
    for cache, length in zip(caches, before, strict=True):
        cache.reserve(length)
        cache.commit(length)
    n = sum(counts)
    x = drawn(n, of.hidden, seed=4)
    positions = torch.arange(3 * n, dtype=torch.float32, device=DEVICE).reshape(3, n) / 3
    rotary = Rotary(of.head_dim, of.rope)
    rotation = rotary(positions, torch.float32)
    twin = KVPool(of, tokens=256, page=16, device=DEVICE)
    twin.keys.copy_(pool.keys)
    twin.values.copy_(pool.values)
    with planned([Span(cache, count) for cache, count in zip(caches, counts, strict=True)]) as plan:
        q, k, v = layer.self_attn.project(x, rotation)
        expected = Sdpa().eager(plan)(q, *write(plan, 0, k, v))
    attention = layer.self_attn
    mixed = torch.cat([F.linear(x, p.weight) for p in (attention.q_proj, attention.k_proj, attention.v_proj)], dim=1)
    turn = angles(positions, rotary._frequencies, rotary._axis)
    slots = plan.slots.to(torch.int32)
    queries = prepare(
        mixed, attention.q_norm.weight, attention.k_norm.weight, of.eps, turn, slots, twin.keys[0], twin.values[0]
    )
    close(queries, q)
    close(twin.keys[0], pool.keys[0])
    close(twin.values[0], pool.values[0])
    first, taken, begins, starts, lengths, pages = [], [], [], [], [], []
    row = 0
    for cache, length, count in zip(caches, before, counts, strict=True):
        for start in range(0, count, block):
            first.append(row + start)
            taken.append(min(block, count - start))
            begins.append(length + start + 1)
            starts.append(len(pages))
        pages += cache.pages
        lengths += range(length + 1, length + count + 1)
        row += count
    # one block and one row that are none
    numbers = [torch.tensor(v, dtype=torch.int32, device=DEVICE) for v in (
        [*lengths, 0], [*first, 0], [*taken, 0], [*begins, 0], [*starts, 0], pages)]  # fmt: skip
    queries = torch.cat((queries, queries[:1]))
    out = attend_paged(queries, twin.keys[0], twin.values[0], Reading(*numbers), page=16, block=block, splits=4)
    close(out[:-1], expected)
    assert not out[-1].any()


def test_attention_over_few_keys() -> None:
    of = spec().talker
    assert of is not None
    model = filled(CodePredictorModel(of))
    assert isinstance(model, CodePredictorModel)
    layer, predictor = model.layers[0], of.predictor
    assert isinstance(layer, DecoderLayer)
    attention = layer.self_attn
    slots = model.slots(drawn(3, predictor.hidden))
    rows = drawn(3, 5, predictor.hidden)
    turn = angles(
        torch.arange(of.code_groups, dtype=torch.float32, device=DEVICE)[None],
        model.rotary._frequencies,
        model.rotary._axis,
    )
    shape = 3, predictor.kv_heads, of.code_groups, predictor.head_dim
    keys, values = (torch.full(shape, torch.nan, device=DEVICE) for _ in range(2))
    for position in range(5):
        x = rows[:, position : position + 1]
        here = slice(position, position + 1)
        rotation = Rotation(slots.rotation.cos[here], slots.rotation.sin[here])
        q, k, v = attention.project(x, rotation)
        expected = slots.attend(0, position, q, k, v).flatten(1)
        mixed = torch.cat(
            [F.linear(x[:, 0], p.weight) for p in (attention.q_proj, attention.k_proj, attention.v_proj)], dim=1
        )
        norms = attention.q_norm.weight, attention.k_norm.weight
        close(attend_few(mixed, *norms, predictor.eps, turn, keys, values, position), expected)


PARAMS = [
    SamplingParams(temperature=0.9, top_k=50, repetition_penalty=1.05),
    SamplingParams(temperature=1.0, top_k=50, top_p=0.8),
    SamplingParams(temperature=1.3),
    SamplingParams(temperature=0.7, top_p=0.5),
    SamplingParams(temperature=0.0, top_k=5),
    SamplingParams(temperature=0.5, top_k=1000, top_p=0.0, repetition_penalty=2.0),
]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("top_k", "top_p"), [(20, 0.95), (1, 1.0), (50, 0.3)])
def test_choosing_from_a_large_vocabulary(
    coarse: bool, top_k: int, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some parts have nothing that may come, some too many that are equal to be kept."""
    monkeypatch.setattr(Tensor, "sort", lambda values: torch.sort(values, stable=True))
    rng = np.random.default_rng(5)
    vocab, batch = 3 * 4096 - 100, 4
    banned = torch.from_numpy(rng.random((3, vocab)) < 0.3).to(DEVICE)
    banned[1, 4096:8192] = True
    params = [SamplingParams(temperature, top_k, top_p) for temperature in (0.6, 1.0, 0.0, 1.4)]
    for number in range(6):
        logits = drawn(batch, vocab, seed=number, scale=3.0)
        if coarse:
            logits = logits.mul(16).round() / 16
            logits[:, 9000:9300] = -1.0
        sets = torch.from_numpy(rng.integers(0, 3, batch)).to(DEVICE)
        uniform = torch.from_numpy(rng.random(batch).astype(np.float32)).to(DEVICE)
        rows = SamplingRows.of(params, DEVICE)
        expected = choose(logits, rows, uniform, suppressed=banned[sets])
        wanted = Wanted(rows.temperature[:, 0], rows.greedy[:, 0].int(), uniform, sets.int())
        chosen = torch.zeros(batch, dtype=torch.int64, device=DEVICE)
        tail = 1 - top_p if top_p < 1 else -1.0
        choose_large(logits, wanted, banned, chosen, top_k=top_k, tail=tail)
        assert chosen.tolist() == expected.tolist()


@pytest.mark.parametrize("coarse", [False, True])
def test_drawing(coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which of equal values top-p drops is up to the sort; the kernel's choice is that of a stable one.
    monkeypatch.setattr(Tensor, "sort", lambda values: torch.sort(values, stable=True))
    rng = np.random.default_rng(3)
    vocab, hidden, batch = 300, 24, len(PARAMS)
    table = drawn(vocab, hidden, seed=9)
    rows = SamplingRows.of(PARAMS, DEVICE)
    packed = rows.temperature, rows.top_k, rows.tail, rows.penalty, rows.greedy
    suppressed = torch.from_numpy(rng.random(vocab) < 0.2).to(DEVICE)
    for number in range(40):
        logits = drawn(batch, vocab, seed=number, scale=3.0)
        if coarse:  # many are equal, as in bfloat16
            logits = logits.mul(4).round() / 4
        seen = torch.from_numpy(rng.random((batch, vocab)) < 0.1).to(DEVICE)
        uniform = torch.from_numpy(rng.random((batch, 4)).astype(np.float32)).to(DEVICE)
        expected = choose(logits, rows, uniform[:, 2], seen=seen, suppressed=suppressed)
        codes = torch.zeros(batch, 4, dtype=torch.int64, device=DEVICE)
        embedded, total = torch.empty(batch, hidden, device=DEVICE), torch.ones(batch, hidden, device=DEVICE)
        draw(
            logits, packed, uniform, 2, codes, table, embedded, total, seen=seen.to(torch.int8),
            suppressed=suppressed.to(torch.int8),
        )  # fmt: skip
        assert codes[:, 2].tolist() == expected.tolist()
        close(embedded, table[expected])
        close(total, table[expected] + 1)


def test_a_window_that_moves_on() -> None:
    of = spec().code2wav
    assert of is not None
    decoder = filled(Code2Wav(replace(of, window=6)))
    assert isinstance(decoder, Code2Wav)
    window = FastWindow(copy.deepcopy(decoder))
    state, twin = decoder.state(3), decoder.state(5)
    slots = torch.tensor([4, 0, 2], device=DEVICE)
    for number in range(9):
        rows = drawn(3, 1, of.hidden, seed=number)
        expected = decoder.pre_transformer(rows, state.frames, state.keys, state.values)[:, 0]
        frames = twin.frames.index_select(0, slots)
        close(window(rows[:, 0], twin.keys, twin.values, slots, frames), expected)
        close(twin.keys[slots], state.keys)
        close(twin.values[slots], state.values)
        state.frames += 1
        twin.frames[slots] += 1


def test_sound_of_replies_of_different_ages() -> None:
    """Several in a batch, in slots of any order; one begins anew on the way; each ends as the plain one does."""
    of = spec().code2wav
    assert of is not None
    decoder = filled(Code2Wav(replace(of, window=6, upsampling_ratios=(2, 2), upsample_rates=(4, 3))))
    assert isinstance(decoder, Code2Wav)
    for module in decoder.modules():
        if isinstance(module, Snake):
            module.alpha.data, module.beta.data = (drawn(len(module.alpha), seed=n) / 3 for n in (1, 2))
    fast, state = FastCode2Wav(copy.deepcopy(decoder)), SoundState.of(decoder.state(5))
    slots, plain = torch.tensor([4, 0, 2], device=DEVICE), [decoder.state() for _ in range(3)]
    generator = torch.Generator().manual_seed(3)
    for number in range(7):
        codes = torch.randint(0, of.codebook, (3, of.quantizers), generator=generator).to(DEVICE)
        if number == 4:
            plain[1].reset()
            state.reset(slots[1:2])
        count = 3 if number != 2 else 2  # one of them pauses
        expected = torch.cat([decoder.push(codes[n : n + 1, :, None], plain[n]) for n in range(count)])
        close(fast(codes[:count], state, slots[:count]), expected)
    for number in range(3):
        close(decoder.flush(state.row(slots[number : number + 1])), decoder.flush(plain[number]))


def test_the_activation_of_the_sound() -> None:
    x, plain = drawn(2, 6, 40), Snake(6)
    plain.alpha.data, plain.beta.data = torch.randn(6), torch.randn(6)
    close(snake(x, plain.alpha.to(DEVICE), plain.beta.to(DEVICE)).cpu(), plain(x.cpu()))
