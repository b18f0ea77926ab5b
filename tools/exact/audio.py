"""Streamed audio tokens against Hugging Face's audio tower on the whole clip."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni.audio_encoder import AudioEncoder
from omni_rt.engine.qwen3_omni.audio_stream import AudioStream, AudioUpdate
from omni_rt.engine.qwen3_omni.mel import MelStream, normalise
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line
from tools.exact.mel import clip_lengths, pieces, reference_mel, sound


class Replay:
    """The tokens a listener to the updates has; notes the largest change of a token that was said to be final."""

    def __init__(self) -> None:
        self.tokens: Tensor | None = None
        self.settled = 0
        self.final = 0
        self.broken = 0.0
        self.encoded = 0

    def take(self, update: AudioUpdate | None) -> None:
        if update is None:
            return
        before = self.tokens if self.tokens is not None else update.features[:0]
        assert update.keep <= len(before)
        self.tokens = torch.cat((before[: update.keep], update.features))
        assert self.final <= update.final <= update.settled <= len(self.tokens)
        assert max(update.keep, self.settled) <= update.settled
        self.settled = update.settled
        if self.final:
            self.broken = max(self.broken, float((self.tokens[: self.final] - before[: self.final]).abs().max()))
        self.final = update.final
        self.encoded += update.encoded


def encoder(drawn: Draw) -> AudioEncoder:
    """Ours with the weights of the seed's reference."""
    ours = AudioEncoder(drawn.spec.audio).requires_grad_(False)
    ours.load_state_dict(drawn.reference.thinker.model.audio_tower.state_dict(), strict=True)
    return ours


def reference_tokens(drawn: Draw, mel: Tensor, seconds: int) -> Tensor:
    """Hugging Face's tokens [n, output] of normalised mel [128, frames], attending within `seconds`."""
    tower = drawn.reference.thinker.model.audio_tower
    shipped = tower.n_window_infer
    tower.n_window_infer = 100 * seconds
    try:
        out: Tensor = tower(mel, feature_lens=torch.tensor([mel.shape[1]])).last_hidden_state
    finally:
        tower.n_window_infer = shipped
    return out


def running_mel(clip: np.ndarray, seconds: int, prior: float) -> Tensor:
    """The whole clip's mel [128, frames], each window clamped by the loudest cell up to its end."""
    stream = MelStream()
    raw = torch.cat((stream.push(clip), stream.close()), dim=1)
    windows = []
    for window in torch.split(raw, 100 * seconds, dim=1):
        prior = max(prior, float(window.max()))
        windows.append(normalise(window, prior))
    return torch.cat(windows, dim=1)


def late_loud(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A clip that grows louder in steps, so that the maximum rises late."""
    steps = np.sort(rng.uniform(-4, 0, int(rng.integers(3, 8))))
    level = np.repeat(10**steps, math.ceil(samples / len(steps)))[:samples]
    return (sound(rng, samples) * level).astype(np.float32)


@torch.inference_mode()
def lines(seed: int) -> list[Line]:
    drawn = draw(seed)
    rng = drawn.rng("audio")
    ours = encoder(drawn)
    found = []
    for seconds in (8, 1, 2):
        error, broken, compared = 0.0, 0.0, 0
        for index, samples in enumerate(clip_lengths(rng)):
            clip = late_loud(rng, samples) if index % 2 else sound(rng, samples)
            prior = float(rng.choice([-math.inf, -2.0, 1.0]))
            stream = AudioStream(ours, window_s=seconds, every_ms=int(rng.choice([200, 1000, 3000])), prior=prior)
            heard = Replay()
            for piece in pieces(rng, clip):
                stream.append(piece)
                if rng.random() < 0.7:
                    heard.take(stream.update())
                assert heard.tokens is None or len(heard.tokens) <= stream.tokens_for(stream.samples)
            heard.take(stream.close())
            mel = reference_mel(clip) if seconds == 8 else running_mel(clip, seconds, prior)
            expected = reference_tokens(drawn, mel, seconds)
            assert heard.tokens is not None
            if heard.tokens.shape != expected.shape or stream.tokens_for(samples) != len(expected):
                error = math.nan
                break
            error = max(error, float((heard.tokens - expected).abs().max()))
            broken = max(broken, heard.broken)
            compared += len(expected)
        found.append(Line(f"audio encoder, {seconds} s windows", 1e-5, error, compared))
        found.append(Line(f"final audio tokens stay, {seconds} s windows", None, broken, compared))
    return found
