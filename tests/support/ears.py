"""Transcribing recordings of any length, to learn what was really said in them."""

from __future__ import annotations

from functools import cache

import numpy as np

from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.engine.local.asr import Recogniser
from tests.support.speech import model

_FRAME = INPUT_RATE // 50
_LONGEST_S = 12
_QUIET = 120.0


@cache
def recogniser() -> Recogniser:
    return Recogniser(
        model("moonshine-tiny-en-encoder"),
        model("moonshine-tiny-en-decoder"),
        model("moonshine-tiny-en-tokenizer"),
        threads=2,
    )


def transcribe(pcm: Pcm) -> str:
    """The words in 16 kHz audio; long audio is heard in pieces, parted where it is quietest."""
    return " ".join(recogniser().transcribe(piece) for piece in pieces(pcm)).strip()


def pieces(pcm: Pcm) -> list[Pcm]:
    """Parts of at most 12 s, cut in the middle of the longest pause that lies in the second half of each."""
    limit = _LONGEST_S * INPUT_RATE
    if len(pcm) <= limit:
        return [pcm]
    frames = pcm[limit // 2 : limit].reshape(-1, _FRAME).astype(np.float64)
    quiet = np.sqrt(np.mean(frames**2, axis=1)) < _QUIET
    best, length = len(quiet) // 2, 0
    run = 0
    for index, still in enumerate(quiet):
        run = run + 1 if still else 0
        if run > length:
            best, length = index - run // 2, run
    at = limit // 2 + best * _FRAME
    return [pcm[:at], *pieces(pcm[at:])]
