"""The decoder of thinker and talker equals Hugging Face's, and a pass that fails leaves no trace."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as theirs

from omni_rt.engine.qwen3_omni.attention import planned
from omni_rt.engine.qwen3_omni.backends.sdpa import reach
from omni_rt.engine.qwen3_omni.decoder import Decoder, Span
from omni_rt.engine.qwen3_omni.experts import Experts, MixtureOfExperts, Router, _grouped, _one_by_one
from omni_rt.engine.qwen3_omni.kv_cache import CacheFull, KVPool
from omni_rt.engine.qwen3_omni.layers import Rotary, attention
from omni_rt.engine.qwen3_omni.spec import DecoderSpec, RopeSpec
from tools.exact.decoder import lines
from tools.exact.lines import failures

SPEC = DecoderSpec(
    hidden=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    vocab=10,
    mlp=8,
    rope=RopeSpec(1e4, (2, 1, 1)),
    eps=1e-6,
    context=1000,
    experts=5,
    top_k=2,
    shared=8,
)


def lively(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.normal_(0, 0.5, generator=generator)
    return module


def small() -> tuple[Decoder, KVPool]:
    decoder = Decoder(SPEC)
    lively(decoder)
    return decoder, KVPool(SPEC, tokens=64, page=4)


def rows(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 16, generator=generator), torch.arange(n, dtype=torch.float32).expand(3, n)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_hugging_face(seed: int) -> None:
    assert not failures(lines(seed))


def test_a_pass_without_room_changes_no_cache() -> None:
    decoder, pool = small()
    first, second = pool.new(), pool.new()
    decoder(*rows(6), [Span(first, 6)])
    free, pages = pool.free_tokens, first.pages
    with pytest.raises(CacheFull):
        decoder(*rows(90), [Span(first, 30), Span(second, 60)])
    assert (first.length, first.pages, second.length, pool.free_tokens) == (6, pages, 0, free)


def test_a_pass_that_breaks_in_the_middle_changes_no_cache() -> None:
    decoder, pool = small()
    cache, alone = pool.new(), pool.new()
    x, positions = rows(9)
    whole = decoder(x, positions, [Span(alone, 9)]).hidden
    decoder(x[:5], positions[:, :5], [Span(cache, 5)])
    twin = cache.fork()
    free = pool.free_tokens

    def fault(*_: object) -> None:
        raise RuntimeError("fault")

    hook = decoder.layers[1].register_forward_pre_hook(fault)
    with pytest.raises(RuntimeError, match="fault"):
        decoder(-x[5:], positions[:, 5:], [Span(cache, 4)])
    hook.remove()
    assert cache.length == 5
    # the torn page was copied for the one who was about to write
    assert pool.free_tokens == free - pool.page
    for each in (cache, twin):
        again = decoder(x[5:], positions[:, 5:], [Span(each, 4)]).hidden
        torch.testing.assert_close(again, whole[5:], rtol=0, atol=1e-5)


def test_spans_that_do_not_fit_are_refused() -> None:
    decoder, pool = small()
    cache = pool.new()
    with pytest.raises(ValueError, match="4 rows, 4 positions and spans of 3 rows"):
        decoder(*rows(4), [Span(cache, 3)])
    with pytest.raises(ValueError, match="only once"):
        decoder(*rows(4), [Span(cache, 2), Span(cache, 2)])
    with pytest.raises(ValueError, match="one pool"):
        decoder(*rows(4), [Span(cache, 2), Span(KVPool(SPEC, tokens=8).new(), 2)])
    with pytest.raises(ValueError, match="at least one"):
        decoder(*rows(0), [Span(cache, 0)])
    with pytest.raises(ValueError, match="at least one"):
        decoder(*rows(0), [])


def test_masks_are_made_only_for_several_rows_after_others() -> None:
    _, pool = small()
    fresh, grown, single = pool.new(), pool.new(), pool.new()
    for cache in (grown, single):
        with planned([Span(cache, 5)]):
            pass
    with planned([Span(fresh, 3), Span(grown, 2), Span(single, 1)]) as plan:
        masks = [each.mask for each in reach(plan)]
    assert masks[0] is None
    assert masks[2] is None
    assert masks[1] is not None
    assert (masks[1] == 0).tolist() == [[True] * 6 + [False], [True] * 7]


def test_experts_as_grouped_products_equal_one_by_one() -> None:
    experts = lively(Experts(SPEC))
    assert isinstance(experts, Experts)
    picked, _ = rows(12)
    ends = torch.tensor([3, 3, 7, 12, 12], dtype=torch.int32)  # two experts without a row
    given = picked, ends, experts.gate_up_proj, experts.down_proj
    torch.testing.assert_close(_grouped(*given), _one_by_one(*given))


@pytest.mark.parametrize("normalise", [True, False])
def test_router(normalise: bool) -> None:
    config = SimpleNamespace(num_experts_per_tok=2, num_experts=5, norm_topk_prob=normalise, hidden_size=16)
    reference = lively(theirs.Qwen3OmniMoeThinkerTextTopKRouter(config).requires_grad_(False))
    router = Router(replace(SPEC, normalise_top_k=normalise))
    router.load_state_dict(reference.state_dict())
    x, _ = rows(30)
    _, weights, chosen = reference(x)
    got, experts = router(x)
    assert torch.equal(experts, chosen)
    torch.testing.assert_close(got, weights, rtol=0, atol=1e-7)


def test_a_mixture_takes_any_leading_dimensions() -> None:
    mixture = lively(MixtureOfExperts(SPEC))
    x, _ = rows(12)
    torch.testing.assert_close(mixture(x.view(3, 4, 16)).view(12, 16), mixture(x))


def test_rotary_in_one_dimension() -> None:
    config = SimpleNamespace(
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        head_dim=8,
        hidden_size=16,
        num_attention_heads=2,
    )
    positions = torch.tensor([[0, 3, 17]])
    cos, sin = theirs.Qwen3OmniMoeRotaryEmbedding(config)(torch.zeros(1), positions)
    rotation = Rotary(8, RopeSpec(1e4))(positions[0], torch.float32)
    assert torch.equal(rotation.cos, cos[0])
    assert torch.equal(rotation.sin, sin[0])


def test_attention_of_groups_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, heads, 8, generator=generator) for heads in (6, 2, 2))
    scores = torch.einsum("bnhd,bthd->bhnt", q, k.repeat_interleave(3, 2)) / 8**0.5
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    expected = torch.einsum("bhnt,bthd->bnhd", scores.softmax(-1), v.repeat_interleave(3, 2))
    torch.testing.assert_close(attention(q, k, v, causal=True), expected)
    mask = torch.full((5, 5), -torch.inf).triu(1)
    torch.testing.assert_close(attention(q, k, v, mask=mask), expected)
