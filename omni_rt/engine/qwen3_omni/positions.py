"""Three-axis positions (time, height, width) of a conversation, counted as it grows.

Source of the rules: `get_rope_index` of Hugging Face's Qwen3-Omni. All arithmetic is float32 and in its order, so that
the numbers are equal, not close, in whatever pieces the conversation arrives.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float32]
"""[3, n]: time, height, width of n tokens."""


@dataclass(slots=True)
class _Block:
    """An open medium: where it started, what it holds so far, and the largest position of its last piece."""

    kind: Literal["audio", "image", "video", "both"]
    start: np.float32
    last: np.float32
    audio: int = 0
    pairs: int = 0

    @property
    def markers(self) -> int:
        """On each of its sides."""
        return 2 if self.kind == "both" else 1


class PositionCounter:
    """Positions of one sequence. Text and markers count one by one; a medium's block starts where they stand.

    Blocks lie between markers, which count as text: one on each side, two for audio in video. After a block the next
    position is one above the largest of its last piece: of all of it for audio, images and videos, of what follows
    the last change between the two streams for audio in video (Hugging Face's way, kept). Calling for more of the
    medium that is open continues its block; text ends it.
    """

    def __init__(self, positions_per_second: int) -> None:
        self._per_second = np.float32(positions_per_second)
        # positions are rounded once from the start of their run of text, so start and offset are kept apart
        self._anchor = np.float32(0)
        self._offset = 0
        self._closing = 0
        self._block: _Block | None = None

    @property
    def next(self) -> float:
        """What a text token would get now."""
        if self._block is not None:
            return float(self._block.last + np.float32(1))
        return float(self._anchor + np.float32(self._offset))

    def copy(self) -> PositionCounter:
        twin = copy(self)
        twin._block = copy(self._block)
        return twin

    def text(self, n: int) -> Positions:
        """`n` tokens of text or markers."""
        if n and self._block is not None:
            self._closing = self._block.markers
            self._anchor, self._offset = np.float32(self.next), 0
            self._block = None
        closing = min(n, self._closing)
        first = self._run(closing)
        if closing and closing == self._closing:
            self._anchor, self._offset = np.float32(self.next), 0
        self._closing -= closing
        return _one_axis(np.concatenate((first, self._run(n - closing))))

    def audio(self, n: int) -> Positions:
        """The next `n` audio tokens, of a block of their own or of an open audio-in-video segment."""
        block = self._open("audio")
        places = np.arange(block.audio, block.audio + n, dtype=np.float32) + block.start
        block.audio += n
        if n:
            block.last = places[-1]
        return _one_axis(places)

    def image(self, rows: int, cols: int) -> Positions:
        """A whole image of rows x cols tokens (patches after merging), row by row."""
        if self._block is not None:
            raise ValueError("an image needs a marker before it")
        return self._pairs(self._open("image"), 1, rows, cols, 0.0)

    def video(self, pairs: int, rows: int, cols: int, seconds_per_pair: float, at: int = 0) -> Positions:
        """Pairs of frames `at`, `at` + 1, ... of a video or an open audio-in-video segment, rows x cols tokens each.

        Pair i is at i * seconds_per_pair. Raises ValueError where `at` is not the number of pairs already there.
        """
        block = self._open("video")
        if at != block.pairs:
            raise ValueError(f"pair {block.pairs} of this video is next, not {at}")
        return self._pairs(block, pairs, rows, cols, seconds_per_pair)

    def audio_in_video(self) -> None:
        """Opens a segment in which `audio` and `video` may alternate, in the order of `Interleave`."""
        if self._block is not None:
            raise ValueError("audio in video needs two markers before it")
        self._open("both")

    def _run(self, n: int) -> Positions:
        places = self._anchor + np.arange(self._offset, self._offset + n, dtype=np.float32)
        self._offset += n
        return places

    def _open(self, kind: Literal["audio", "image", "video", "both"]) -> _Block:
        if self._block is None:
            block = _Block(kind=kind, start=np.float32(0), last=np.float32(0))
            markers = min(block.markers, self._offset)
            before = self._anchor + np.float32(self._offset - markers)
            block.start = before + np.float32(markers)
            block.last = block.start - np.float32(1)
            self._block = block
        elif self._block.kind not in (kind, "both"):
            raise ValueError(f"{self._block.kind} is open; markers must come before {kind}")
        return self._block

    def _pairs(self, block: _Block, pairs: int, rows: int, cols: int, seconds_per_pair: float) -> Positions:
        numbers = np.arange(block.pairs, block.pairs + pairs, dtype=np.float32)
        time = numbers * np.float32(seconds_per_pair) * self._per_second + block.start
        height = np.arange(rows, dtype=np.float32) + block.start
        width = np.arange(cols, dtype=np.float32) + block.start
        block.pairs += pairs
        if pairs:
            block.last = max(time[-1], height[-1], width[-1])
        grid = np.meshgrid(time, height, width, indexing="ij")
        return np.stack([axis.ravel() for axis in grid])


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` video pairs or audio tokens that come next in an audio-in-video segment."""

    kind: Literal["audio", "video"]
    count: int


class Interleave:
    """The order of an audio-in-video segment while both streams grow: by time, a pair before audio of the same time.

    Pair i is at i * seconds_per_pair * positions_per_second, in float64, audio token j at j: the order in which
    Hugging Face's processor writes the prompt. An audio token at or after the time of a pair that is still to come
    waits for it, until the segment is closed.
    """

    def __init__(self, seconds_per_pair: float, positions_per_second: int) -> None:
        self._seconds = seconds_per_pair
        self._per_second = positions_per_second
        self.pairs = 0
        self.audio = 0

    def take(self, pairs: int, audio: int, *, closed: bool = False) -> list[Piece]:
        """What may be appended, in order, when `pairs` and `audio` are there since the segment began.

        `closed`: no more of either will come.
        """
        out = []
        while True:
            time = self.pairs * self._seconds * self._per_second
            before = min(audio, math.ceil(time)) - self.audio  # audio tokens earlier than the next pair
            if closed and self.pairs == pairs:
                before = audio - self.audio
            if before > 0:
                self.audio += before
                out.append(Piece("audio", before))
            if self.pairs == pairs or (time > self.audio and not closed):
                return out
            self.pairs += 1
            out.append(Piece("video", 1))


def _one_axis(places: Positions) -> Positions:
    return np.broadcast_to(places, (3, len(places))).copy()
