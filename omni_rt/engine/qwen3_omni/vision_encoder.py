"""The vision encoder: patches of a picture or of a pair of frames in, tokens of the thinker's width out.

Every temporal index (a picture, or a pair of frames) attends to itself alone and knows no time, so that pairs may be
encoded one by one or together with equal results. Parameter names are those of the released checkpoint.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from omni_rt.engine.qwen3_omni.layers import LayerNorm
from omni_rt.engine.qwen3_omni.spec import VisionSpec

_EPS = 1e-6
_THETA = 10_000.0


class VisionFeatures(NamedTuple):
    """`tokens` [m, output] for the thinker's visual pads; `deepstack` [D, m, output] to add after its layers 0..D-1."""

    tokens: Tensor
    deepstack: Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """What depends only on a grid of `rows` x `columns` patches, in the order of the patches (n = rows * columns).

    `corners` int64 [n, 4] and `shares` float32 [n, 4] resample the learned position table; `cos` and `sin` float32
    [n, 1, head_dim] rotate queries and keys.
    """

    rows: int
    columns: int
    corners: Tensor
    shares: Tensor
    cos: Tensor
    sin: Tensor


class GridTables:
    """The grids met lately, at most `limit` of them; whichever was not used for longest makes room."""

    def __init__(self, spec: VisionSpec, limit: int = 16) -> None:
        self._spec = spec
        self._limit = limit
        self._grids: OrderedDict[tuple[int, int, torch.device], Grid] = OrderedDict()

    def __len__(self) -> int:
        return len(self._grids)

    def grid(self, rows: int, columns: int, device: torch.device) -> Grid:
        """Tables of a grid of `rows` x `columns` patches, computed at its first use. Raises ValueError."""
        key = (rows, columns, device)
        found = self._grids.pop(key, None)
        if found is None:
            found = make_grid(self._spec, rows, columns, device)
            while len(self._grids) >= self._limit:
                self._grids.popitem(last=False)
        self._grids[key] = found
        return found


def make_grid(spec: VisionSpec, rows: int, columns: int, device: torch.device) -> Grid:
    """The tables of one grid. Raises ValueError if a side is no positive multiple of the merge size.

    The learned positions form a square whose corners lie on the corners of the picture (`align_corners`); in between
    they are bilinear. The rotation has a quarter of head_dim frequencies for the row and as many for the column.
    """
    if min(rows, columns) < 1 or rows % spec.merge or columns % spec.merge:
        raise ValueError(f"a grid of {rows} x {columns} patches does not divide into squares of {spec.merge}")
    row, column = _places(rows, columns, spec.merge)
    side = round(spec.grid_positions**0.5)
    down, across = _neighbours(row, rows, side), _neighbours(column, columns, side)
    corners = (down[0][:, :, None] * side + across[0][:, None, :]).flatten(1)
    shares = (down[1][:, :, None] * across[1][:, None, :]).flatten(1)
    half = spec.hidden // spec.heads // 2
    frequencies = 1.0 / _THETA ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    angles = torch.cat((row[:, None] * frequencies, column[:, None] * frequencies), dim=-1).repeat(1, 2)[:, None]
    return Grid(
        rows,
        columns,
        corners.to(device),
        shares.to(device),
        angles.cos().to(device),
        angles.sin().to(device),
    )


def _places(rows: int, columns: int, merge: int) -> tuple[Tensor, Tensor]:
    """Row and column of every patch in the order of the patches: square of merge x merge by square."""
    place = torch.arange(rows * columns).view(rows // merge, merge, columns // merge, merge).transpose(1, 2).flatten()
    return place // columns, place % columns


def _neighbours(index: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
    """The two of `side` learned places next to each index of an axis of `size`, and their shares; both [n, 2]."""
    place = index.to(torch.float32) * (side - 1) / max(size - 1, 1)
    below = place.floor()
    above_share = place - below
    taps = torch.stack((below, below + 1), dim=-1).long().clamp_(max=side - 1)
    return taps, torch.stack((1 - above_share, above_share), dim=-1)


class PatchEmbed(nn.Module):
    """A linear map of whole patches; the weight keeps the shape of the convolution it was trained as."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        kernel = (spec.temporal_patch, spec.patch, spec.patch)
        self.proj = nn.Conv3d(spec.channels, spec.hidden, kernel_size=kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        weight = self.proj.weight
        return functional.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.qkv = nn.Linear(spec.hidden, 3 * spec.hidden)
        self.proj = nn.Linear(spec.hidden, spec.hidden)

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """`rows` [n, hidden]: for each of `runs` (pairs, patches a pair) that many pairs, one attention each."""
        query, key, value = self.qkv(rows).view(rows.shape[0], 3, self.heads, -1).unbind(1)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        seen, start = [], 0
        for pairs, size in runs:
            here = slice(start, start + pairs * size)
            q, k, v = (each[here].unflatten(0, (pairs, size)).transpose(1, 2) for each in (query, key, value))
            seen.append(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(pairs * size, -1))
            start += pairs * size
        together: Tensor = self.proj(seen[0] if len(seen) == 1 else torch.cat(seen))
        return together


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    exact = rows.float()
    first, second = exact.chunk(2, dim=-1)
    return (exact * cos + torch.cat((-second, first), dim=-1) * sin).to(rows.dtype)


class Mlp(nn.Module):
    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(spec.hidden, spec.mlp)
        self.linear_fc2 = nn.Linear(spec.mlp, spec.hidden)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.linear_fc2(functional.gelu(self.linear_fc1(rows), approximate="tanh"))
        return out


class Block(nn.Module):
    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.norm1 = LayerNorm(spec.hidden, eps=_EPS)
        self.norm2 = LayerNorm(spec.hidden, eps=_EPS)
        self.attn = Attention(spec)
        self.mlp = Mlp(spec)

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        rows = rows + self.attn(self.norm1(rows), cos, sin, runs)
        out: Tensor = rows + self.mlp(self.norm2(rows))
        return out


class Merger(nn.Module):
    """Joins the patches of a square to one token. The norm is over a patch, or over the whole square (`whole`)."""

    def __init__(self, spec: VisionSpec, *, whole: bool) -> None:
        super().__init__()
        self.square = spec.merge**2
        self.whole = whole
        width = spec.hidden * self.square
        self.ln_q = LayerNorm(width if whole else spec.hidden, eps=_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, spec.output))

    def forward(self, rows: Tensor) -> Tensor:
        """[n, hidden] -> [n / merge², output]."""
        squares = rows.view(rows.shape[0] // self.square, -1)
        normed = self.ln_q(squares) if self.whole else self.ln_q(rows).view_as(squares)
        out: Tensor = self.mlp(normed)
        return out


class VisionEncoder(nn.Module):
    """The whole encoder; `tables` remembers grids, which depend on no weight."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.patch_embed = PatchEmbed(spec)
        self.pos_embed = nn.Embedding(spec.grid_positions, spec.hidden)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.merger = Merger(spec, whole=False)
        self.merger_list = nn.ModuleList(Merger(spec, whole=True) for _ in spec.deepstack)
        self.tables = GridTables(spec)
        self.requires_grad_(False)

    def encode(self, patches: Tensor, grids: Sequence[tuple[int, int]]) -> VisionFeatures:
        """`patches` [n, channels * temporal_patch * patch²] of one temporal index after another; `grids` the (rows,
        columns) of patches of each. Neighbours of one size pass the attention as one batch. Raises ValueError."""
        needed = sum(rows * columns for rows, columns in grids)
        if not grids or needed != patches.shape[0]:
            raise ValueError(f"grids {tuple(grids)} need {needed} patches, not {patches.shape[0]}")
        device = self.pos_embed.weight.device
        runs = [(self.tables.grid(*size, device), len(list(same))) for size, same in groupby(grids)]
        return self.forward(patches.to(device), runs)

    def forward(self, patches: Tensor, runs: Sequence[tuple[Grid, int]]) -> VisionFeatures:
        """`runs`: how many temporal indices of which grid, in the order of the patches. All on one device. Whoever
        captures a pass keeps its grids: the tables may drop them."""
        # what the blocks add up stays float32: it is rounded only where a block reads it
        rows = self.patch_embed(patches).float()
        rows = rows + _join([self._positions(grid).float().repeat(pairs, 1) for grid, pairs in runs])
        cos = _join([grid.cos.repeat(pairs, 1, 1) for grid, pairs in runs])
        sin = _join([grid.sin.repeat(pairs, 1, 1) for grid, pairs in runs])
        shapes = [(pairs, grid.rows * grid.columns) for grid, pairs in runs]
        deepstack: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            rows = block(rows, cos, sin, shapes)
            if number in self.spec.deepstack:
                deepstack.append(self.merger_list[self.spec.deepstack.index(number)](rows))
        tokens: Tensor = self.merger(rows)
        return VisionFeatures(tokens, torch.stack(deepstack) if deepstack else tokens.new_zeros((0, *tokens.shape)))

    def _positions(self, grid: Grid) -> Tensor:
        """[n, hidden] float32: the learned positions resampled to the grid."""
        return (functional.embedding(grid.corners, self.pos_embed.weight) * grid.shares[:, :, None]).sum(1)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
