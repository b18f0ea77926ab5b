"""Code2Wav, frame by frame: 16 codes (80 ms) in, 1920 samples at 24 kHz out, equal to decoding the whole at once.

The decoder looks ahead: each of its transposed convolutions (kernel 2r, stride r, r columns cut off on both sides)
makes a column out of an input column and the one after it. Over all blocks that is `Code2Wav.lookahead` samples (555,
23 ms, in the released model), so the sound lags behind the codes by as many: the first frame gives 1365 samples, every
later one 1920, and `flush` the last 555. Everything else is causal, and what it remembers is in `Code2WavState`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.code2wav_layers import (
    Causal,
    Columns,
    ConvNeXt,
    Decoding,
    Snake,
    Transformer,
    Transposed,
)
from omni_rt.engine.qwen3_omni.spec import Code2WavSpec


@dataclass(slots=True)
class Code2WavState:
    """What the decoder remembers of B replies; a row is one reply. Made by `Code2Wav.state`, changed in place.

    `frames` int64 [B] counts the frames decoded. `keys` (after rotary embedding) and `values` [B, layers, kv heads,
    window - 1, head_dim] hold the latest frames, the newest last. `columns` are the inputs that the convolutions look
    back at, each [B, channels, columns]. No shape ever changes. `fresh` says on the host which rows have no frame yet.
    """

    frames: Tensor
    keys: Tensor
    values: Tensor
    columns: tuple[Tensor, ...]
    fresh: tuple[bool, ...]

    def reset(self) -> None:
        """Forget everything, in place."""
        for tensor in self._tensors():
            tensor.zero_()
        self.fresh = (True,) * len(self.fresh)

    def clone(self) -> Code2WavState:
        """A copy that goes its own way."""
        return self._made([tensor.clone() for tensor in self._tensors()], self.fresh)

    @classmethod
    def stack(cls, states: Sequence[Code2WavState]) -> Code2WavState:
        """A copy of all rows of `states` (of one decoder, at least one) in their order; they may be of any age."""
        tensors = [torch.cat(rows) for rows in zip(*(state._tensors() for state in states), strict=True)]
        return cls._made(tensors, tuple(fresh for state in states for fresh in state.fresh))

    def unstack(self) -> list[Code2WavState]:
        """A copy of each row as a state of its own."""
        return [
            self._made([tensor[row : row + 1].clone() for tensor in self._tensors()], self.fresh[row : row + 1])
            for row in range(len(self.fresh))
        ]

    def _tensors(self) -> list[Tensor]:
        return [self.frames, self.keys, self.values, *self.columns]

    @classmethod
    def _made(cls, tensors: Sequence[Tensor], fresh: tuple[bool, ...]) -> Code2WavState:
        frames, keys, values, *columns = tensors
        return cls(frames, keys, values, tuple(columns), fresh)


class Code2Wav(nn.Module):
    """The weights, named as in Hugging Face's `Qwen3OmniMoeCode2Wav`. Sound is float32 in [-1, 1].

    `samples_per_frame` samples at 24 kHz belong to a frame; they are out `lookahead` samples late.
    """

    def __init__(self, spec: Code2WavSpec) -> None:
        """Raises ValueError for upsampling factors that make the decoder look ahead a whole frame or more."""
        super().__init__()
        self.spec = spec
        self.samples_per_frame = 1
        for factor in spec.upsampling_ratios:
            self.samples_per_frame *= factor
        self.lookahead = 0
        for rate in spec.upsample_rates:
            self.samples_per_frame *= rate
            self.lookahead = (self.lookahead + 1) * rate
        if self.lookahead >= self.samples_per_frame:
            raise ValueError(f"a look-ahead of {self.lookahead} samples is longer than a frame")

        slots = Columns()
        width = spec.decoder_dim
        self.code_embedding = nn.Embedding(spec.codebook * spec.quantizers, spec.hidden)
        self.pre_transformer = Transformer(spec)
        self.upsample = nn.ModuleList(
            nn.ModuleList([_Repeat(spec.hidden, factor), ConvNeXt(spec.hidden, slots)])
            for factor in spec.upsampling_ratios
        )
        blocks: list[nn.Module] = [Causal(spec.hidden, width, 7, slots)]
        ahead = 0
        for rate in spec.upsample_rates:
            ahead = (ahead + 1) * rate
            blocks.append(_Block(width, rate, ahead, slots))
            width //= 2
        self.decoder = nn.ModuleList([*blocks, Snake(width), Causal(width, 1, 7, slots)])
        self._slots = slots.shapes
        self.requires_grad_(False)

    def state(self, batch: int = 1) -> Code2WavState:
        """For `batch` replies that have not begun, on the device and in the dtype of the weights."""
        spec = self.spec
        weight = self.code_embedding.weight
        past = (batch, spec.layers, spec.kv_heads, spec.window - 1, spec.head_dim)
        return Code2WavState(
            frames=torch.zeros(batch, dtype=torch.int64, device=weight.device),
            keys=weight.new_zeros(past),
            values=weight.new_zeros(past),
            columns=tuple(weight.new_zeros(batch, *shape) for shape in self._slots),
            fresh=(True,) * batch,
        )

    def step(self, codes: Tensor, state: Code2WavState) -> Tensor:
        """Codes int64 [B, quantizers, n] of the next n >= 1 frames -> samples float32 [B, m].

        m is n * samples_per_frame, less `lookahead` if the rows are fresh. Raises ValueError for codes of another
        shape, and for rows of which only some are fresh: `push` takes those.
        """
        fresh = self._all_fresh(state)
        samples = self.push(codes, state)
        return samples[:, self.lookahead :] if fresh else samples

    def push(self, codes: Tensor, state: Code2WavState) -> Tensor:
        """As `step`, for rows of any age: float32 [B, n * samples_per_frame], with silence in place of what lies before
        the beginning: the first `lookahead` samples of a row that was fresh. Raises ValueError for codes of another
        shape."""
        batch = len(state.fresh)
        if codes.dim() != 3 or codes.shape[:2] != (batch, self.spec.quantizers) or not codes.shape[2]:
            raise ValueError(f"codes must be [{batch}, {self.spec.quantizers}, n], not {list(codes.shape)}")
        x = self.pre_transformer(self.embed(codes), state.frames, state.keys, state.values).transpose(1, 2)
        samples = self.render(x, state.frames, state.columns, fresh=any(state.fresh))
        state.frames += codes.shape[2]
        state.fresh = (False,) * batch
        return samples

    def embed(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, quantizers, n] -> rows [B, n, hidden]."""
        offsets = torch.arange(self.spec.quantizers, device=codes.device)[:, None] * self.spec.codebook
        out: Tensor = self.code_embedding(codes + offsets).mean(1)
        return out

    def render(self, x: Tensor, frames: Tensor, columns: tuple[Tensor, ...], *, fresh: bool) -> Tensor:
        """What the transformer made of n frames after `frames` int64 [B], [B, hidden, n], to samples as in `push`;
        `columns` move on, in place. `fresh`: some rows may have had no frame."""
        decoding = Decoding(columns, (frames > 0)[:, None, None] if fresh else None)
        for layer in self._upsampling():
            x = layer(x, decoding)
        return self._decode(self.decoder[0](x, decoding), decoding)

    def flush(self, state: Code2WavState) -> Tensor:
        """The last `lookahead` samples of replies that are over, float32 [B, lookahead]; empty if all are fresh.

        They are what the decoder makes of the codes it has where it would look at a column that never comes: that
        column counts as zero, as if the right sides of the transposed convolutions were not cut off. So T frames are
        T * samples_per_frame samples in all. `state` stays as it is. Raises ValueError if only some rows are fresh.
        """
        if self._all_fresh(state):
            return torch.zeros(len(state.fresh), 0, device=state.frames.device)
        nothing = self.code_embedding.weight.new_zeros(len(state.fresh), self.spec.decoder_dim, 0)
        return self._decode(nothing, Decoding(state.clone().columns, None, closing=True))

    def _upsampling(self) -> Iterator[nn.Module]:
        for pair in self.upsample:
            assert isinstance(pair, nn.ModuleList)
            yield from pair

    def _decode(self, x: Tensor, decoding: Decoding) -> Tensor:
        for block in list(self.decoder)[1:-2]:
            x = block(x, decoding)
        samples = self.decoder[-1](self.decoder[-2](x), decoding)
        samples = decoding.silence(samples, self.lookahead)
        return samples[:, 0].float().clamp(-1, 1)

    def _all_fresh(self, state: Code2WavState) -> bool:
        if len(set(state.fresh)) > 1:
            raise ValueError("some of the rows have frames and some have not")
        return state.fresh[0]


class _Repeat(nn.Module):
    """A transposed convolution whose kernel is its stride: a column makes `factor` columns, on its own."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, factor, stride=factor)

    def forward(self, x: Tensor, decoding: Decoding) -> Tensor:
        """[B, channels, n] -> [B, channels, n * factor]"""
        out: Tensor = self.conv(x)
        return out


class _Block(nn.Module):
    """`rate` times the columns, half the channels. Its output is `ahead` columns late."""

    def __init__(self, channels: int, rate: int, ahead: int, slots: Columns) -> None:
        super().__init__()
        self.ahead = ahead
        half = channels // 2
        self.block = nn.ModuleList(
            [Snake(channels), Transposed(channels, half, rate, slots), *(_Residual(half, d, slots) for d in (1, 3, 9))]
        )

    def forward(self, x: Tensor, decoding: Decoding) -> Tensor:
        """[B, channels, n] -> [B, channels // 2, n * rate], or (n + 1) * rate when closing"""
        activation, transposed, *residuals = self.block
        x = decoding.silence(transposed(activation(x), decoding), self.ahead)
        for residual in residuals:
            x = decoding.silence(residual(x, decoding), self.ahead)
        return x


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int, slots: Columns) -> None:
        super().__init__()
        self.act1 = Snake(channels)
        self.conv1 = Causal(channels, channels, 7, slots, dilation=dilation)
        self.act2 = Snake(channels)
        self.conv2 = Causal(channels, channels, 1, slots)

    def forward(self, x: Tensor, decoding: Decoding) -> Tensor:
        """[B, channels, n] -> the same"""
        out: Tensor = x + self.conv2(self.act2(self.conv1(self.act1(x), decoding)), decoding)
        return out
