"""Helpers of the local engine's tests: a voice that plays the user, pictures, and what a session tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from omni_rt.engine.api import (
    INPUT_RATE,
    OUTPUT_RATE,
    AudioDelta,
    CallDelta,
    Chunk,
    Ending,
    EngineError,
    EngineLost,
    EngineSession,
    Pcm,
    ReplyEnd,
    Rgb,
    TextDelta,
    Transcript,
)
from omni_rt.engine.local.session import LocalSession
from omni_rt.engine.local.tts import Voice

PACKET = INPUT_RATE // 50

PHOTOS = Path(__file__).parents[1] / "data" / "photos"


@cache
def voice() -> Voice:
    return Voice("heart")


def to_input_rate(pcm: Pcm) -> Pcm:
    """24 kHz sound at 16 kHz; plain interpolation is enough for a recogniser."""
    count = len(pcm) * INPUT_RATE // OUTPUT_RATE
    places = np.arange(count) * OUTPUT_RATE / INPUT_RATE
    return np.interp(places, np.arange(len(pcm)), pcm).astype(np.int16) if count else np.zeros(0, np.int16)


def spoken(text: str) -> Pcm:
    """A person who says `text`, 16 kHz, with silence around it."""
    pause = np.zeros(INPUT_RATE // 4, np.int16)
    return np.concatenate([pause, to_input_rate(voice().speak(text).pcm), pause])


def photo(name: str) -> Rgb:
    return np.asarray(Image.open(PHOTOS / f"{name}.jpg").convert("RGB"))


def sign(*lines: str) -> Rgb:
    """A picture of a sign with these words."""
    image = Image.new("RGB", (640, 480), (230, 230, 220))
    drawing, font = ImageDraw.Draw(image), ImageFont.load_default(60)
    for number, line in enumerate(lines):
        drawing.text((80, 100 + 120 * number), line, fill=(20, 20, 60), font=font)
    return np.asarray(image)


class Listener:
    """Keeps what an engine session tells."""

    def __init__(self) -> None:
        self.partials: list[str] = []
        self.finals: dict[str, str] = {}
        self.endings: list[Ending] = []
        self.errors: list[EngineError] = []

    def on_transcript(self, transcript: Transcript) -> None:
        if transcript.final:
            self.finals[transcript.item_id] = transcript.text
        else:
            self.partials.append(transcript.text)

    def on_ending(self, ending: Ending) -> None:
        self.endings.append(ending)

    def on_error(self, error: EngineError) -> None:
        self.errors.append(error)

    def on_lost(self, error: EngineLost) -> None:
        raise error


@dataclass(slots=True)
class Made:
    """All of one reply."""

    text: str
    audio: list[AudioDelta]
    calls: list[CallDelta]
    end: ReplyEnd

    @property
    def sound(self) -> Pcm:
        return np.concatenate([np.zeros(0, np.int16), *(chunk.pcm for chunk in self.audio)])


async def collect(chunks: AsyncIterator[Chunk]) -> Made:
    found = [chunk async for chunk in chunks]
    end = found[-1]
    assert isinstance(end, ReplyEnd)
    assert not any(isinstance(chunk, ReplyEnd) for chunk in found[:-1])
    return Made(
        "".join(chunk.text for chunk in found if isinstance(chunk, TextDelta)),
        [chunk for chunk in found if isinstance(chunk, AudioDelta)],
        [chunk for chunk in found if isinstance(chunk, CallDelta)],
        end,
    )


def hear(session: EngineSession, pcm: Pcm) -> None:
    """Give a session audio in packets of 20 ms, all at once."""
    for start in range(0, len(pcm), PACKET):
        session.append_audio(pcm[start : start + PACKET])


async def at_rest(session: LocalSession) -> None:
    """Until the session has nothing left to do by itself."""
    for _ in range(6000):
        if session.idle:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the session does not come to rest")
