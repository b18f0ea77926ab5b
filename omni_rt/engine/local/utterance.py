"""What the user is saying: its audio, and what was understood of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import INPUT_RATE, Pcm

_FRAME = INPUT_RATE // 50
_FRAMES_PER_S = INPUT_RATE // _FRAME
# A frame this far below the loudest one of its utterance is a pause; so is one below the floor. Above the second share
# somebody surely speaks.
_PAUSE_SHARE, _FIRM_SHARE = 0.05, 0.1
_FLOOR = 20.0

# So much silence is worth a recognition; if sound follows, it was no pause, and there will be another.
PAUSE_MS = 60
# What is not firm for so long is the beginning of a pause; for longer than the second, it is how somebody speaks.
_FADING_MS = (40, 400)

# A piece is cut at a pause once it is _FROM long, and at its quietest place when it is _MOST long. Half a second at
# either side must be there, so that the same pieces come out however much audio follows.
_FROM_S, _MOST_S = 6, 20
_WINDOW = _FRAMES_PER_S // 5
_QUIET_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Understood:
    """Text of the first `samples` samples of an utterance."""

    samples: int
    text: str


@dataclass(frozen=True, slots=True)
class _Level:
    """After a chunk: samples so far, where the last loud frame and the last firm one ended, the loudest frame."""

    samples: int = 0
    loud_until: int = 0
    firm_until: int = 0
    peak: float = 0.0


@dataclass(slots=True, eq=False)
class Utterance:
    """Audio is only ever added at the end, or cut back to an earlier end; `cuts` counts how often. `error` says why it
    could not be understood for good."""

    item_id: str = ""
    final: str | None = None
    error: str = ""
    settled: list[Understood] = field(default_factory=list)
    latest: Understood | None = None
    cuts: int = 0
    _draft: tuple[int, tuple[int, ...]] = (0, ())
    _chunks: list[Pcm] = field(default_factory=list)
    _levels: list[_Level] = field(default_factory=lambda: [_Level()])

    @property
    def samples(self) -> int:
        return self._levels[-1].samples

    @property
    def chunks(self) -> int:
        """How many chunks of audio there are; `cut` takes such a number."""
        return len(self._chunks)

    @property
    def pausing(self) -> bool:
        """Whether the speaker has stopped for PAUSE_MS."""
        level = self._levels[-1]
        return level.peak > 0 and level.samples - level.loud_until >= PAUSE_MS * INPUT_RATE // 1000

    @property
    def fading(self) -> bool:
        """Whether a pause seems to begin, of which nothing is understood yet."""
        level = self._levels[-1]
        fading_ms = (level.samples - level.firm_until) * 1000 // INPUT_RATE
        return _FADING_MS[0] <= fading_ms < _FADING_MS[1] and not self.complete

    @property
    def complete(self) -> bool:
        """Whether nothing was said after what is understood."""
        return self.latest is not None and self.latest.samples >= self.needed

    @property
    def needed(self) -> int:
        """Samples that must be understood for nothing to be missed."""
        level = self._levels[-1]
        return min(level.samples, level.loud_until + PAUSE_MS * INPUT_RATE // 1000) if level.peak else level.samples

    @property
    def expected(self) -> str:
        """The words that will probably stand when more is heard: the last one is often another then."""
        text = self.latest.text if self.latest is not None else ""
        return text if self.complete else " ".join(text.split()[:-1])

    def worth_hearing(self, every: int) -> bool:
        """Whether to recognise it again: `every` so many samples, and at a pause."""
        if self.pausing:
            return not self.complete
        if self.fading:
            return False
        return self.samples - (self.latest.samples if self.latest else 0) >= every

    def append(self, pcm: Pcm) -> None:
        if not len(pcm):
            return
        last = self._levels[-1]
        # only whole frames count, so that it does not matter how the audio is cut into chunks
        begun = last.samples // _FRAME * _FRAME
        sound = np.concatenate([self.audio(begun), pcm])
        levels = _frame_levels(sound[: len(sound) // _FRAME * _FRAME])
        peaks = np.maximum.accumulate(np.maximum(last.peak, np.where(levels > _FLOOR, levels, 0.0)))

        def until(share: float, before: int) -> int:
            above = np.flatnonzero(levels > np.maximum(_FLOOR, share * peaks))
            return begun + (int(above[-1]) + 1) * _FRAME if len(above) else before

        loud, firm = until(_PAUSE_SHARE, last.loud_until), until(_FIRM_SHARE, last.firm_until)
        peak = float(peaks[-1]) if len(peaks) else last.peak
        self._chunks.append(pcm)
        self._levels.append(_Level(last.samples + len(pcm), loud, firm, peak))

    def cut(self, chunks: int) -> None:
        """Go back to when there were `chunks` chunks; takes no time that grows with the audio."""
        self.cuts += 1
        del self._chunks[chunks:]
        del self._levels[chunks + 1 :]
        while self.settled and self.settled[-1].samples > self.samples:
            self.settled.pop()
        if self.latest is not None and self.latest.samples > self.samples:
            self.latest = None

    def audio(self, start: int = 0) -> Pcm:
        """A copy of the audio from sample `start` on."""
        chunks = []
        for chunk, level in zip(reversed(self._chunks), reversed(self._levels), strict=False):
            if level.samples <= start:
                break
            chunks.append(chunk)
        if not chunks:
            return np.zeros(0, np.int16)
        joined = np.concatenate(chunks[::-1])
        return joined[len(joined) - max(0, self.samples - start) :]

    def draft(self, start: int) -> tuple[int, ...]:
        """What the recogniser wrote last of the audio from sample `start` on: it will write much the same of more."""
        return self._draft[1] if self._draft[0] == start else ()

    def understand(self, last: Understood, tokens: tuple[int, ...] = ()) -> None:
        """Take what was recognised behind the settled pieces, in the recogniser's tokens too."""
        self._draft = self.settled[-1].samples if self.settled else 0, tokens
        text = " ".join(part.text for part in (*self.settled, last) if part.text)
        self.latest = Understood(last.samples, text)


def next_cut(pcm: Pcm) -> int | None:
    """Where to cut the first piece off long 16 kHz audio, in samples; None while it may stay whole."""
    if len(pcm) < (_FROM_S + 1) * 2 * INPUT_RATE:
        return None
    levels = _frame_levels(pcm)
    window = np.convolve(levels, np.ones(_WINDOW, np.float32) / _WINDOW, mode="valid")
    loud = float(np.percentile(levels[: _FROM_S * _FRAMES_PER_S], 90))
    reach = window[_FROM_S * _FRAMES_PER_S : _MOST_S * _FRAMES_PER_S]
    reach = reach[: max(0, len(window) - _FROM_S * _FRAMES_PER_S - _FRAMES_PER_S)]
    quiet = np.flatnonzero(reach < _QUIET_SHARE * loud)
    if len(quiet):
        place = int(quiet[0])
    elif len(levels) >= (_MOST_S + 1) * _FRAMES_PER_S:
        place = int(reach.argmin())
    else:
        return None
    return (_FROM_S * _FRAMES_PER_S + place + _WINDOW // 2) * _FRAME


def _frame_levels(pcm: Pcm) -> npt.NDArray[np.float32]:
    """RMS of each 20 ms; a rest counts as a frame of its own."""
    whole = len(pcm) // _FRAME * _FRAME
    frames = pcm[:whole].reshape(-1, _FRAME).astype(np.float32)
    levels = np.sqrt(np.einsum("ij,ij->i", frames, frames) / _FRAME)
    rest = pcm[whole:].astype(np.float32)
    return np.append(levels, np.sqrt(rest @ rest / len(rest))).astype(np.float32) if len(rest) else levels
