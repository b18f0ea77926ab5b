"""Audio and pictures of one turn as pieces, in separate segments: audio, a picture, audio again.

A window of audio that is closed and a picture are settled. Behind them lies the open window, which is encoded again as
it grows. A picture is put before the open window, so that nothing but that window is left to do when the turn ends; the
audio goes on in a new segment behind the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, Self

import torch
from torch import Tensor

from omni_rt.engine.api import Rgb
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.audio_stream import AudioUpdate
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.pieces import Piece


class Body(Protocol):
    """What lies between the markers of a user turn."""

    def copy(self) -> Self:
        """One that goes on independently. Pieces are shared."""

    def look(self, frames: Sequence[Rgb], at_s: float) -> None:
        """A picture, or a pair of frames, seen at `at_s` of the turn's audio."""

    def hear(self, update: AudioUpdate) -> None:
        """What changed of the audio."""

    def finish(self, seconds: float) -> None:
        """Nothing more will come; the turn's audio has so many seconds."""

    @property
    def pieces(self) -> list[Piece]: ...

    @property
    def ending(self) -> tuple[int, ...]:
        """Markers that close what is open."""


class Separate:
    """Implements Body."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._opening = pieces.text(parts.prompt.audio_open)
        self._settled: list[Piece] = []
        self._sounding = False
        self._audio_tokens = 0
        self._picture_tokens = 0
        self._open: Piece | None = None

    def copy(self) -> Separate:
        other = Separate.__new__(Separate)
        other.__dict__.update(self.__dict__)
        other._settled = list(self._settled)
        return other

    def look(self, frames: Sequence[Rgb], at_s: float) -> None:
        parts = self._parts
        size = parts.budget.size(frames[0].shape[0], frames[0].shape[1], self._picture_tokens)
        if size is None:
            return
        seen, prompt = parts.look(frames, size), parts.prompt
        pad = parts.spec.tokens.image if len(frames) == 1 else parts.spec.tokens.video
        piece = pieces.picture(pad, prompt.vision_open, prompt.vision_close, seen.grid, seen.features, seen.deepstack)
        self._picture_tokens += len(piece.media)
        if self._sounding:
            self._settled.append(pieces.text(prompt.audio_close))
            self._sounding = False
        self._settled.append(piece)

    def hear(self, update: AudioUpdate) -> None:
        pad = self._parts.spec.tokens.audio
        revise(self._settled, pad, update)
        new = update.features[max(0, self._audio_tokens - update.keep) :]
        settling = update.settled - self._audio_tokens
        if settling > 0:
            self._settled += [] if self._sounding else [self._opening]
            self._settled.append(pieces.audio(pad, new[:settling]))
            self._audio_tokens += settling
            self._sounding = True
            new = new[settling:]
        self._open = pieces.audio(pad, new) if len(new) else None

    def finish(self, seconds: float) -> None:
        pass

    @property
    def pieces(self) -> list[Piece]:
        if self._open is None:
            return list(self._settled)
        return [*self._settled, *([] if self._sounding else [self._opening]), self._open]

    @property
    def ending(self) -> tuple[int, ...]:
        return self._parts.prompt.audio_close if self._sounding or self._open is not None else ()


def revise(settled: list[Piece], pad: int, update: AudioUpdate) -> None:
    """A louder sound has moved the floor of earlier windows: their rows stay, their features change."""
    first = 0
    for number, piece in enumerate(settled):
        if piece.ids[0] != pad:
            continue
        last = first + len(piece)
        if last > update.keep:
            settled[number] = replace(piece, features=_revised(piece, first, update))
        first = last


def _revised(piece: Piece, first: int, update: AudioUpdate) -> Tensor:
    """The features of a piece that begins at audio token `first`, as far as the update has them."""
    assert piece.features is not None
    kept = max(0, update.keep - first)
    begin = max(0, first - update.keep)
    fresh = update.features[begin : begin + len(piece) - kept]
    return torch.cat([piece.features[:kept], fresh, piece.features[kept + len(fresh) :]])
