"""Who takes part in a scripted dialogue: the user's voice, the judge of turn ends, the engine, the loudspeaker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from omni_rt.core.timeline import WINDOW_MS, Activity

WORD_MS = 200
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True, slots=True)
class Sound:
    """Something at the microphone; `speech` is how much the voice activity detector believes in it, `level` its root
    mean square out of 32768."""

    start_ms: int
    end_ms: int
    text: str = ""
    speech: float = 0.95
    level: float = 1500.0


def noise(start_ms: int, end_ms: int, every_ms: int, bump_ms: int = WINDOW_MS, speech: float = 0.8) -> list[Sound]:
    """Energy without words, which now and then looks like speech for a moment."""
    return [Sound(at, at + bump_ms, "", speech) for at in range(start_ms, end_ms, every_ms)]


@dataclass(frozen=True, slots=True)
class Voice:
    """All that reaches the microphone. What is silent otherwise has `room` as its level; None: levels are not
    known."""

    sounds: tuple[Sound, ...]
    room: float | None = None

    def activity(self, at_ms: int) -> Activity:
        """The window that ends at `at_ms`: what fills at least half of it counts."""
        start = at_ms - WINDOW_MS
        heard = [s for s in self.sounds if min(at_ms, s.end_ms) - max(start, s.start_ms) >= WINDOW_MS // 2]
        speech = max((s.speech for s in heard), default=0.02)
        if self.room is None:
            return Activity(at_ms, speech)
        return Activity(at_ms, speech, max((s.level for s in heard), default=self.room))

    def words(self, from_ms: int, to_ms: int) -> str:
        """What of it has its middle inside a stretch of audio."""
        return " ".join(s.text for s in self.sounds if s.text and from_ms <= (s.start_ms + s.end_ms) / 2 < to_ms)


@dataclass(slots=True)
class Judge:
    """Gives one score after the other, the last one for ever; `delay_ms` after it was asked, None never."""

    scores: Sequence[float] | Callable[[int], float] = (0.9,)
    delay_ms: int | None = 60
    _asked: int = 0

    def score(self, at_ms: int) -> float:
        if callable(self.scores):
            return self.scores(at_ms)
        self._asked += 1
        return self.scores[min(self._asked, len(self.scores)) - 1]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the engine makes one reply: `audio_ms` of speech in chunks, `speed` times as fast as it is spoken.

    `first_text_ms` and `first_audio_ms` count from the request. Words are WORD_MS long each.
    """

    audio_ms: int = 1600
    first_text_ms: int = 150
    first_audio_ms: int = 400
    chunk_ms: int = 400
    speed: float = 4.0
    call: bool = False
    end: Literal["completed", "failed"] = "completed"

    def chunks(self) -> list[tuple[int, int]]:
        """(ms after the request, ms of audio) of each chunk."""
        starts = range(0, self.audio_ms, self.chunk_ms)
        return [(round(self.first_audio_ms + at / self.speed), min(self.chunk_ms, self.audio_ms - at)) for at in starts]

    @property
    def made_ms(self) -> int:
        return self.chunks()[-1][0] if self.audio_ms else self.first_text_ms


def words_of(audio_ms: float) -> str:
    """The words that are whole in the first `audio_ms` of a reply."""
    return " ".join(WORDS[k % len(WORDS)] for k in range(int(audio_ms) // WORD_MS))


@dataclass(frozen=True, slots=True)
class Played:
    """A piece of a reply: when it left, when it came out of the loudspeaker, how loud."""

    generation: int
    reply_ms: int
    duration_ms: int
    sent_ms: int
    heard_ms: int
    gain: float


@dataclass(slots=True)
class Loudspeaker:
    """The way out: 20 ms frames in real time, heard `delay_ms` later; or, with `client_plays`, chunks as they come.

    `reports` are the times at which the client says where its loudspeaker is.
    """

    delay_ms: int = 80
    client_plays: bool = False
    reports: Sequence[int] = ()
    queue: list[list[int]] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    sent: dict[int, int] = field(default_factory=dict)
    played: list[Played] = field(default_factory=list)
    gain: float = 1.0
    held: bool = False

    def put(self, generation: int, audio_ms: int) -> None:
        self.queue.append([generation, audio_ms])

    def take(self, now_ms: int, frame_ms: int) -> Played | None:
        """The frame that leaves now; with `client_plays` a whole chunk."""
        while self.queue and not self.queue[0][1]:
            self.queue.pop(0)
        if not self.queue or self.held:
            return None
        generation, left = self.queue[0]
        duration = left if self.client_plays else min(frame_ms, left)
        self.queue[0][1] -= duration
        at = self.sent.get(generation, 0)
        self.sent[generation] = at + duration
        heard = now_ms + self.delay_ms
        if self.played:
            heard = max(heard, self.played[-1].heard_ms + self.played[-1].duration_ms)
        self.played.append(Played(generation, at, duration, now_ms, heard, self.gain))
        return self.played[-1]

    def clear(self, now_ms: int) -> None:
        """Forget what has not left; a client that plays forgets what it has not played."""
        self.queue.clear()
        if self.client_plays:
            self.played = [
                Played(p.generation, p.reply_ms, min(p.duration_ms, now_ms - p.heard_ms), p.sent_ms, p.heard_ms, p.gain)
                for p in self.played
                if p.heard_ms < now_ms
            ]

    def heard(self, generation: int, now_ms: int) -> int:
        """What a person at the loudspeaker has truly heard of a reply."""
        of_it = (p for p in self.played if p.generation == generation)
        return sum(max(0, min(p.duration_ms, now_ms - p.heard_ms)) for p in of_it)
