"""Code2Wav on the kernels: a frame of each reply to its samples; what is remembered of a reply is a slot of a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.code2wav import Code2Wav, Code2WavState
from omni_rt.engine.qwen3_omni.fast_window import FastWindow
from omni_rt.engine.qwen3_omni.kernels.convolution import (
    Convolution,
    Replies,
    Snake,
    convolve,
    depthwise,
    keep,
    speak,
)


@dataclass(frozen=True, slots=True)
class SoundState:
    """What is remembered of all replies, a row each: as `Code2WavState`, but for the columns that the convolutions look
    back at, which lie channels last, [slots, columns, channels]."""

    frames: Tensor
    keys: Tensor
    values: Tensor
    past: tuple[Tensor, ...]

    @classmethod
    def of(cls, state: Code2WavState) -> SoundState:
        past = tuple(columns.transpose(1, 2).contiguous() for columns in state.columns)
        return cls(state.frames, state.keys, state.values, past)

    def reset(self, slot: Tensor) -> None:
        """Forget the reply of `slot`, int64 [1]."""
        for tensor in (self.frames, self.keys, self.values, *self.past):
            tensor.index_fill_(0, slot, 0)

    def row(self, slot: Tensor) -> Code2WavState:
        """A copy of what is remembered of the reply of `slot`, int64 [1], which has frames."""
        frames, keys, values, *past = (
            tensor.index_select(0, slot) for tensor in (self.frames, self.keys, self.values, *self.past)
        )
        columns = tuple(each.transpose(1, 2).contiguous() for each in past)
        return Code2WavState(frames, keys, values, columns, (False,))


@dataclass(frozen=True, slots=True)
class _Widening:
    """A column makes several, each of which goes through a ConvNeXt layer."""

    repeat: Convolution
    past: int
    depth: Tensor
    bias: Tensor
    norm: nn.LayerNorm
    open: Convolution
    close: Convolution


@dataclass(frozen=True, slots=True)
class _Residual:
    past: int
    first: Convolution
    snake: Snake
    second: Convolution
    after: Snake
    """The next layer's."""


@dataclass(frozen=True, slots=True)
class _Block:
    past: int
    transposed: Convolution
    ahead: int
    snake: Snake
    residuals: tuple[_Residual, ...]


class FastCode2Wav:
    """Copies the weights of the convolutions, in another layout; shares the others."""

    def __init__(self, code2wav: Code2Wav) -> None:
        self._embed = code2wav.embed
        self._window = FastWindow(code2wav)
        self._lookahead = code2wav.lookahead
        self._widenings = [_widening(pair) for pair in code2wav.upsample]
        first, *blocks, snake, last = code2wav.decoder
        self._first, self._first_past = _causal(first), _past(first)
        # what follows each block: the next one's activation
        activations = [_snake(_modules(block)[0]) for block in blocks] + [_snake(snake)]
        self._snake = activations[0]
        self._blocks = [_block(block, after) for block, after in zip(blocks, activations[1:], strict=True)]
        self._last, self._last_past = _causal(last), _past(last)

    def __call__(self, codes: Tensor, state: SoundState, slots: Tensor) -> Tensor:
        """Codes int64 [B, quantizers] of a frame each -> samples float32 [B, samples_per_frame], as `Code2Wav.push`;
        the rows `slots` int64 [B] of the state move on."""
        frames = state.frames.index_select(0, slots)
        replies = Replies(slots, frames)
        past = state.past
        rows = self._embed(codes[:, :, None])[:, 0]
        x = self._window(rows, state.keys, state.values, slots, frames)[:, None]
        for widening in self._widenings:
            x = self._widen(x, widening, replies, past)
        _, active = convolve(x, self._first, replies, past=past[self._first_past], snake=self._snake, raw=False)
        keep(x, past[self._first_past], replies)
        for block in self._blocks:
            active = self._decode(active, block, replies, past)
        samples = speak(active, self._last, replies, past=past[self._last_past], ahead=self._lookahead)
        keep(active, past[self._last_past], replies)
        state.frames.index_copy_(0, slots, frames + 1)
        return samples

    def _widen(self, x: Tensor, of: _Widening, replies: Replies, past: tuple[Tensor, ...]) -> Tensor:
        x, _ = convolve(x, of.repeat, replies)
        norm = of.norm
        normed = depthwise(x, past[of.past], replies, of.depth, of.bias, norm.weight, norm.bias, norm.eps)
        keep(x, past[of.past], replies)
        _, inner = convolve(normed, of.open, replies, gelu=True, raw=False)
        return convolve(inner, of.close, replies, residual=x)[0]

    def _decode(self, active: Tensor, block: _Block, replies: Replies, past: tuple[Tensor, ...]) -> Tensor:
        own = past[block.past]
        x, after = convolve(active, block.transposed, replies, past=own, ahead=block.ahead, snake=block.snake)
        keep(active, own, replies)
        for number, each in enumerate(block.residuals, 1):
            own = past[each.past]
            _, inner = convolve(after, each.first, replies, past=own, snake=each.snake, raw=False)
            keep(after, own, replies)
            x, after = convolve(
                inner, each.second, replies, residual=x, ahead=block.ahead, snake=each.after,
                raw=number < len(block.residuals),
            )  # fmt: skip
        return after


def _modules(module: nn.Module) -> list[Any]:
    assert isinstance(module.block, nn.ModuleList)
    return list(module.block)


def _past(module: Any) -> int:
    """Which columns of the state are this convolution's."""
    slot: int = module._slot
    return slot


def _snake(module: Any) -> Snake:
    return Snake(module.alpha.float().exp(), 1.0 / (module.beta.float().exp() + 1e-9))


def _causal(module: Any) -> Convolution:
    conv = module.conv
    return Convolution(conv.weight.permute(0, 2, 1).contiguous(), conv.bias, dilation=conv.dilation[0])


def _transposed(conv: Any) -> Convolution:
    """Of kernel `stride` or twice that: phase p of a column's outputs takes the kernel's element p of the column itself
    and, if there is one, element p + stride of the column before."""
    inner, outer, size = conv.weight.shape
    rate = conv.stride[0]
    taps = size // rate
    phases = conv.weight.permute(2, 1, 0).reshape(taps, rate, outer, inner)
    weight = phases.flip(0).permute(1, 2, 0, 3).reshape(rate * outer, taps, inner)
    return Convolution(weight.contiguous(), conv.bias.repeat(rate), rate=rate)


def _linear(weight: Tensor, bias: Tensor) -> Convolution:
    return Convolution(weight[:, None].contiguous(), bias)


def _widening(pair: Any) -> _Widening:
    repeat, layer = pair
    gamma = layer.gamma.float()
    close = layer.pwconv2
    scaled = (close.weight.float() * gamma[:, None]).to(close.weight.dtype), (close.bias.float() * gamma)
    return _Widening(
        repeat=_transposed(repeat.conv),
        past=_past(layer.dwconv),
        depth=layer.dwconv.conv.weight[:, 0].contiguous(),
        bias=layer.dwconv.conv.bias,
        norm=layer.norm,
        open=_linear(layer.pwconv1.weight, layer.pwconv1.bias),
        close=_linear(scaled[0], scaled[1].to(close.weight.dtype)),
    )


def _block(block: Any, after: Snake) -> _Block:
    _, transposed, *residuals = _modules(block)
    following = [_snake(residual.act1) for residual in residuals[1:]] + [after]
    return _Block(
        past=_past(transposed),
        transposed=_transposed(transposed.conv),
        ahead=block.ahead,
        snake=_snake(residuals[0].act1),
        residuals=tuple(
            _Residual(_past(residual.conv1), _causal(residual.conv1), _snake(residual.act2), _causal(residual.conv2), n)
            for residual, n in zip(residuals, following, strict=True)
        ),
    )
