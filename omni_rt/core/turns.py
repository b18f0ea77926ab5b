"""When the user starts to speak, pauses, goes on, and has finished."""

from __future__ import annotations

from dataclasses import dataclass

from omni_rt.core.completeness import Completeness
from omni_rt.core.patience import Patience
from omni_rt.core.timeline import WINDOW_MS, Activity, EndScore

# Speech goes on until the probability has fallen this far below the threshold (Silero's own hysteresis).
RELEASE_MARGIN = 0.15
# The doubt that a turn is over whose words cannot be all of it.
_UNFINISHED = 0.7
# Less than this is no speech whatever the threshold.
LEAST = 0.01


@dataclass(frozen=True, slots=True)
class TurnPolicy:
    """How turns are found; all times in ms.

    With `fixed_silence_ms` a turn ends after exactly that much silence. Without it the end-of-turn score decides: from
    `complete_score` on the turn ends as soon as the score is known, below it the wait grows in proportion to the
    doubt, up to `silence_limit_ms`. What was said changes the score: words that cannot be all of a turn make it
    doubtful, a short answer complete. The person's own pauses move both ends of the wait (`Patience`).

    It takes `onset_ms` of speech to open a turn and as much to go on after a pause, so that a click does neither.
    """

    threshold: float
    onset_ms: int
    pre_roll_ms: int
    check_silence_ms: int
    complete_score: float
    silence_limit_ms: int
    fixed_silence_ms: int | None = None
    speculate_ms: int = 0

    def wait_ms(self, score: float | None, words: Completeness, patience: Patience) -> int:
        """Silence after which the turn is over, given the latest score and what is known of its words."""
        if self.fixed_silence_ms is not None:
            return self.fixed_silence_ms
        limit = patience.limit_ms(self.silence_limit_ms)
        least = patience.least_ms(self.check_silence_ms, limit)
        if words == "complete":
            score = self.complete_score
        if score is None:
            return limit
        doubt = max(0.0, 1 - score / self.complete_score) if self.complete_score else 0.0
        if words == "unfinished":
            doubt = max(doubt, _UNFINISHED)
        return round(least + doubt * (limit - least))


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The user speaks; the first window of speech began at `at_ms`."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class ScoreWanted:
    """Somebody should judge whether the turn is over, on the audio up to `at_ms`."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Hesitated:
    """Silent for `speculate_ms`: a reply may be prepared, unheard."""

    speech_end_ms: int


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """The pause was no end: the user goes on, with speech that began at `at_ms`."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The user has finished; speech ended at `speech_end_ms`, which was known at `decided_ms`."""

    speech_end_ms: int
    decided_ms: int


TurnSignal = SpeechStarted | ScoreWanted | Hesitated | SpeechResumed | TurnEnded


class TurnDetector:
    """From voice activity and end-of-turn scores to turns. Feed windows in order; time is theirs."""

    def __init__(self, policy: TurnPolicy) -> None:
        self.policy = policy
        self._now_ms = 0
        self._run_start_ms = 0
        self._run_ms = 0
        self._score: float | None = None
        self._words: Completeness = "open"
        self._scored_ms = 0
        self.patience = Patience()
        self._asked_ms: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the present utterance, as after a commit by the client."""
        self._speaking = False
        self._speech_end_ms = 0
        self.speech_ms = 0
        self._begin_pause()

    @property
    def now_ms(self) -> int:
        """End of the latest window."""
        return self._now_ms

    @property
    def speech_end_ms(self) -> int:
        """Where the latest speech ended so far."""
        return self._speech_end_ms

    @property
    def silence_ms(self) -> int:
        """How long the open utterance has been silent; 0 while the user may be going on, so that nothing is decided."""
        return 0 if self._run_ms else self._now_ms - self._speech_end_ms

    @property
    def doubtful_ms(self) -> int:
        """Sound that may be the beginning of speech, or of more speech."""
        return self._run_ms

    def wonder_again(self) -> None:
        """Ask for a score of the present pause, and tell of hesitation, though both were done."""
        self._asked_ms = None
        self._hesitated = False

    def step(self, window: Activity) -> list[TurnSignal]:
        before_ms, self._now_ms = self._now_ms or window.at_ms - WINDOW_MS, window.at_ms
        length = window.at_ms - before_ms
        if self._speaking and before_ms == self._speech_end_ms:
            if window.speech < max(LEAST, self.policy.threshold - RELEASE_MARGIN):
                return self._pausing()
            self._speech_end_ms = window.at_ms
            self.speech_ms += length
            return []
        self._listen(window.speech >= max(LEAST, self.policy.threshold), before_ms, length)
        if self._run_ms >= self.policy.onset_ms:
            return [self._take_turn()]
        return self._pausing() if self._speaking else []

    def judge(self, score: EndScore) -> list[TurnSignal]:
        """Take a score; one asked for before the user went on is void."""
        if not self._speaking or score.at_ms <= max(self._speech_end_ms, self._scored_ms):
            return []
        self._score, self._scored_ms = score.probability, score.at_ms
        return self._ended()

    def understood(self, words: Completeness) -> list[TurnSignal]:
        """What is known of the words up to the present pause."""
        if not self._speaking or not self.silence_ms:
            return []
        self._words = words
        return self._ended()

    def _listen(self, speech: bool, start_ms: int, length: int) -> None:
        """Weigh a window outside of speech: one that is none takes away what one that is has given."""
        if not speech:
            self._run_ms = max(0, self._run_ms - length)
            return
        if not self._run_ms:
            self._run_start_ms = start_ms
        self._run_ms += length

    def _take_turn(self) -> SpeechStarted | SpeechResumed:
        resumed, self._speaking = self._speaking, True
        if resumed and self._run_start_ms - self._speech_end_ms >= self.policy.check_silence_ms:
            self.patience.paused(self._run_start_ms - self._speech_end_ms)
        self._speech_end_ms = self._now_ms
        self.speech_ms += self._run_ms
        self._begin_pause()
        return SpeechResumed(self._run_start_ms) if resumed else SpeechStarted(self._run_start_ms)

    def _begin_pause(self) -> None:
        self._run_ms = 0
        self._score = self._asked_ms = None
        self._words = "open"
        self._hesitated = False

    def _pausing(self) -> list[TurnSignal]:
        if ended := self._ended():
            return ended
        signals: list[TurnSignal] = []
        if self.policy.speculate_ms and not self._hesitated and self.silence_ms >= self.policy.speculate_ms:
            self._hesitated = True
            signals.append(Hesitated(self._speech_end_ms))
        if self.policy.fixed_silence_ms is None and self.silence_ms >= self._next_check_ms():
            self._asked_ms = self._now_ms
            signals.append(ScoreWanted(self._now_ms))
        return signals

    def _next_check_ms(self) -> int:
        """Silence at which to ask next: first at `check_silence_ms`, then each time the pause has doubled."""
        if self._asked_ms is None:
            return self.policy.check_silence_ms
        return 2 * (self._asked_ms - self._speech_end_ms)

    def _ended(self) -> list[TurnSignal]:
        if self.silence_ms < self.policy.wait_ms(self._score, self._words, self.patience):
            return []
        self.patience.turn_ended()
        ended = TurnEnded(self._speech_end_ms, self._now_ms)
        self.reset()
        return [ended]
