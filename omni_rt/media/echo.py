"""The assistant's own voice in the microphone: found by its fine structure, taken out before voice activity is judged.

The server knows what it plays but not when it is heard. Each spectrum of the microphone is compared with all that were
played within the last second, or four: harmonics of one voice agree at one delay again and again, those of another
person by chance only. At that delay the spectrum that the loudspeaker, the room and the codec leave is expected and
subtracted, with a gain for each band that is learnt while the echo is alone. What is left is for voice activity to
judge, as far as there is anything left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_rt.core.timeline import SAMPLES_PER_MS
from omni_rt.engine.api import Pcm
from omni_rt.media.echo_delay import Delay
from omni_rt.media.playback import (
    BINS,
    DECAY,
    FRAME,
    HOP,
    Complex,
    Playback,
    Real,
    fingerprints,
    frames_of,
    powers,
    window,
)
from omni_rt.media.vad import WINDOW

QUEUED_MS, PACED_MS = 4096, 1024
"""How late an echo may come of sound that the client queues, and of sound that is sent as it is played."""

_WINDOW = window(FRAME)

# Power of a line of white noise of amplitude 1; what counts as nothing in the microphone and in a reply.
_UNIT = FRAME * 3 / 8
_MIC_LEAST = np.float32(_UNIT * 4**2)
_REPLY_LEAST = _UNIT * 30**2
_JUDGED = slice(6, 120)  # lines from 190 Hz to 3.75 kHz
_SOUND = 0.15  # decades above the noise

_NOISE_HOPS, _NOISE_BIAS = 96, np.float32(2)  # the least of that many is so much below the mean

# Of what was played, with its tail: half is heard one hop early (the delay lies between hops), and as much one late.
_HEARD = np.array([0.5, 1 - DECAY / 2, 1 - DECAY], np.float32)
_TAIL_HOPS = 16
# Lines of a spectrum scatter about the power that is expected, more so while its gain is new.
_MARGIN, _MARGIN_NEW = np.float32(7), np.float32(14)

_BAND = 8
_BANDS = (BINS - 1) // _BAND
_EDGES = np.arange(0, BINS - 1, _BAND)
_FAST_HOPS, _NEW_HOPS = 15, 40

# What stands out by so little, in decades, averaged over the lines, is none; it fades so fast.
_LEFT = 0.02
_LEFT_FADES = 0.7

# What is left of an echo counts for less the more decibels were taken out of it, from the first to the second number,
# and the softer it is, from the first root mean square to the second: voice activity hears speech at any loudness.
_TAKEN_OUT, _SOFT = (6.0, 12.0), (70.0, 35.0)

# Sound, in spectra of full weight, that is not judged before it can be compared: at first, while not so many hops were
# played in all, more of it if it seemed to be an echo so many hops ago; and within so many hops from the beginning of a
# reply (after a rest).
_FIRST, _FIRST_LIKE = 5.0, 11.0
_FIRST_HOPS, _SEEMED_HOPS = 320, 8
_HELD = 5.0
_BEGUN, _REST = 20, 30

# Hops of replies that nothing was heard of, after which no echo is expected.
_UNHEARD = 40

# Unexplained sound, in hops, for which the echo may have moved, by so many hops; and the quiet before the next.
_DOUBT, _MOVED, _DOUBT_AGAIN = 16, 10, 20


@dataclass(frozen=True, slots=True)
class Heard:
    """A window without the assistant's voice, and how much of what was in it is explained by that voice, 0 to 1."""

    pcm: Pcm
    explained: float


class Echo:
    """One session's echo, at most `longest_ms` late; one thread at a time. What comes out depends on the calls and
    their order only.

    `hear` gives the microphone as it is until an echo was found and while none can be heard, else 16 ms late.
    """

    def __init__(self, longest_ms: int) -> None:
        self._lags = longest_ms * SAMPLES_PER_MS // HOP
        self._played = Playback(self._lags, _REPLY_LEAST)
        self._delay = Delay(self._lags)
        self._noise = _Noise()
        self._gain = _Gain()
        self._at = 0
        self._before = np.zeros(HOP, np.float32)
        self._tail = np.zeros(HOP, np.float32)
        self._left = 0.0
        self._playing = self._rest = self._begun = self._unheard = self._seemed = 0
        self._calm = self._doubted = 0
        self._listening = self._suppressing = False

    @property
    def delay_ms(self) -> float | None:
        """From sending to hearing, as far as it is known."""
        return None if self._delay.lag is None else self._delay.lag * HOP / 16

    def played(self, pcm: Pcm, stream_ms: float, now: int) -> None:
        """24 kHz sound of a reply was sent, at `stream_ms` of the outgoing track, when `now` 16 kHz samples of the
        microphone had come."""
        self._played.sent.add(pcm, stream_ms, now)

    def stopped(self, now: int) -> None:
        """What was sent and would be played later than about now will not be."""
        self._played.sent.stop(now)

    def hear(self, window: Pcm, at: int) -> Heard:
        """The 512 samples of the microphone from its sample `at` on, a multiple of 512; later ones in each call."""
        if at != self._at:
            self._listening = False
        self._at = at + WINDOW
        if self._idle(at):
            self._listening = self._suppressing = False
            self._before = window[-HOP:].astype(np.float32)
            return Heard(window, 0.0)
        if not self._listening:
            self._listening, self._rest = True, _REST
            self._played.clear()
        sound = np.concatenate([self._before, window.astype(np.float32)])
        spectra, power = powers(frames_of(sound) * _WINDOW)
        live = self._played.advance(at)
        self._count(live)
        expected = self._expect(power)
        self._seemed = _SEEMED_HOPS if self._delay.suspects else max(0, self._seemed - 2)
        self._doubt_echo(live)
        if self._delay.lag is None:
            self._suppressing = False
            pcm, soft = window, 0.0
        else:
            if not self._suppressing:
                self._suppressing = True
                self._tail = self._before * _WINDOW[HOP:]
            pcm, soft = self._suppress(spectra, power, expected)
        self._before = sound[-HOP:]
        return Heard(pcm, 1.0 if self._undecided() else max(soft, 1.0 - min(1.0, self._left / _LEFT)))

    def _idle(self, at: int) -> bool:
        """Nothing that was played can be heard in the window from `at` on."""
        lag = self._delay.lag
        lags = self._lags if lag is None else min(self._lags, lag + _TAIL_HOPS)
        return self._played.sent.end + lags * HOP <= at

    def _count(self, live: bool) -> None:
        self._playing += 2
        self._begun += 2
        if not live:
            self._rest += 2
            return
        if self._rest >= _REST:
            self._begun = 0
        self._rest = 0

    def _undecided(self) -> bool:
        """Too little was heard to tell the echo's delay, or its loudness."""
        delay = self._delay
        if delay.lag is None:
            return (
                not delay.unlikely
                and self._playing < _FIRST_HOPS
                and delay.heard < (_FIRST_LIKE if self._seemed else _FIRST)
            )
        if self._gain.learnt < _FAST_HOPS // 2 and delay.agrees:
            return True
        return self._begun < delay.lag + _BEGUN and delay.heard < _HELD

    def _doubt_echo(self, live: bool) -> None:
        """Who hears nothing of a reply for so long has headphones, or a canceller that works."""
        if self._delay.lag is not None:
            self._unheard = 0
        elif live and not self._delay.hearing:
            self._unheard += 2
        self._delay.unlikely = self._unheard >= _UNHEARD

    def _expect(self, power: Real) -> Real:
        """The echo's power in both hops of a window, with a margin; learns by the way."""
        prints = fingerprints(power, _MIC_LEAST)
        expected = np.zeros_like(power)
        for index, ago in enumerate((1, 0)):
            noise = self._noise.follow(power[index])
            sound = min(1.0, _decades(power[index], 2 * noise))
            self._locate(prints[index], sound if sound > _SOUND else 0.0, ago)
            left = 1.0
            if self._delay.lag is not None:
                expected[index], left = self._expect_at(self._delay.lag, power[index], noise, ago)
            self._left = max(left, _LEFT_FADES * self._left)
        return expected

    def _locate(self, fingerprint: Real, weight: float, ago: int) -> None:
        known = self._delay.lag is not None
        if weight:
            self._delay.hear(self._played.likeness(fingerprint, ago), weight)
        else:
            self._delay.hear_nothing()
        if not known:
            self._gain.learnt = 0

    def _expect_at(self, lag: int, power: Real, noise: Real, ago: int) -> tuple[Real, float]:
        """The echo's power in one hop, and by how much the microphone's stands out of it."""
        delay, gain = self._delay, self._gain
        heard = self._played.power(lag - 1, _HEARD, ago)
        agrees = delay.agrees
        if agrees and delay.hearing:
            gain.learn(heard, power, noise)
        if delay.elsewhere is not None:
            self._left = 0.0
            heard = np.maximum(heard, self._played.power(delay.elsewhere - 1, _HEARD, ago))
        lines = gain.lines * (_MARGIN if gain.learnt > _NEW_HOPS else _MARGIN_NEW)
        expected = lines * heard
        left = _decades(power, expected + 2 * noise)
        if self._doubts(left) and left >= _LEFT and not agrees:
            heard = np.maximum(heard, self._played.loudest(lag - _MOVED, 2 * _MOVED + 1, ago))
            expected = lines * heard
            left = _decades(power, expected + 2 * noise)
        return expected, left

    def _doubts(self, left: float) -> bool:
        """Something unexplained has just begun: the delay may have changed."""
        if left >= _LEFT:
            self._calm = 0
            self._doubted += 1
        else:
            self._calm += 1
            if self._calm >= _DOUBT_AGAIN:
                self._doubted = 0
        return self._doubted <= _DOUBT

    def _suppress(self, spectra: Complex, power: Real, expected: Real) -> tuple[Pcm, float]:
        """The microphone without the echo, and how little that is, 0 to 1."""
        around = power.copy()
        around[:, 1:-1] += power[:, :-2] + power[:, 2:]
        around[:, 1:-1] /= 3
        floor = np.minimum(1, self._noise.power / np.maximum(power, 1))
        kept = np.sqrt(np.maximum(1 - expected / np.maximum(around, 1), floor))
        first, second = np.fft.irfft(spectra * kept)
        out = np.concatenate([self._tail + first[:HOP], first[HOP:] + second[:HOP]])
        self._tail = second[HOP:]
        return np.asarray(np.clip(np.rint(out), -32768, 32767), np.int16), _softness(power, kept)


class _Noise:
    """The room's noise: of each line the least power within the last 1.5 to 3 seconds."""

    def __init__(self) -> None:
        self.power = np.zeros(BINS, np.float32)
        self._smooth: Real | None = None
        self._least = np.zeros(BINS, np.float32)
        self._before = np.zeros(BINS, np.float32)
        self._count = 0

    def follow(self, power: Real) -> Real:
        if self._smooth is None:
            self._smooth = power.copy()
            self._least = self._before = self._smooth.copy()
        self._smooth += np.float32(0.4) * (power - self._smooth)
        self._least = np.minimum(self._least, self._smooth)
        self._count += 1
        if self._count == _NOISE_HOPS:
            self._count = 0
            self._before, self._least = self._least, self._smooth.copy()
        self.power = _NOISE_BIAS * np.minimum(self._before, self._least)
        return self.power


class _Gain:
    """How loud the echo is against what was played, by bands, in dB; follows the louder moments, at first quickly."""

    def __init__(self) -> None:
        self.learnt = 0
        self.lines = np.zeros(BINS, np.float32)
        """The same for each line, as a factor of power."""
        self._bands = np.zeros(_BANDS, np.float32)

    def learn(self, played: Real, power: Real, noise: Real) -> None:
        sent, got, quiet = (np.add.reduceat(lines[:-1], _EDGES) for lines in (played, power, noise))
        excess = got - quiet
        clear = (excess > 2 * quiet) & (sent > _BAND * _REPLY_LEAST)
        if not clear.any():
            return
        ratio = 10 * np.log10(np.maximum(excess, 1) / np.maximum(sent, 1))
        if not self.learnt:
            self._bands[:] = np.median(ratio[clear])
        up, down = (6.0, 2.0) if self.learnt < _FAST_HOPS else (1.0, 0.25)
        self._bands += np.where(clear, np.clip(ratio - self._bands, -down, up), 0)
        self.learnt += 1
        gain = 10 ** (self._bands * np.float32(0.1))
        self.lines[:-1] = np.repeat(gain, _BAND)
        self.lines[-1] = gain[-1]


def _softness(power: Real, kept: Real) -> float:
    """Of what is left of spectra, `kept` of each line's amplitude: 0 if it is loud, or most of what was there."""
    before, after = (float(lines.sum()) + 1.0 for lines in (power, power * kept**2))
    taken_out = 10 * np.log10(before / after)
    level = np.sqrt(2 * after / (len(power) * FRAME * _UNIT))
    return float(_between(taken_out, _TAKEN_OUT) * _between(level, _SOFT))


def _between(value: float, ends: tuple[float, float]) -> float:
    return min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))


def _decades(power: Real, known: Real) -> float:
    """By how many decades a spectrum stands out of what is known, averaged over its lines; 3 at most for each."""
    ratio = (power[_JUDGED] + _MIC_LEAST) / (known[_JUDGED] + _MIC_LEAST)
    return float(np.log10(np.minimum(np.maximum(ratio, 1), 1000)).sum()) / len(ratio)
