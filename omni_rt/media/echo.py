"""The assistant's own voice in the microphone: found by its fine structure, taken out before voice activity is judged.

The server knows what it plays but not when it is heard. Each spectrum of the microphone is compared with all that were
played within the last two seconds: harmonics of one voice agree at one delay again and again, those of another person
by chance only. At that delay the spectrum that the loudspeaker, the room and the codec leave is expected and
subtracted, with a gain for each band that is learnt while the echo is alone. What is left is for voice activity to
judge, as far as there is anything left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_rt.engine.api import Pcm
from omni_rt.media.playback import BINS, FRAME, HOP, Playback, Real, fingerprint, window
from omni_rt.media.vad import WINDOW

_LAGS = 128
_HOPS = WINDOW // HOP

_UNIT = FRAME * 3 / 8  # power of a spectral line of white noise of amplitude 1
_MIC_LEAST = _UNIT * 4**2
_REPLY_LEAST = _UNIT * 30**2
_JUDGED = slice(6, 120)  # 190 Hz to 3.75 kHz

# Of what was played, how much is heard one hop early (the delay lies between hops), at the delay, and as it dies away.
_DECAY = np.concatenate([[0.5, 1.0, 1.0], 10 ** (-0.2 * np.arange(1, 13))]).astype(np.float32)
_MARGIN = np.float32(10**0.85)  # lines of a spectrum scatter about the expected power

_SOUND = 0.15  # decades above the noise
_SHORT, _LONG = np.float32(0.8), np.float32(0.97)
_SHORT_LEAST, _LONG_LEAST = 2.5, 6.0
_ALIKE, _LIKELY, _CERTAIN = 0.3, 0.4, 0.25
_NEAR, _LIKELY_NEAR = 10, 0.32
_DOUBT, _DOUBT_GAP = 16, 20
_BETTER = 0.08
_PROBATION = 30
_HOLD, _HOLD_GAP = 5.0, 10
_HOLD_PLAYED = 320
_FRESH = 20
_REST = 30

_BAND = 8
_BANDS = (BINS - 1) // _BAND
_FAST_HOPS = 15
_STEADY = np.float32(3)
_SURE_HOPS, _UNSURE = 40, np.float32(3)

_LEFT = 0.02
_LEFT_FADES = 0.7


@dataclass(frozen=True, slots=True)
class Heard:
    """A window without the assistant's voice, and how much of what was in it is explained by that voice, 0 to 1."""

    pcm: Pcm
    explained: float


class Echo:
    """One session's echo. Everything is deterministic in the order of the calls; one thread at a time.

    While something was played within the last two seconds, what `hear` gives lags by 16 ms.
    """

    def __init__(self) -> None:
        self._played = Playback(_LAGS, _REPLY_LEAST)
        self._at = 0
        self._before = np.zeros(HOP, np.float32)
        self._tail = np.zeros(HOP, np.float32)
        self._noise: Real | None = None
        self._smooth = np.zeros(BINS, np.float32)
        self._short = np.zeros(_LAGS, np.float32)
        self._short_weight = 0.0
        self._long = np.zeros(_LAGS, np.float32)
        self._long_weight = 0.0
        self._lag: int | None = None
        self._probation = 0
        self._gain = np.zeros(_BANDS, np.float32)
        self._learnt = 0
        self._sounding = 0.0
        self._gap = self._playing = self._rest = self._fresh = 0
        self._left = 0.0
        self._calm = self._doubted = 0
        self._active = False

    @property
    def delay_ms(self) -> float | None:
        """From sending to hearing, as far as it is known."""
        return None if self._lag is None else self._lag * HOP / 16

    def played(self, pcm: Pcm, stream_ms: float, now: int) -> None:
        """24 kHz sound of a reply that was sent, at `stream_ms` of the outgoing track, when `now` 16 kHz samples of the
        microphone had come."""
        self._played.timeline.add(pcm, stream_ms, now)

    def stopped(self, now: int) -> None:
        """What was sent and would be played later than about now will not be."""
        self._played.timeline.stop(now)

    def hear(self, window: Pcm, at: int) -> Heard:
        """The 512 samples of the microphone from its sample `at` on, a multiple of 512; later ones in each call."""
        if at != self._at:
            self._played.clear()
        self._at = at + WINDOW
        if self._idle(at):
            self._active = False
            self._before = window[-HOP:].astype(np.float32)
            return Heard(window, 0.0)
        if not self._active:
            self._active, self._rest = True, _REST
            self._played.clear()
            self._tail = self._before * _WINDOW[HOP:]
        hops = window.astype(np.float32).reshape(_HOPS, HOP)
        out = [self._hop(samples, at // HOP + index) for index, samples in enumerate(hops)]
        pcm = np.clip(np.rint(np.concatenate(out)), -32768, 32767).astype(np.int16)
        if self._undecided():
            return Heard(pcm, 1.0)
        return Heard(pcm, 1.0 - min(1.0, self._left / _LEFT))

    def _idle(self, at: int) -> bool:
        """Nothing is being played that could be heard in the window from `at` on."""
        lag = _LAGS if self._lag is None else min(_LAGS, self._lag + len(_DECAY) + 4)
        return self._played.timeline.end + lag * HOP <= at

    def _undecided(self) -> bool:
        """Too little was heard to tell the echo's delay, or its loudness."""
        if self._lag is None:
            return self._playing < _HOLD_PLAYED and self._sounding < _HOLD
        if self._learnt < _FAST_HOPS // 2 and self._agrees(self._lag):
            return True
        return self._fresh < self._lag + _FRESH and self._sounding < _HOLD

    def _hop(self, samples: Real, hop: int) -> Real:
        played = self._played
        played.advance(hop)
        spectrum = np.fft.rfft(np.concatenate([self._before, samples]) * _WINDOW)
        self._before = samples
        power = np.asarray(spectrum.real**2 + spectrum.imag**2, np.float32)
        noise = self._follow_noise(power)
        expected: Real | None = None
        left = 1.0
        if not played.silent:
            self._playing += 1
            if played.live:
                self._fresh = 0 if self._rest >= _REST else self._fresh + 1
                self._rest = 0
            else:
                self._rest += 1
                self._fresh += 1
            sound = self._sound(power, noise)
            lag, other = self._locate(power, sound)
            if lag is not None:
                heard = played.power(lag - 1, _DECAY)
                if sound and self._agrees(lag):
                    self._learn(heard, power, noise)
                if other is not None:
                    self._left = 0.0
                    heard = np.maximum(heard, played.power(other - 1, _DECAY))
                margin = _MARGIN if self._learnt > _SURE_HOPS else _MARGIN * _UNSURE
                gain = self._per_line() * margin
                expected = gain * heard
                left = self._excess(power, noise, expected)
                doubted = self._doubt(left) and not self._agrees(lag)
                if doubted and left >= _LEFT:
                    heard = np.maximum(heard, _STEADY * played.loudest(lag - _NEAR, 2 * _NEAR + 1))
                    expected = gain * heard
                    left = self._excess(power, noise, expected)
        self._left = max(left, _LEFT_FADES * self._left)
        return self._suppress(spectrum, power, noise, expected)

    def _excess(self, power: Real, noise: Real, expected: Real) -> float:
        """Decades by which the microphone's lines stand out of what is expected, on average."""
        least = np.float32(_MIC_LEAST)
        ratio = (power[_JUDGED] + least) / (expected[_JUDGED] + 2 * noise[_JUDGED] + least)
        return float(np.log10(np.clip(ratio, 1, 100)).mean())

    def _doubt(self, left: float) -> bool:
        """Something unexplained has just begun: the delay may have changed."""
        if left < _LEFT:
            self._calm += 1
            if self._calm >= _DOUBT_GAP:
                self._doubted = 0
        else:
            self._calm = 0
            self._doubted += 1
        return self._doubted <= _DOUBT

    def _follow_noise(self, power: Real) -> Real:
        if self._noise is None:
            self._noise, self._smooth = power + 1, power.copy()
        self._smooth += np.float32(0.4) * (power - self._smooth)
        self._noise = np.minimum(self._noise * np.float32(1.004), np.maximum(self._smooth, 1))
        return self._noise

    def _sound(self, power: Real, noise: Real) -> float:
        """How far the microphone's sound stands out of the noise: 0 if it does not, up to 1."""
        ratio = (power[_JUDGED] + np.float32(_MIC_LEAST)) / (2 * noise[_JUDGED] + np.float32(_MIC_LEAST))
        decades = float(np.log10(np.clip(ratio, 1, 1000)).mean())
        return 0.0 if decades < _SOUND else min(1.0, decades)

    def _locate(self, power: Real, sound: float) -> tuple[int | None, int | None]:
        """The lag of the echo, and another one at which it seems to be just now."""
        if sound:
            likeness = self._played.likeness(fingerprint(power, _MIC_LEAST)) * np.float32(sound)
            self._short = _SHORT * self._short + likeness
            self._short_weight = float(_SHORT) * self._short_weight + sound
            self._long = _LONG * self._long + likeness
            self._long_weight = float(_LONG) * self._long_weight + sound
            self._sounding, self._gap = self._sounding + sound, 0
        else:
            self._gap += 1
            if self._gap >= _HOLD_GAP:
                self._sounding = 0.0
                self._short *= _SHORT
                self._short_weight *= float(_SHORT)
        best = int(self._long.argmax())
        certainty = self._at_long(best)
        if self._lag is None:
            if certainty > _CERTAIN:
                self._lag, self._probation = best, 0
        elif best != self._lag and certainty > _CERTAIN and certainty > self._at_long(self._lag) + _BETTER:
            self._lag, self._probation = best, 0
        newest = int(self._short.argmax())
        likely = self._at_short(newest)
        if self._lag is None:
            if likely > _LIKELY:
                self._lag, self._probation, self._learnt = newest, _PROBATION, 0
        elif self._probation and sound:
            self._probation -= 1
            if self._at_long(self._lag) > _CERTAIN:
                self._probation = 0
            elif not self._probation:
                self._lag = None
        if self._lag is None:
            return None, None
        aside = newest - self._lag
        least = _LIKELY_NEAR if abs(aside) <= _NEAR else _LIKELY
        elsewhere = likely > least and not -1 <= aside <= 3
        return self._lag, newest if elsewhere else None

    def _at_short(self, lag: int) -> float:
        return float(self._short[lag]) / max(self._short_weight, _SHORT_LEAST)

    def _at_long(self, lag: int) -> float:
        return float(self._long[lag]) / max(self._long_weight, _LONG_LEAST)

    def _agrees(self, lag: int) -> bool:
        """Just now the microphone hears mainly the echo."""
        around = self._short[max(0, lag - 1) : lag + 2]
        return float(around.max()) > _ALIKE * max(self._short_weight, _SHORT_LEAST)

    def _learn(self, heard: Real, power: Real, noise: Real) -> None:
        """Gain per band in dB: follows the louder moments, at first quickly."""
        sent, got, quiet = (np.add.reduceat(p[:-1], _EDGES) for p in (heard, power, noise))
        excess = got - quiet
        clear = (excess > 2 * quiet) & (sent > _BAND * _REPLY_LEAST)
        if not clear.any():
            return
        ratio = 10 * np.log10(np.maximum(excess, 1) / np.maximum(sent, 1))
        if not self._learnt:
            self._gain[:] = np.median(ratio[clear])
        up, down = (6.0, 2.0) if self._learnt < _FAST_HOPS else (1.0, 0.25)
        self._gain += np.where(clear, np.clip(ratio - self._gain, -down, up), 0)
        self._learnt += 1

    def _per_line(self) -> Real:
        gain = 10 ** (self._gain * np.float32(0.1))
        return np.append(np.repeat(gain, _BAND), gain[-1])

    def _suppress(self, spectrum: np.ndarray, power: Real, noise: Real, expected: Real | None) -> Real:
        if expected is not None:
            around = power.copy()
            around[1:-1] += power[:-2] + power[2:]
            around[1:-1] /= 3
            floor = np.minimum(1, noise / np.maximum(power, 1))
            spectrum = spectrum * np.sqrt(np.maximum(1 - expected / np.maximum(around, 1), floor))
        frame = np.fft.irfft(spectrum).astype(np.float32)
        out = self._tail + frame[:HOP]
        self._tail = frame[HOP:]
        return out


_WINDOW = window(FRAME)
_EDGES = np.arange(0, BINS - 1, _BAND)
