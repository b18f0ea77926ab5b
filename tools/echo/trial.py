"""Replies as a transport sends them, and what hearing makes of the microphone meanwhile, in no time.

All sound is 16 kHz unless said otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omni_rt.core.timeline import WINDOW_MS, Activity
from omni_rt.core.turns import SpeechStarted, TurnDetector, TurnPolicy
from omni_rt.engine.api import OUTPUT_RATE, Pcm
from omni_rt.media.echo import PACED_MS, Echo
from omni_rt.media.vad import WINDOW, SileroVad, VadState
from tools.echo.room import PACKET_MS, Sound


@dataclass(frozen=True, slots=True)
class Sent:
    """24 kHz sound of a reply that leaves `at_ms` after the beginning and is `stream_ms` into the outgoing track."""

    pcm: Pcm
    at_ms: float
    stream_ms: float


def replies(sentences: Sequence[Pcm], seconds: float, rng: np.random.Generator, pause_s: float = 1.5) -> Pcm:
    """24 kHz: half a second of silence, then replies of one to three sentences with pauses of half to all of `pause_s`
    between."""
    out = [np.zeros(OUTPUT_RATE // 2, np.int16)]
    while sum(map(len, out)) < seconds * OUTPUT_RATE:
        for _ in range(rng.integers(1, 4)):
            out += [sentences[int(rng.integers(len(sentences)))], np.zeros(OUTPUT_RATE // 5, np.int16)]
        out.append(np.zeros(round(rng.uniform(0.5, 1) * pause_s * OUTPUT_RATE), np.int16))
    return np.concatenate(out)[: round(seconds * OUTPUT_RATE)]


def paced(reply: Pcm) -> list[Sent]:
    """As WebRTC sends it: 20 ms at a time, and silence counts as well."""
    size = OUTPUT_RATE * PACKET_MS // 1000
    frames = reply[: len(reply) // size * size].reshape(-1, size)
    return [Sent(frame, n * PACKET_MS, n * PACKET_MS) for n, frame in enumerate(frames) if frame.any()]


def queued(reply: Pcm) -> list[Sent]:
    """As a WebSocket sends it: each reply, up to half a second of silence, at once; the client plays it."""
    sent: list[Sent] = []
    stream_ms = 0.0
    begin = end = None
    for frame in paced(reply):
        if begin is not None and end is not None and frame.at_ms - end > 500:
            pcm = reply[round(begin * 24) : round(end * 24)]
            sent.append(Sent(pcm, begin, stream_ms))
            stream_ms += len(pcm) / 24
            begin = None
        begin = frame.at_ms if begin is None else begin
        end = frame.at_ms + PACKET_MS
    if begin is not None and end is not None:
        sent.append(Sent(reply[round(begin * 24) : round(end * 24)], begin, stream_ms))
    return sent


@dataclass(frozen=True, slots=True)
class Judged:
    """Of each window of 32 ms: the probability of speech in the microphone as it came (`plain`) and in what Echo left
    of it (`suppressed`), how much Echo explained, and the seconds that it took."""

    plain: Sound
    suppressed: Sound
    explained: Sound
    seconds: Sound

    @property
    def gated(self) -> Sound:
        return self.plain * (1 - self.explained)

    @property
    def speech(self) -> Sound:
        """As Hearing reports it."""
        return self.suppressed * (1 - self.explained)


def judge(
    vad: SileroVad, microphone: Pcm, sent: Sequence[Sent], echo: Echo | None = None, plain: bool = True
) -> Judged:
    """What hearing would make of it."""
    echo = echo or Echo(PACED_MS)
    due = sorted(sent, key=lambda piece: piece.at_ms, reverse=True)
    states = VadState(), VadState()
    rows = []
    for at in range(0, len(microphone) // WINDOW * WINDOW, WINDOW):
        window = microphone[at : at + WINDOW]
        begin = time.perf_counter()
        while due and due[-1].at_ms * 16 < at + WINDOW:
            piece = due.pop()
            echo.played(piece.pcm, piece.stream_ms, round(piece.at_ms * 16))
        heard = echo.hear(window, at)
        took = time.perf_counter() - begin
        rows.append(
            (vad.step(states[0], window) if plain else 0.0, vad.step(states[1], heard.pcm), heard.explained, took)
        )
    return Judged(*np.array(rows).T)


@dataclass(frozen=True, slots=True)
class Turns:
    """When the core would have opened an utterance (or ducked), and when it would have stopped a reply, in ms."""

    opened: Sequence[int]
    interrupted: Sequence[int]


def turns(speech: Sound, interrupt_ms: int = 224, yield_ms: int = 200) -> Turns:
    """By the core's own rules with the settings' defaults."""
    detector = TurnDetector(TurnPolicy(0.5, 96, 300, 64, 160, 0.5, 0.93, 1600, fixed_silence_ms=1600))
    opened: list[int] = []
    interrupted: list[int] = []
    for index, probability in enumerate(speech):
        now = (index + 1) * WINDOW_MS
        opened += [now for signal in detector.step(Activity(now, probability)) if isinstance(signal, SpeechStarted)]
        if len(interrupted) < len(opened) and detector.speech_ms >= interrupt_ms:
            interrupted += [0] * (len(opened) - len(interrupted) - 1) + [now]
        if detector.speech_ms and detector.silence_ms >= yield_ms:
            detector.reset()
    return Turns(opened, [at for at in interrupted if at])
