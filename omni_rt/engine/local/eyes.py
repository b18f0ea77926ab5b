"""Sees: names the things in a picture and reads the words printed in it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import EngineError, Rgb

Glimpse = npt.NDArray[np.float32]
Box = npt.NDArray[np.float32]

_INPUT = 320
_SURE = 0.5
_MOST_THINGS = 6
# Words are looked for with the longer side of the picture made this long, in pixels.
_READ_PIXELS = 640
_READ_SURE = 0.8
_MOST_LINES = 6
_LONGEST_TEXT = 200

# Share of a picture that differs: above the one something has changed, above the other it is another picture.
CHANGED = 0.02
ANOTHER = 0.5
_GLIMPSE = (48, 36)
_DIFFERS = 0.4
_LEAST_CONTRAST = 8.0


class Eyes:
    """The loaded models. Calls take from 50 ms to a second; they may come from any thread and wait for each other."""

    def __init__(self, detector: Path, graph: Path, labels: Path, threads: int) -> None:
        """Raises EngineError when a file is not what it should be."""
        try:
            self._detector: Any = cv2.dnn.readNetFromTensorflow(str(detector), str(graph))
            self._labels = labels.read_text(encoding="utf-8").splitlines()
            self._reader = _reader(threads)
        except Exception as error:
            raise EngineError(
                "eyes_failed",
                f"cannot load what sees ({detector}, {graph}, {labels}): {error}; fetch the files again with "
                "`omni-rt doctor --fetch`, or do without: --set local.eyes=false",
            ) from error
        self._lock = threading.Lock()

    def things(self, rgb: Rgb) -> list[str]:
        """Names of the things in the picture, the surest first, each once."""
        with self._lock:
            self._detector.setInput(
                cv2.dnn.blobFromImage(rgb, 1 / 127.5, (_INPUT, _INPUT), (127.5, 127.5, 127.5), swapRB=True)
            )
            found = self._detector.forward()[0, 0]
        sure = sorted((row for row in found if row[2] >= _SURE), key=lambda row: -float(row[2]))
        names = (self._labels[int(row[1]) - 1] for row in sure if 0 < row[1] <= len(self._labels))
        return list(dict.fromkeys(names))[:_MOST_THINGS]

    def lines(self, rgb: Rgb) -> list[Rgb]:
        """Strips of the picture with a line of words in each, from top to bottom; the largest if there are many."""
        scale = min(1.0, _READ_PIXELS / max(rgb.shape[:2]))
        with self._lock:
            found = self._reader(_resize(rgb, scale)[:, :, ::-1], use_det=True, use_cls=False, use_rec=False)
        boxes = [] if found.boxes is None else [np.asarray(box, np.float32) / scale for box in found.boxes]
        boxes.sort(key=lambda box: -float(np.ptp(box[:, 0]) * np.ptp(box[:, 1])))
        strips = (
            (box, _strip(rgb, box)) for box in sorted(boxes[:_MOST_LINES], key=lambda box: float(box[:, 1].min()))
        )
        return [strip for _, strip in strips if strip.size]

    def read(self, line: Rgb) -> str:
        """The words of one line."""
        with self._lock:
            found = self._reader(line[:, :, ::-1], use_det=False, use_cls=False, use_rec=True)
        if not found.txts or not found.scores or found.scores[0] < _READ_SURE:
            return ""
        text: str = found.txts[0]
        return text.strip()


def glimpse(rgb: Rgb) -> Glimpse:
    """A picture in little, without its brightness and contrast, to tell whether it has changed."""
    grey = cv2.resize(rgb, _GLIMPSE, interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    return np.asarray((grey - grey.mean()) / max(float(grey.std()), _LEAST_CONTRAST), np.float32)


def difference(before: Glimpse, now: Glimpse) -> float:
    """Share of the picture that has changed, 0 to 1."""
    return float((np.abs(now - before) > _DIFFERS).mean())


def describe(things: Sequence[str], words: Sequence[str]) -> str:
    """A sentence for the prompt, "" if there is nothing to say."""
    parts = []
    if things:
        parts.append(f"The camera shows: {', '.join(_with_article(thing) for thing in things)}.")
    if text := " / ".join(word for word in words if word)[:_LONGEST_TEXT]:
        parts.append(f"Printed words: {text}." if parts else f"The camera shows printed words: {text}.")
    return " ".join(parts)


def check_picture(rgb: Any) -> None:
    """Raises EngineError `invalid_image` for what is no picture."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        got = f"{rgb.dtype} array of shape {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise EngineError("invalid_image", f"a picture is a uint8 array of shape (height, width, 3), not a {got}")


def _with_article(thing: str) -> str:
    return thing if thing.endswith("s") else f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _resize(rgb: Rgb, scale: float) -> Rgb:
    if scale == 1.0:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _strip(rgb: Rgb, box: Box) -> Rgb:
    (left, top), (right, bottom) = np.floor(box.min(axis=0)).astype(int), np.ceil(box.max(axis=0)).astype(int)
    return rgb[max(0, top - 2) : bottom + 3, max(0, left - 2) : right + 3]


def _reader(threads: int) -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Det.limit_side_len": _READ_PIXELS,
            "Det.limit_type": "max",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
