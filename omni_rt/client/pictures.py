"""Pictures that a client shows as its camera: a photograph or a film."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, ImageOps

from omni_rt.client.speech import UnreadableFile
from omni_rt.engine.api import Rgb

MAX_SIDE = 1280

_AHEAD = 4


def read_image(path: Path) -> Rgb:
    """A picture, upright, its sides even and at most 1280 pixels. Raises UnreadableFile."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(upright.resize(_fitted(*upright.size)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableFile(f"cannot read {path} as a picture: {error}") from error


class Film(Iterator[Rgb]):
    """A video file as a camera: pictures `per_second` apart, the last one for ever; decoded in a thread of its own.

    Raises UnreadableFile when there is no picture to begin with.
    """

    def __init__(self, path: Path, per_second: float) -> None:
        self._path = path
        self._step = Fraction(1) / Fraction(per_second)
        self._ready: queue.Queue[Rgb | Exception] = queue.Queue(_AHEAD)
        threading.Thread(target=self._decode, name="film", daemon=True).start()
        first = self._ready.get()
        if isinstance(first, Exception):
            raise UnreadableFile(f"cannot read {path} as a film: {first}") from first
        self._next = first

    def __next__(self) -> Rgb:
        shown = self._next
        try:
            following = self._ready.get_nowait()
        except queue.Empty:
            return shown
        if not isinstance(following, Exception):
            self._next = following
        return shown

    def _decode(self) -> None:
        due = Fraction(0)
        try:
            with av.open(str(self._path)) as container:
                if not container.streams.video:
                    raise ValueError("it has no pictures")
                for frame in container.decode(video=0):
                    if frame.time is not None and frame.time < due:
                        continue
                    due += self._step
                    picture = frame.reformat(*_fitted(frame.width, frame.height), "rgb24").to_ndarray()
                    self._ready.put(picture.astype(np.uint8, copy=False))
            self._ready.put(EOFError("it has no pictures"))
        except (FFmpegError, OSError, ValueError) as error:
            self._ready.put(error)


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(width, height))
    return max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)
