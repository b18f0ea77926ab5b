"""What the stock clients say and show, as they send it; and what was said to them, in words."""

from __future__ import annotations

from functools import cache

import numpy as np

from omni_rt.client.words import normalise
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.resample import resample
from tests.support.ears import transcribe
from tests.support.local import to_input_rate, voice
from tests.support.speech import clip

# Longer than any pause within a turn that the server waits for.
PAUSE_S = 2.0


def question(text: str, rate: int = OUTPUT_RATE) -> bytes:
    """A voice that says `text`, and the pause after it: PCM 16 bit."""
    return _wire(resample(_said(text), OUTPUT_RATE, rate), rate)


@cache
def _said(text: str) -> Pcm:
    return voice().speak(text).pcm


def human(name: str, rate: int = OUTPUT_RATE) -> bytes:
    """A clip of human speech, and the pause after it: PCM 16 bit."""
    return _wire(resample(clip(name).pcm, INPUT_RATE, rate), rate)


def _wire(pcm: Pcm, rate: int) -> bytes:
    return np.concatenate([pcm, np.zeros(round(PAUSE_S * rate), np.int16)]).tobytes()


def words(sound: bytes) -> list[str]:
    """The words in PCM 16 bit, 24 kHz, as the local recogniser hears them."""
    return normalise(transcribe(to_input_rate(np.frombuffer(sound, np.int16))))
