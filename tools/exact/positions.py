"""Positions: counted piece by piece against Hugging Face's for the whole prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from transformers import Qwen3OmniMoeProcessor

from omni_rt.engine.qwen3_omni.positions import Interleave, Piece, PositionCounter, Positions
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line

PROMPTS = 12
FPS = (0.5, 1.0, 2.0, 3.0, 5.0, 12.5, 29.97)


def lines(seed: int) -> list[Line]:
    """Prompts of text, audio, images, videos and audio-in-video, all drawn from the seed."""
    drawn = draw(seed)
    rng = drawn.rng("positions")
    error, tokens = 0.0, 0
    for number in range(PROMPTS):
        prompt = _Prompt(drawn.spec, rng, audio_in_video=number % 2 == 1)
        theirs = prompt.reference(drawn)
        got = prompt.counted()
        error = max(error, float(np.abs(got - theirs).max())) if got.shape == theirs.shape else np.inf
        tokens += len(prompt.ids)
    wrong, orders = _orders(drawn, rng)
    return [
        Line("positions, counted in random pieces = get_rope_index of the whole", None, error, tokens),
        Line("audio-in-video order, streams growing at random = the processor's", None, float(wrong), orders),
    ]


@dataclass
class _Prompt:
    """A drawn prompt: its ids and grids for Hugging Face, and the same as calls of a counter."""

    spec: OmniSpec
    rng: np.random.Generator
    audio_in_video: bool
    ids: list[int] = field(default_factory=list)
    images: list[tuple[int, int, int]] = field(default_factory=list)
    videos: list[tuple[int, int, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    parts: list[Positions] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counter = PositionCounter(self.spec.positions_per_second)
        kinds = ("audio", "image", "both") if self.audio_in_video else ("audio", "image", "video")
        self._text(int(self.rng.integers(1, 30)))
        for kind in self.rng.choice(kinds, self.rng.integers(1, 6)):
            {"audio": self._audio, "image": self._image, "video": self._video, "both": self._both}[kind]()
            self._text(int(self.rng.choice([0, 1, 2, 17, 300])))
        self._text(6)

    def counted(self) -> Positions:
        return np.concatenate(self.parts, axis=1)

    def reference(self, drawn: Draw) -> Positions:
        ids = torch.tensor([self.ids])
        positions, _ = drawn.reference.thinker.model.get_rope_index(
            ids,
            torch.tensor(self.images) if self.images else None,
            torch.tensor(self.videos) if self.videos else None,
            torch.ones_like(ids),
            self.audio_in_video,
            torch.tensor(self.frames) if self.frames else None,
            torch.tensor(self.seconds) if self.seconds else None,
        )
        theirs: Positions = positions[:, 0].numpy()
        return theirs

    def _split(self, n: int) -> list[int]:
        """n as a sum of random parts."""
        cuts = np.sort(self.rng.integers(0, n + 1, self.rng.integers(0, 4)))
        return [int(each) for each in np.diff([0, *cuts, n])]

    def _text(self, n: int, ids: tuple[int, ...] = ()) -> None:
        self.ids += ids or (77,) * n
        self.parts += [self.counter.text(each) for each in self._split(n)]

    def _audio(self) -> None:
        tokens = self.spec.tokens
        n = self._clip()
        self._text(1, (tokens.audio_start,))
        self.ids += [tokens.audio] * n
        self.parts += [self.counter.audio(each) for each in self._split(n)]
        self._text(1, (tokens.audio_end,))

    def _clip(self) -> int:
        frames = int(self.rng.integers(1, 1200))
        self.frames.append(frames)
        return _tokens(frames)

    def _grid(self) -> tuple[int, int]:
        rows, cols = self.rng.integers(1, 12, 2)
        return int(rows), int(cols)

    def _image(self) -> None:
        tokens = self.spec.tokens
        rows, cols = self._grid()
        self.images.append((1, 2 * rows, 2 * cols))
        self._text(1, (tokens.vision_start,))
        self.ids += [tokens.image] * (rows * cols)
        self.parts.append(self.counter.image(rows, cols))
        self._text(1, (tokens.vision_end,))

    def _clip_of_pairs(self) -> tuple[int, int, int, float]:
        rows, cols = self._grid()
        pairs = int(self.rng.integers(1, 9))
        seconds = 2 / float(self.rng.choice(FPS))
        self.videos.append((pairs, 2 * rows, 2 * cols))
        self.seconds.append(seconds)
        return pairs, rows, cols, seconds

    def _video(self) -> None:
        tokens = self.spec.tokens
        pairs, rows, cols, seconds = self._clip_of_pairs()
        self._text(1, (tokens.vision_start,))
        self.ids += [tokens.video] * (pairs * rows * cols)
        at = 0
        for n in self._split(pairs):
            self.parts.append(self.counter.video(n, rows, cols, seconds, at))
            at += n
        self._text(1, (tokens.vision_end,))

    def _both(self) -> None:
        tokens = self.spec.tokens
        pairs, rows, cols, seconds = self._clip_of_pairs()
        audio = self._clip()
        self._text(2, (tokens.vision_start, tokens.audio_start))
        self.counter.audio_in_video()
        at = 0
        for piece in _grown(Interleave(seconds, self.spec.positions_per_second), pairs, audio, self.rng):
            if piece.kind == "audio":
                self.ids += [tokens.audio] * piece.count
                self.parts += [self.counter.audio(each) for each in self._split(piece.count)]
                continue
            self.ids += [tokens.video] * (piece.count * rows * cols)
            self.parts.append(self.counter.video(piece.count, rows, cols, seconds, at))
            at += piece.count
        self._text(2, (tokens.audio_end, tokens.vision_end))


def _tokens(frames: int) -> int:
    """Audio tokens of a clip of mel frames: 13 for every 100, one for every 8 begun of the rest."""
    return 13 * (frames // 100) + -(-(frames % 100) // 8)


def _grown(order: Interleave, pairs: int, audio: int, rng: np.random.Generator) -> list[Piece]:
    """The pieces in the order they come out while both streams grow by random steps."""
    out: list[Piece] = []
    there = [0, 0]
    while there != [pairs, audio]:
        there = [min(pairs, there[0] + int(rng.integers(0, 2))), min(audio, there[1] + int(rng.integers(0, 40)))]
        out += order.take(*there)
    return out + order.take(pairs, audio, closed=True)


def _orders(drawn: Draw, rng: np.random.Generator) -> tuple[int, int]:
    """How many of the tokens drawn come in another order than the processor's, and how many were drawn."""
    writer = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2),
        audio_bos_token="",
        audio_eos_token="",
        audio_token="a",
        video_token="v",
    )
    wrong, total = 0, 0
    for _ in range(20):
        pairs, audio = int(rng.integers(1, 30)), int(rng.integers(1, 200))
        seconds = 2 / float(rng.choice([*FPS, rng.uniform(0.3, 30)]))
        video = {"video_grid_thw": np.array([[pairs, 4, 6]]), "video_second_per_grid": [seconds]}
        theirs = Qwen3OmniMoeProcessor.replace_video_with_audio_token(
            cast(Any, writer),
            video,
            0,
            {"num_audio_tokens": [audio]},
            0,
            position_id_per_seconds=drawn.spec.positions_per_second,
        )
        pieces = _grown(Interleave(seconds, drawn.spec.positions_per_second), pairs, audio, rng)
        ours = "".join("a" * piece.count if piece.kind == "audio" else "v" * (6 * piece.count) for piece in pieces)
        wrong += sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
        total += len(theirs)
    return wrong, total
