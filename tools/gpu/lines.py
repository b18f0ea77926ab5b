"""One line of the table: how far our numbers are from Hugging Face's and from those of float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BOUND = 0.02


@dataclass(frozen=True, slots=True)
class Compared:
    """Relative errors ||a - b|| / ||b||, each over `n` rows: `apart` ours from Hugging Face's, `ours` and `theirs`
    from the same weights in float32. A yardstick's `bound` is None; `wrong` counts what no error excuses."""

    what: str
    n: int
    apart: float
    ours: float | None = None
    theirs: float | None = None
    bound: float | None = BOUND
    note: str = ""
    wrong: int = 0

    @property
    def holds(self) -> bool:
        """Within the bound of float32 or of Hugging Face's; False too where an error is not a number."""
        if self.bound is None:
            return True
        if self.wrong:
            return False
        return self.n > 0 and any(error is not None and error <= self.bound for error in (self.apart, self.ours))


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||; infinite where the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    wide = b.float()
    return float(torch.linalg.vector_norm(a.float() - wide) / torch.linalg.vector_norm(wide))


def typical(a: Tensor, b: Tensor) -> float:
    """Median over the rows of each row's relative error."""
    norms = [torch.linalg.vector_norm(each, dim=-1) for each in (a.float() - b.float(), b.float())]
    return float((norms[0] / norms[1]).median())


def compared(
    what: str, ours: Tensor, theirs: Tensor, truth: Tensor, *, bound: float | None = BOUND, note: str = ""
) -> Compared:
    """Of the rows of three tensors of one shape."""
    errors = relative(ours, theirs), relative(ours, truth), relative(theirs, truth)
    return Compared(what, len(ours), *errors, bound=bound, note=note)


def table(lines: list[Compared]) -> str:
    """For people to read; errors in percent."""
    heads = ["", "what", "ours-HF %", "ours-f32 %", "HF-f32 %", "bound %", "n", ""]
    cells = [heads] + [
        [
            "ok" if line.holds else "FAIL",
            line.what,
            *(("" if e is None else f"{100 * e:.3f}") for e in (line.apart, line.ours, line.theirs)),
            "" if line.bound is None else f"{100 * line.bound:g}",
            str(line.n),
            line.note,
        ]
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)
