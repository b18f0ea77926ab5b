"""The vision encoder: equal to Hugging Face's, streamed or at once; its tables, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rt.engine.qwen3_omni.vision_encoder import GridTables, VisionEncoder, make_grid
from tools.exact import vision
from tools.exact.draw import draw
from tools.exact.lines import failures

CPU = torch.device("cpu")
SPEC = replace(draw(0).spec.vision, depth=3, hidden=24, heads=2, mlp=16, grid_positions=25, deepstack=(0, 2), output=8)


def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(SPEC).eval()


def some_patches(*grids: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(sum(h * w for h, w in grids), 3 * 2 * 16 * 16, generator=generator) * 2 - 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_lines_of_the_table_hold(seed: int) -> None:
    assert failures(vision.lines(seed)) == []


def test_a_token_stands_for_a_square_and_each_deepstack_layer_has_as_many() -> None:
    tokens, deepstack = encoder().encode(some_patches((4, 6), (2, 2)), [(4, 6), (2, 2)])
    assert tokens.shape == (7, 8)
    assert deepstack.shape == (2, 7, 8)


def test_without_deepstack_there_are_no_layers() -> None:
    tokens, deepstack = VisionEncoder(replace(SPEC, deepstack=())).encode(some_patches((2, 2)), [(2, 2)])
    assert tokens.shape == (1, 8)
    assert deepstack.shape == (0, 1, 8)


def test_pairs_do_not_see_each_other_and_patches_of_a_pair_do() -> None:
    model, grids = encoder(), [(4, 4), (4, 4), (2, 4)]
    before = some_patches(*grids)
    after = before.clone()
    after[16:32] *= -1
    (old, _), (new, _) = model.encode(before, grids), model.encode(after, grids)
    changed = (old != new).any(dim=1)
    assert changed.tolist() == [False] * 4 + [True] * 4 + [False] * 2
    after[17:32] = before[17:32]
    (_, _), (new, _) = model.encode(before, grids), model.encode(after, grids)
    assert (old != new).any(dim=1)[4:8].all()


def test_the_same_picture_elsewhere_on_the_grid_is_another() -> None:
    tall, wide = encoder().encode(some_patches((4, 2)), [(4, 2)]), encoder().encode(some_patches((2, 4)), [(2, 4)])
    assert (tall.tokens[0] != wide.tokens[0]).any()


def test_corners_of_the_grid_lie_on_corners_of_the_learned_positions() -> None:
    grid = make_grid(SPEC, 4, 6, CPU)
    table = torch.arange(25.0)
    place = (table[grid.corners] * grid.shares).sum(1)
    assert place[0] == 0
    # the last column of the first row of patches: third square, first row, second column
    assert place[2 * 4 + 1] == 4
    assert place[-1] == 24
    assert torch.allclose(grid.shares.sum(1), torch.ones(24))


@pytest.mark.parametrize(
    ("patches", "grids"),
    [(some_patches((2, 2)), []), (some_patches((2, 2)), [(2, 4)]), (some_patches((2, 2)), [(4, 1)])],
)
def test_grids_that_do_not_fit_are_refused(patches: torch.Tensor, grids: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="patches"):
        encoder().encode(patches, grids)


def test_tables_are_computed_once_per_size_and_the_least_used_goes() -> None:
    tables = GridTables(SPEC, limit=2)
    first, second = tables.grid(2, 2, CPU), tables.grid(2, 4, CPU)
    assert tables.grid(2, 2, CPU) is first
    tables.grid(4, 4, CPU)
    assert len(tables) == 2
    assert tables.grid(2, 2, CPU) is first
    assert tables.grid(2, 4, CPU) is not second


def test_a_pass_reads_no_value_on_the_host() -> None:
    """On the meta device there are no values: whatever needs one fails."""
    grids = [(4, 4), (4, 4), (2, 4)]
    model = encoder().to("meta")
    tokens, deepstack = model.encode(some_patches(*grids).to("meta"), grids)
    assert tokens.shape == (10, 8)
    assert deepstack.shape == (2, 10, 8)


def test_bfloat16_weights_give_bfloat16_tokens_close_to_exact_ones() -> None:
    model, grids = encoder(), [(4, 4), (4, 4)]
    exact = model.encode(some_patches(*grids), grids)
    rough = model.to(torch.bfloat16).encode(some_patches(*grids), grids)
    assert rough.tokens.dtype is rough.deepstack.dtype is torch.bfloat16
    for a, b in zip(exact, rough, strict=True):
        assert ((a - b.float()).norm() / a.norm()) < 0.02


def test_nothing_is_trained() -> None:
    assert not any(parameter.requires_grad for parameter in encoder().parameters())
