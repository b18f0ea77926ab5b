"""Weights in 8 bit: FP8 numbers (E4M3: four bits of exponent, three of mantissa) and a scale for each output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number that FP8 can hold."""

# Numbers that are converted at a time, in float32.
_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class Quantised:
    """`values` FP8 [..., outputs, inputs] times `scale` float32 [..., outputs] is the weight."""

    values: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Quantised:
        """Of [..., outputs, inputs], contiguous."""
        values = torch.empty(weight.shape, dtype=FP8, device=weight.device)
        scale = torch.empty(weight.shape[:-1], dtype=torch.float32, device=weight.device)
        quantise(weight, values, scale)
        return cls(values, scale)

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Quantised:
        """A view, as of a tensor."""
        return Quantised(self.values[rows], self.scale[rows])

    def wide(self, dtype: torch.dtype) -> Tensor:
        """What it stands for, rounded to `dtype`."""
        out = torch.empty(self.shape, dtype=dtype, device=self.values.device)
        self.copy_to(out)
        return out

    def copy_to(self, out: Tensor) -> None:
        """The same into `out` [..., outputs, inputs], contiguous."""
        values, scale, rows = _rows(self.values), self.scale.view(-1, 1), _rows(out)
        step = _step(values)
        for start in range(0, len(values), step):
            part = slice(start, start + step)
            rows[part] = (values[part].float() * scale[part]).to(out.dtype)


Weight = Tensor | Quantised


def wide(weight: Weight, dtype: torch.dtype) -> Tensor:
    """A weight as a tensor to compute with; one that is not quantised is taken as it is."""
    return weight.wide(dtype) if isinstance(weight, Quantised) else weight


def quantise(weight: Tensor, values: Tensor, scale: Tensor) -> None:
    """Fill `values` and `scale` (see `Quantised`) from `weight`; all contiguous.

    The largest number of an output becomes 448. Every other is off by 1/16 of itself at most, or by 1/1024 of the scale
    where it is less than 1/64 of the scale. An output of zeros has the scale 1.
    """
    source, target, scales = _rows(weight), _rows(values), scale.view(-1)
    step = _step(source)
    for start in range(0, len(source), step):
        part = slice(start, start + step)
        rows = source[part].float()
        largest = rows.abs().amax(-1)
        scales[part] = torch.where(largest > 0, largest / LARGEST, 1.0).clamp(min=torch.finfo(torch.float32).tiny)
        target[part] = (rows / scales[part, None]).to(FP8)


def _rows(weight: Tensor) -> Tensor:
    return weight.view(-1, weight.shape[-1])


def _step(rows: Tensor) -> int:
    return max(1, _AT_ONCE // rows.shape[1])
