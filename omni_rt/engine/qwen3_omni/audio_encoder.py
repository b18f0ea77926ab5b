"""The audio encoder: windows of normalised log-mel in, 13 tokens a second out.

Chunks of 1 s pass the convolutions each alone, with positions that start again in every chunk; attention runs both
ways within a window of whole chunks and never beyond it. Windows of equal length form the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.layers import LayerNorm
from omni_rt.engine.qwen3_omni.spec import AudioSpec

_CHUNKS_AT_ONCE = 64


def _halved(size: int) -> int:
    """Length after three convolutions of stride 2 that pad one at either end."""
    return -(-size // 8)


class AudioAttention(nn.Module):
    """Attention of every token of a window to every other."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.k_proj = nn.Linear(spec.d_model, spec.d_model)
        self.v_proj = nn.Linear(spec.d_model, spec.d_model)
        self.q_proj = nn.Linear(spec.d_model, spec.d_model)
        self.out_proj = nn.Linear(spec.d_model, spec.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """[W, T, d_model] to the same."""
        query, key, value = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed: Tensor = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class AudioLayer(nn.Module):
    """Attention and a two-layer perceptron, each on the normed input and added to it."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.self_attn = AudioAttention(spec)
        self.self_attn_layer_norm = LayerNorm(spec.d_model)
        self.fc1 = nn.Linear(spec.d_model, spec.ffn)
        self.fc2 = nn.Linear(spec.ffn, spec.d_model)
        self.final_layer_norm = LayerNorm(spec.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """[W, T, d_model] to the same."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden))
        widened = F.gelu(self.fc1(self.final_layer_norm(hidden)))
        out: Tensor = hidden + self.fc2(widened)
        return out


class AudioEncoder(nn.Module):
    """Weights only; works in the device and dtype of its parameters."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.spec = spec
        channels = spec.conv_channels
        self.conv2d1 = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.conv2d2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv2d3 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv_out = nn.Linear(channels * _halved(spec.mel_bins), spec.d_model, bias=False)
        self.layers = nn.ModuleList(AudioLayer(spec) for _ in range(spec.layers))
        self.ln_post = LayerNorm(spec.d_model)
        self.proj1 = nn.Linear(spec.d_model, spec.d_model)
        self.proj2 = nn.Linear(spec.d_model, spec.output)
        self._positions: Tensor | None = None
        self.captured: dict[int, Callable[[Tensor], Tensor]] = {}
        """By the number of tokens: `encode` of a single window as a captured step, where there is one."""

    def tokens(self, frames: int) -> int:
        """Tokens of a clip of so many mel frames: 13 for each whole chunk, one for every 8 frames begun after it."""
        whole, rest = divmod(frames, self.spec.chunk_frames)
        return whole * _halved(self.spec.chunk_frames) + _halved(rest)

    def batch(self, frames: int) -> int:
        """Windows of so many mel frames that one call may take with bounded memory: at least 1, about 64 s in all."""
        return max(1, _CHUNKS_AT_ONCE * self.spec.chunk_frames // max(frames, 1))

    def encode_window(self, mel: Tensor, pad_tail: bool) -> Tensor:
        """One window [mel_bins, F] to [tokens(F), output]; see `forward`."""
        out: Tensor = self(mel[None], pad_tail)[0]
        return out

    def forward(self, mel: Tensor, pad_tail: bool = True) -> Tensor:
        """W windows of equal length, normalised mel [W, mel_bins, F], to tokens [W, tokens(F), output]; F >= 1.

        A last chunk of fewer than `chunk_frames` frames is filled up with zeros if it follows a whole one; if it is
        the window's only chunk, then if `pad_tail` says so: the clip has whole chunks in earlier windows. The fill
        changes the last token of the tail, and the reference fills up under exactly this condition.
        """
        windows, _, frames = mel.shape
        chunk, count = self.spec.chunk_frames, self.tokens(frames)
        mel = mel.to(self.conv2d1.weight)
        if frames > chunk or pad_tail:
            mel = F.pad(mel, (0, -frames % chunk))
        encode = self.captured.get(count) if windows == 1 and mel.shape[-1] % chunk == 0 else None
        return self.encode(mel, count) if encode is None else encode(mel)

    def encode(self, mel: Tensor, count: int) -> Tensor:
        """Windows [W, mel_bins, F] of whole chunks, or one of a part of a chunk, to their first `count` tokens [W,
        count, output]; mel in the dtype of the weights."""
        windows, bands, _ = mel.shape
        width = min(mel.shape[-1], self.spec.chunk_frames)
        chunks = mel.reshape(windows, bands, -1, width).transpose(1, 2).reshape(-1, 1, bands, width)
        hidden = self._stem(chunks).float()  # what the layers add up is rounded only where a layer reads it
        hidden = hidden.reshape(windows, -1, hidden.shape[-1])[:, :count]
        for layer in self.layers:
            hidden = layer(hidden)
        out: Tensor = self.proj2(F.gelu(self.proj1(self.ln_post(hidden))))
        return out

    def _stem(self, chunks: Tensor) -> Tensor:
        """[n, 1, mel_bins, frames] to [n, tokens, d_model] with the positions added."""
        for convolve in (self.conv2d1, self.conv2d2, self.conv2d3):
            chunks = F.gelu(convolve(chunks))
        hidden: Tensor = self.conv_out(chunks.permute(0, 3, 1, 2).flatten(2))
        return hidden + self._position_table(hidden)[: hidden.shape[1]]

    def _position_table(self, like: Tensor) -> Tensor:
        """Sinusoids [tokens of a chunk, d_model]: all sines, then all cosines, time scales 1 to 10000 tokens
        (Vaswani et al. 2017, section 3.5, with the halves laid side by side). Made at the first call, so that a
        module built without storage carries none to be lost."""
        table = self._positions
        if table is None or table.device != like.device or table.dtype != like.dtype:
            half = self.spec.d_model // 2
            rates = torch.exp(torch.arange(half, device="cpu") * (-math.log(10_000) / (half - 1)))
            angles = torch.arange(_halved(self.spec.chunk_frames), device="cpu")[:, None] * rates
            table = torch.cat((angles.sin(), angles.cos()), dim=1).to(like)
            self._positions = table
        return table
