"""The named moments of a turn, in server monotonic ms, and the spans between them."""

from __future__ import annotations

import time
from typing import Literal

Moment = Literal[
    "user_speech_end",
    "speculation_started",
    "turn_end_decided",
    "first_text",
    "first_codec_frame",
    "first_audio_sent",
    "first_audio_played",
    "interrupt_onset",
    "output_silent",
]

SPANS: dict[str, tuple[Moment, Moment]] = {
    "speech_end_to_turn_decided": ("user_speech_end", "turn_end_decided"),
    "speech_end_to_first_text": ("user_speech_end", "first_text"),
    "speech_end_to_first_audio_sent": ("user_speech_end", "first_audio_sent"),
    "speech_end_to_first_audio_played": ("user_speech_end", "first_audio_played"),
    "interrupt_onset_to_output_silent": ("interrupt_onset", "output_silent"),
}


def monotonic_ms() -> float:
    return time.monotonic() * 1000


class Moments:
    """When what happened in one turn; the first mention of a moment counts."""

    def __init__(self) -> None:
        self._at: dict[Moment, float] = {}
        self._told: set[str] = set()

    def mark(self, moment: Moment, at_ms: float | None = None) -> bool:
        """Note that it happened (now); False if it is known already."""
        if moment in self._at:
            return False
        self._at[moment] = monotonic_ms() if at_ms is None else at_ms
        return True

    def get(self, moment: Moment) -> float | None:
        return self._at.get(moment)

    def all(self) -> dict[str, float]:
        return {name: round(at, 1) for name, at in self._at.items()}

    def new_spans(self) -> dict[str, float]:
        """Lengths in ms of the spans of SPANS that have both their ends; each is told once."""
        spans: dict[str, float] = {}
        for name, (first, last) in SPANS.items():
            if name not in self._told and first in self._at and last in self._at:
                spans[name] = self._at[last] - self._at[first]
        self._told |= spans.keys()
        return spans
