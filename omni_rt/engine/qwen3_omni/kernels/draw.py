"""Drawing codes: `sampler.choose` for small vocabularies, and the embedding of what was drawn, in one kernel.

The k-th largest value and the value at which top-p begins are found by halving the range of the numbers' bit patterns,
so nothing is sorted. Of equal values at the edge of top-p those of the lower indices are dropped, as by a stable sort.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from omni_rt.engine.qwen3_omni.kernels.dependent import dependent


@triton.jit
def ordered(x):
    """Integers in the order of the floats."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def reached(key, wanted):
    """The largest number that at least `wanted` of the keys reach, int64; the smallest key if these are fewer."""
    # 64 bits, so that a sum of two does not overflow
    low = tl.min(key, 0).to(tl.int64)
    high = tl.max(key, 0).to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        enough = tl.sum((key >= middle.to(tl.int32)).to(tl.int32), 0) >= wanted
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low


@triton.jit
def drawn(x, at, vocab, temperature, top_k, tail, greedy, uniform):
    """Which of the adjusted logits `x`, at the places `at`, comes: `sampler.choose` of one row."""
    best = tl.max(x, 0)
    likeliest = tl.min(tl.where(x == best, at, vocab), 0)
    x = x / temperature

    key = ordered(x)
    wanted = top_k.to(tl.int32)
    low = tl.min(key, 0).to(tl.int64)
    if wanted > 0:
        low = reached(key, wanted)
    kept = (key >= low.to(tl.int32)) & (x > float("-inf"))
    chance = tl.where(kept, tl.exp(x - tl.max(x, 0)), 0.0)
    droppable = tail * tl.sum(chance, 0)
    if droppable >= 0:
        # the smallest value up to which more than the tail's share lies
        low = tl.min(tl.where(kept, key, 2147483647), 0).to(tl.int64)
        high = tl.max(key, 0).to(tl.int64)
        while low < high:
            middle = (low + high) >> 1
            beyond = tl.sum(tl.where(key <= middle.to(tl.int32), chance, 0.0), 0) > droppable
            high = tl.where(beyond, middle, high)
            low = tl.where(beyond, low, middle + 1)
        cut = low.to(tl.int32)
        edge = kept & (key == cut)
        below = tl.sum(tl.where(key < cut, chance, 0.0), 0)
        each = tl.max(tl.where(edge, chance, 0.0), 0)
        gone = tl.floor((droppable - below) / each).to(tl.int32)
        many = tl.sum(edge.to(tl.int32), 0)
        gone = tl.where(cut == tl.max(key, 0), tl.minimum(gone, many - 1), gone)
        chance = tl.where((key < cut) | (edge & (tl.cumsum(edge.to(tl.int32), 0) <= gone)), 0.0, chance)
    cumulated = tl.cumsum(chance, 0)
    u = uniform * tl.sum(chance, 0)
    code = tl.min(tl.where((cumulated > u) & (chance > 0), at, vocab), 0)
    code = tl.where(greedy | (code >= vocab), likeliest, code)
    return code


@triton.jit(do_not_specialize=["uniform_stride", "uniform_at", "code_stride", "code_at"])
def _draw(
    logits, seen, suppressed, temperature, top_k, tail, penalty, greedy, uniform, codes, table, embedded, total,
    vocab, hidden, uniform_stride, uniform_at, code_stride, code_at,
    VOCAB: tl.constexpr, HIDDEN: tl.constexpr, SEEN: tl.constexpr, SUPPRESSED: tl.constexpr, ADD: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if EARLY:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    at = tl.arange(0, VOCAB)
    inside = at < vocab
    x = tl.load(logits + row.to(tl.int64) * vocab + at, mask=inside, other=float("-inf")).to(tl.float32)
    if SEEN:
        factor = tl.load(penalty + row)
        known = tl.load(seen + row.to(tl.int64) * vocab + at, mask=inside, other=0) != 0
        x = tl.where(known, tl.where(x < 0, x * factor, x / factor), x)
    if SUPPRESSED:
        x = tl.where(tl.load(suppressed + at, mask=inside, other=0) != 0, float("-inf"), x)
    code = drawn(
        x, at, vocab, tl.load(temperature + row), tl.load(top_k + row), tl.load(tail + row), tl.load(greedy + row) != 0,
        tl.load(uniform + row * uniform_stride + uniform_at),
    )  # fmt: skip
    tl.store(codes + row * code_stride + code_at, code.to(tl.int64))
    dims = tl.arange(0, HIDDEN)
    within = dims < hidden
    line = tl.load(table + code.to(tl.int64) * hidden + dims, mask=within, other=0.0).to(tl.float32)
    spot = row.to(tl.int64) * hidden + dims
    tl.store(embedded + spot, line.to(embedded.dtype.element_ty), mask=within)
    if ADD:
        line += tl.load(total + spot, mask=within, other=0.0)
    tl.store(total + spot, line, mask=within)


def draw(
    logits: Tensor,
    rows: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    uniform: Tensor,
    number: int,
    codes: Tensor,
    table: Tensor,
    embedded: Tensor,
    total: Tensor,
    *,
    seen: Tensor | None = None,
    suppressed: Tensor | None = None,
) -> None:
    """One code for each of B rows of logits [B, vocab] to column `number` of `codes` int64 [B, groups], with the number
    in the same column of `uniform` float32 [B, groups].

    `rows`: temperature, top_k, tail, penalty and greedy as in `SamplingRows`, B each. The code's row of `table` [vocab,
    hidden] goes to `embedded` float32 [B, hidden]; `total` float32 [B, hidden] becomes that for column 0 and grows by
    it for the others. `seen` int8 [B, vocab] are codes to penalise, `suppressed` int8 [vocab] those that never come.
    """
    batch, vocab = logits.shape
    hidden = table.shape[1]
    temperature, top_k, tail, penalty, greedy = rows
    _draw[(batch,)](
        logits, logits if seen is None else seen, logits if suppressed is None else suppressed,
        temperature, top_k, tail, penalty, greedy, uniform, codes, table, embedded, total,
        vocab, hidden, uniform.stride(0), number * uniform.stride(1), codes.stride(0), number * codes.stride(1),
        VOCAB=triton.next_power_of_2(vocab), HIDDEN=triton.next_power_of_2(hidden), SEEN=seen is not None,
        SUPPRESSED=suppressed is not None, ADD=number > 0, num_warps=4, **dependent(logits),
    )  # fmt: skip
