"""A room for echo: what a microphone picks up of a reply that is played, of a person and of noise, over lossy Opus.

All sound is 16 kHz unless said otherwise; levels are dB between root mean squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.opus import OpusDecoder, OpusEncoder
from omni_rt.media.resample import resample

Sound = npt.NDArray[np.float64]

PACKET_MS = 20


@dataclass(frozen=True, slots=True)
class Room:
    """`delay_ms`: (from, delay) pairs, the sound heard from `from` ms on is that much older; `drift_ppm` is added.
    `level_db`: pairs in the same way, loudness of the echo against the reply as it was sent. `reverberation_s`: T60.
    `noise_db` is against full scale. `loss` of packets each way; None: no codec at all."""

    delay_ms: Sequence[tuple[float, float]] = ((0, 120),)
    level_db: Sequence[tuple[float, float]] = ((0, -20),)
    reverberation_s: float = 0.35
    noise_db: float = -65
    loss: float | None = 0.0
    drift_ppm: float = 0.0
    seed: int = 0

    def microphone(self, reply: Pcm, person: Pcm) -> Pcm:
        """What the server hears when it sends `reply` (24 kHz) while `person` speaks; as long as `person`."""
        rng = np.random.default_rng(self.seed)
        sent = reply if self.loss is None else through_opus(reply, OUTPUT_RATE, INPUT_RATE, self.loss, rng)
        played = (resample(sent, OUTPUT_RATE, INPUT_RATE) if self.loss is None else sent).astype(np.float64)
        played = np.concatenate([played, np.zeros(max(0, len(person) - len(played)))])[: len(person)]
        echo = _convolve(played, self._response(rng))
        voiced = np.abs(played) > 100
        echo *= _rms(played[voiced]) / max(_rms(echo[voiced]), 1e-9) if voiced.any() else 0.0
        echo = self._late(echo) * 10 ** (_steps(self.level_db, len(person)) / 20)
        noise = _pink(len(person), rng) * 32768 * 10 ** (self.noise_db / 20)
        heard = np.clip(person + echo + noise, -32768, 32767).astype(np.int16)
        return heard if self.loss is None else through_opus(heard, INPUT_RATE, INPUT_RATE, self.loss, rng)

    def _late(self, sound: Sound) -> Sound:
        now = np.arange(len(sound), dtype=np.float64)
        source = now * (1 + self.drift_ppm * 1e-6) - _steps(self.delay_ms, len(sound)) * INPUT_RATE / 1000
        return np.interp(source, now, sound, left=0.0, right=0.0)

    def _response(self, rng: np.random.Generator) -> Sound:
        """A direct sound, a dense tail, a small loudspeaker."""
        length = round(self.reverberation_s * INPUT_RATE)
        tail = rng.normal(0, 1, length) * 10 ** (-3 * np.arange(length) / max(1, length))
        response = np.concatenate([[8.0], 0.7 * tail]) if length else np.ones(1)
        size = 2048
        frequency = np.fft.rfftfreq(size, 1 / INPUT_RATE)
        ripple = np.interp(frequency, np.linspace(0, 8000, 12), rng.normal(0, 4, 12))
        gain = 10 ** (ripple / 20) / (1 + (250 / np.maximum(frequency, 1)) ** 4) / (1 + (frequency / 6000) ** 4)
        return _convolve(response, np.roll(np.fft.irfft(gain), 64)[:256])


def through_opus(pcm: Pcm, rate: int, out_rate: int, loss: float, rng: np.random.Generator) -> Pcm:
    """In packets of 20 ms, of which a share is lost and concealed, without the codec's delay."""
    encoder, decoder = OpusEncoder(rate, 32_000), OpusDecoder(out_rate)
    packet = rate * PACKET_MS // 1000
    padded = np.concatenate([pcm, np.zeros(-len(pcm) % packet + packet, np.int16)])
    out = []
    for frame in padded.reshape(-1, packet):
        payload = encoder.encode(frame, not frame.any())
        lost = rng.random() < loss
        out.append(decoder.conceal(out_rate * PACKET_MS // 1000) if lost else decoder.decode(payload))
    ahead = out_rate * 13 // 2000
    return np.concatenate(out)[ahead : ahead + len(pcm) * out_rate // rate]


def _convolve(sound: Sound, response: Sound) -> Sound:
    size = 1 << (len(sound) + len(response)).bit_length()
    product = np.fft.rfft(sound, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(sound)]


def _steps(pairs: Sequence[tuple[float, float]], length: int) -> Sound:
    starts = np.array([at for at, _ in pairs]) * INPUT_RATE / 1000
    values = np.array([value for _, value in pairs], np.float64)
    return values[np.maximum(0, np.searchsorted(starts, np.arange(length), side="right") - 1)]


def _pink(length: int, rng: np.random.Generator) -> Sound:
    spectrum = np.fft.rfft(rng.normal(0, 1, length))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)) / len(spectrum), 1e-3))
    noise = np.fft.irfft(spectrum, length)
    return noise / _rms(noise)


def _rms(sound: Sound) -> float:
    return float(np.sqrt(np.mean(sound**2))) if len(sound) else 0.0
