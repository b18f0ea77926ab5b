"""Audio and a camera's pairs of frames in one segment, in the order of their times (Qwen's audio in video).

Pairs stand at equal distances from the segment's beginning; an audio token at or after the time of a pair waits for it.
The order of closed audio windows and pairs is settled; what lies behind them is put together again as the open window
grows. When the turn's budget of picture tokens is spent the audio goes on without pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from omni_rt.engine.api import Rgb
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.audio_stream import AudioUpdate
from omni_rt.engine.qwen3_omni.camera import PairSlots
from omni_rt.engine.qwen3_omni.parts import Parts, Seen
from omni_rt.engine.qwen3_omni.pieces import Piece
from omni_rt.engine.qwen3_omni.positions import Interleave, PositionCounter
from omni_rt.engine.qwen3_omni.segments import revise


class _Order:
    """How far a segment is laid out: its positions, counted from the segment's first marker, and its order."""

    def __init__(self, pair_s: float, per_second: int, markers: int) -> None:
        self.pair_s = pair_s
        self.interleave = Interleave(pair_s, per_second)
        self.counter = PositionCounter(per_second)
        self.counter.text(markers)
        self.counter.audio_in_video()

    def copy(self) -> _Order:
        other = copy(self)
        other.interleave, other.counter = copy(self.interleave), self.counter.copy()
        return other

    def lay(self, pads: tuple[int, int], pairs: list[Seen], audio: Tensor, known: int, *, closed: bool) -> list[Piece]:
        """The pieces that follow, for `pads` of audio and video. `audio` [n, hidden] are the audio tokens that are not
        laid out yet, `known` how many there are in all."""
        out: list[Piece] = []
        taken, number = 0, self.interleave.pairs
        for part in self.interleave.take(len(pairs), known, closed=closed):
            if part.kind == "audio":
                features = audio[taken : taken + part.count]
                out.append(self._piece(pads[0], self.counter.audio(part.count), features, None))
                taken += part.count
            else:
                seen = pairs[number]
                places = self.counter.video(1, *seen.grid, self.pair_s, at=number)
                out.append(self._piece(pads[1], places, seen.features, seen.deepstack))
                number += 1
        return out

    def _piece(self, pad: int, places: pieces.Offsets, features: Tensor, deepstack: Tensor | None) -> Piece:
        n = len(features)
        rows = tuple(range(n))
        return Piece(
            (pad,) * n,
            places,
            self.counter.next,
            media=rows,
            visual=rows if deepstack is not None else (),
            features=features,
            deepstack=deepstack,
            continues=True,
            talker_offsets=pieces.line(n),
            talker_advance=float(n),
        )


class Interleaved:
    """Implements Body."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._opening = pieces.text(parts.prompt.av_open)
        pair_s = 2 / parts.frames_per_second
        self._slots = PairSlots(0.0, 1000 * pair_s)
        self._order = _Order(pair_s, parts.spec.positions_per_second, len(self._opening))
        self._pairs: list[Seen] = []
        self._picture_tokens = 0
        self._spent = False
        self._settled: list[Piece] = []
        self._tail: list[Piece] = []
        # Audio tokens that are not among the settled pieces.
        self._audio: Tensor | None = None
        self._size: tuple[int, int] | None = None

    def copy(self) -> Interleaved:
        other = Interleaved.__new__(Interleaved)
        other.__dict__.update(self.__dict__)
        other._slots = self._slots.copy()
        other._order = self._order.copy()
        other._pairs = list(self._pairs)
        other._settled = list(self._settled)
        return other

    def look(self, frames: Sequence[Rgb], at_s: float) -> None:
        for rgb in frames:
            self._slots.show(rgb, 1000 * at_s)
        self._see(at_s, closing=False)
        self._lay(closed=False)

    def hear(self, update: AudioUpdate) -> None:
        pad = self._parts.spec.tokens.audio
        revise(self._settled, pad, update)
        laid = self._order.interleave.audio
        old = self._audio if self._audio is not None else update.features[:0]
        self._audio = torch.cat([old[: max(0, update.keep - laid)], update.features[max(0, laid - update.keep) :]])
        known = laid + len(self._audio)
        self._see(known / self._parts.spec.positions_per_second, closing=False)
        if update.settled > laid:
            more = self._order.lay(self._pads, self._pairs, self._audio, update.settled, closed=self._spent)
            self._settled += more
            self._audio = self._audio[self._order.interleave.audio - laid :]
        self._lay(closed=False)

    def finish(self, seconds: float) -> None:
        self._see(seconds, closing=True)
        self._lay(closed=True)

    @property
    def pieces(self) -> list[Piece]:
        return [self._opening, *self._settled, *self._tail]

    @property
    def ending(self) -> tuple[int, ...]:
        return self._parts.prompt.av_close

    @property
    def _pads(self) -> tuple[int, int]:
        return self._parts.spec.tokens.audio, self._parts.spec.tokens.video

    def _see(self, now_s: float, *, closing: bool) -> None:
        """Encode the pairs whose time has come."""
        while not self._spent and (shot := self._slots.take(1000 * now_s, closing=closing)) is not None:
            height, width = shot.frames[0].shape[:2]
            size = self._parts.budget.size(height, width, self._picture_tokens)
            self._size = self._size or size
            if size is None or size != self._size:
                self._spent = True
                return
            seen = self._parts.look(shot.frames, size)
            self._picture_tokens += len(seen.features)
            self._pairs.append(seen)

    def _lay(self, *, closed: bool) -> None:
        """Put together what lies behind the settled pieces."""
        audio = self._audio
        if audio is None:
            if not self._pairs:
                return
            audio = self._pairs[0].features[:0]
        order = self._order.copy()
        known = order.interleave.audio + len(audio)
        self._tail = order.lay(self._pads, self._pairs, audio, known, closed=closed or self._spent)
