"""Code2Wav's convolutions, channels last: causal ones as matrix products whose rows are columns of several replies.

A row reads the columns before its own from the reply's past where its call has none. What follows a convolution in the
network (a residual, silence before the beginning, the next activation) is done before the result leaves the chip.
A transposed convolution of stride r is a convolution whose outputs are those of r columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_NONE, _SNAKE, _GELU = 0, 1, 2
# Programs that keep a GPU busy.
_ENOUGH = 120


@dataclass(frozen=True, slots=True)
class Snake:
    """x + sin(alpha x)^2 * beta for each channel, float32 [channels] each."""

    alpha: Tensor
    beta: Tensor


@dataclass(frozen=True, slots=True)
class Convolution:
    """`weight` [rate * outputs, taps, inputs], `bias` [rate * outputs]; a column makes `rate` columns."""

    weight: Tensor
    bias: Tensor
    rate: int = 1
    dilation: int = 1

    @property
    def past(self) -> int:
        """Columns that it looks back."""
        return (self.weight.shape[1] - 1) * self.dilation


@dataclass(frozen=True, slots=True)
class Replies:
    """Those of a call: `slots` int64 [B], their rows in all that is remembered, and the `frames` int64 [B] before."""

    slots: Tensor
    frames: Tensor


@triton.jit
def _column(x, past, slot, reply, at, count, inner, kept):
    """Where the inputs of column `at` lie, which is among the `kept` ones of the past if it is negative."""
    here = x + (reply.to(tl.int64) * count + at) * inner
    before = past + (slot * kept + kept + at) * inner
    return tl.where(at >= 0, here, before)


# Numbers that differ from layer to layer and from batch to batch make no kernels of their own: start waits for each.
@triton.jit(do_not_specialize=["rows", "count", "channels", "ahead", "taps", "dilation", "rate"])
def _convolve(
    x, past, slots, frames, weight, bias, alpha, beta, residual, raw, active,
    rows, count, inner, outer, channels, ahead, taps, dilation, rate,
    PAST: tl.constexpr, ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr, RAW: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    live = row < rows
    reply = row // count
    column = row % count
    slot = tl.load(slots + reply, mask=live, other=0)
    part = tl.arange(0, STEP)
    chunks = tl.cdiv(inner, STEP)
    made = tl.zeros([ROWS, COLS], tl.float32)
    kept = (taps - 1) * dilation
    for step in range(taps * chunks):
        tap = step // chunks
        at = (step % chunks) * STEP + part
        if PAST:
            source = _column(x, past, slot, reply, column - kept + tap * dilation, count, inner, kept)
        else:
            source = x + row.to(tl.int64) * inner
        given = tl.load(source[:, None] + at[None, :], mask=live[:, None] & (at < inner)[None, :], other=0.0)
        place = weight + (col.to(tl.int64)[None, :] * taps + tap) * inner + at[:, None]
        tile = tl.load(place, mask=(at < inner)[:, None] & (col < outer)[None, :], other=0.0)
        made = tl.dot(given, tile, made, input_precision="ieee")
    made += tl.load(bias + col, mask=col < outer, other=0.0).to(tl.float32)[None, :]
    target = row.to(tl.int64)[:, None] * outer + col[None, :]
    mask = live[:, None] & (col < outer)[None, :]
    if RESIDUAL:
        made += tl.load(residual + target, mask=mask, other=0.0).to(tl.float32)
    if ahead > 0:
        begun = tl.load(frames + reply, mask=live, other=1) > 0
        late = column[:, None] * rate + (col // channels)[None, :] >= ahead
        made = tl.where(begun[:, None] | late, made, 0.0)
    if RAW:
        tl.store(raw + target, made.to(raw.dtype.element_ty), mask=mask)
    if ACTIVATION == 1:
        made = made.to(active.dtype.element_ty).to(tl.float32)
        channel = col % channels
        a = tl.load(alpha + channel, mask=col < outer, other=0.0)
        b = tl.load(beta + channel, mask=col < outer, other=0.0)
        wave = tl.sin(made * a[None, :])
        tl.store(active + target, (made + wave * wave * b[None, :]).to(active.dtype.element_ty), mask=mask)
    if ACTIVATION == 2:
        made = made.to(active.dtype.element_ty).to(tl.float32)
        made = 0.5 * made * (1.0 + tl.erf(made * 0.7071067811865476))
        tl.store(active + target, made.to(active.dtype.element_ty), mask=mask)


def convolve(
    x: Tensor,
    of: Convolution,
    replies: Replies,
    *,
    past: Tensor | None = None,
    residual: Tensor | None = None,
    ahead: int = 0,
    snake: Snake | None = None,
    gelu: bool = False,
    raw: bool = True,
) -> tuple[Tensor, Tensor]:
    """Columns [B, n, inputs] -> (before, after the activation `snake` or `gelu`) [B, n * rate, outputs] each; the first
    is meaningless without `raw`, the second the first without an activation.

    `past` [slots, of.past, inputs] holds the columns before, and stays as it is: `keep` moves it on. `residual` [B, n *
    rate, outputs] is added. The first `ahead` columns of replies without frames are zero.
    """
    batch, count, inner = x.shape
    outer, taps, _ = of.weight.shape
    channels = outer // of.rate
    shape = (batch, count * of.rate, channels)
    active_too = snake is not None or gelu
    before = torch.empty(shape, device=x.device, dtype=x.dtype) if raw else x
    after = torch.empty(shape, device=x.device, dtype=x.dtype) if active_too else before
    rows = batch * count
    tall, wide = _tile(rows, outer)
    alpha, beta = (snake.alpha, snake.beta) if snake is not None else (of.bias, of.bias)
    _convolve[(triton.cdiv(rows, tall), triton.cdiv(outer, wide))](
        x, x if past is None else past, replies.slots, replies.frames, of.weight, of.bias, alpha, beta,
        x if residual is None else residual, before, after, rows, count, inner, outer, channels, ahead,
        taps, of.dilation, of.rate, PAST=taps > 1,
        ACTIVATION=_SNAKE if snake is not None else _GELU if gelu else _NONE,
        RESIDUAL=residual is not None, RAW=raw, ROWS=tall, COLS=wide, STEP=64 if inner % 64 == 0 else 32,
        num_warps=8 if tall * wide >= 8192 else 4, num_stages=3 if tall * wide >= 4096 else 5,
    )  # fmt: skip
    return before, after


def _tile(rows: int, outer: int) -> tuple[int, int]:
    """Rows and outputs of a program: as many as leave enough programs."""
    for tall, wide in ((128, 64), (64, 32), (32, 32)):
        if tall <= max(32, rows) and triton.cdiv(rows, tall) * triton.cdiv(outer, wide) >= _ENOUGH:
            return tall, wide
    return 32, 16


@triton.jit(do_not_specialize=["count"])
def _keep(x, past, slots, count, inner, PAST: tl.constexpr, KEPT: tl.constexpr, COLS: tl.constexpr):
    reply = tl.program_id(0)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    slot = tl.load(slots + reply)
    row = tl.arange(0, KEPT)
    source = _column(x, past, slot, reply, count - PAST + row, count, inner, PAST)
    mask = (row < PAST)[:, None] & (col < inner)[None, :]
    moved = tl.load(source[:, None] + col[None, :], mask=mask, other=0.0)
    tl.debug_barrier()  # everything is read before it moves on
    tl.store(past + (slot * PAST + row)[:, None] * inner + col[None, :], moved, mask=mask)


def keep(x: Tensor, past: Tensor, replies: Replies) -> None:
    """The past [slots, columns, channels] of these replies moves on by the columns `x` [B, n, channels], in place."""
    batch, count, inner = x.shape
    columns = past.shape[1]
    kept = triton.next_power_of_2(columns)
    cols = max(16, min(128, 4096 // kept))
    _keep[(batch, triton.cdiv(inner, cols))](
        x,
        past,
        replies.slots,
        count,
        inner,
        PAST=columns,
        KEPT=kept,
        COLS=cols,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["count"])
def _depthwise(
    x, past, slots, weight, bias, scale, shift, out, count, inner, eps, TAPS: tl.constexpr, PAST: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    reply = row // count
    column = row % count
    slot = tl.load(slots + reply)
    col = tl.arange(0, COLS)
    inside = col < inner
    made = tl.load(bias + col, mask=inside, other=0.0).to(tl.float32)
    for tap in tl.static_range(TAPS):
        source = _column(x, past, slot, reply, column - (TAPS - 1 - tap), count, inner, PAST)
        given = tl.load(source + col, mask=inside, other=0.0).to(tl.float32)
        made += given * tl.load(weight + col * TAPS + tap, mask=inside, other=0.0).to(tl.float32)
    made = tl.where(inside, made.to(out.dtype.element_ty).to(tl.float32), 0.0)
    mean = tl.sum(made, 0) / inner
    centred = tl.where(inside, made - mean, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / inner + eps)
    normed = normed * tl.load(scale + col, mask=inside, other=0.0).to(tl.float32)
    normed += tl.load(shift + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row.to(tl.int64) * inner + col, normed.to(out.dtype.element_ty), mask=inside)


def depthwise(
    x: Tensor, past: Tensor, replies: Replies, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    """A convolution of every channel by itself, `weight` [channels, taps], then the layer norm of each column:
    [B, n, channels] -> the same; `past` [slots, taps - 1, channels] stays as it is."""
    batch, count, inner = x.shape
    out = torch.empty_like(x)
    taps = weight.shape[1]
    _depthwise[(batch * count,)](
        x, past, replies.slots, weight, bias, scale, shift, out, count, inner, eps,
        TAPS=taps, PAST=taps - 1, COLS=triton.next_power_of_2(inner), num_warps=4,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["count", "ahead"])
def _speak(
    x, past, slots, frames, weight, bias, out, count, inner, ahead, TAPS: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    reply = tl.program_id(1)
    column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slots + reply)
    col = tl.arange(0, COLS)
    mask = (column < count)[:, None] & (col < inner)[None, :]
    made = tl.zeros([ROWS, COLS], tl.float32)
    for tap in tl.static_range(TAPS):
        source = _column(x, past, slot, reply, column - (TAPS - 1 - tap), count, inner, TAPS - 1)
        given = tl.load(source[:, None] + col[None, :], mask=mask, other=0.0).to(tl.float32)
        made += given * tl.load(weight + tap * inner + col, mask=col < inner, other=0.0).to(tl.float32)[None, :]
    sample = tl.sum(made, 1) + tl.load(bias).to(tl.float32)
    heard = (tl.load(frames + reply) > 0) | (column >= ahead)
    sample = tl.where(heard, tl.minimum(tl.maximum(sample, -1.0), 1.0), 0.0)
    tl.store(out + reply.to(tl.int64) * count + column, sample, mask=column < count)


def speak(x: Tensor, of: Convolution, replies: Replies, *, past: Tensor, ahead: int) -> Tensor:
    """The convolution to the only output: columns [B, n, channels] -> samples float32 [B, n] in [-1, 1]; see
    `convolve`."""
    batch, count, inner = x.shape
    out = torch.empty(batch, count, device=x.device, dtype=torch.float32)
    _speak[(triton.cdiv(count, 32), batch)](
        x, past, replies.slots, replies.frames, of.weight, of.bias, out, count, inner, ahead,
        TAPS=of.weight.shape[1], ROWS=32, COLS=triton.next_power_of_2(inner), num_warps=4,
    )  # fmt: skip
    return out
