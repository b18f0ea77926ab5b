"""When the user starts to speak, pauses, goes on, and has finished."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omni_rt.core.completeness import Completeness
from omni_rt.core.patience import Patience
from omni_rt.core.timeline import WINDOW_MS, Activity, EndScore

# Speech goes on until the probability has fallen this far below the threshold (Silero's own hysteresis).
RELEASE_MARGIN = 0.15
# The doubt that a turn is over whose words cannot be all of it.
_UNFINISHED = 0.9
# The doubt about a turn whose score is just complete.
_LEFT = 0.25
# Odds that a pause is the end of a turn if neither witness knows anything; how likely the end must be for no doubt to
# be left, and how the doubt grows below that.
_ODDS, _SURE, _BEND = 1.6, 0.7, 0.6
# A probability is never more certain than that.
_CERTAIN = 1e-5
# A silence of this length inside a turn is a pause that the person makes; what is shorter is the sound of speech.
_PAUSE_MS = 160
# Voice activity notices the end of speech some 60 ms late. Until then it is quiet if the level is below so much of the
# loudest in the utterance; so much quiet is worth a question.
_QUIET, _QUIET_MS = 0.05, 64
# Less than this is no speech whatever the threshold.
LEAST = 0.01
# Speech is beyond doubt so far above the threshold, and from here on. It is in 96 ms of the first 400 that somebody
# says near the microphone, over an echo at -10 dB and 15 dB softer than usual too; in most of a crowd it never is.
_CLEAR_MARGIN, _CLEAR = 0.4, 0.9
# So much of it is somebody's near the microphone. So is an utterance that is so many times as loud as the quietest
# moment of the pause after it, as a whisper is: people behind the speaker are not all silent at once.
NEAR_MS, _STANDS_OUT = 96, 3.0


@dataclass(frozen=True, slots=True)
class Words:
    """What is known of a turn's words: by tables, and how likely a sentence ends with them by a language model."""

    kind: Completeness = "open"
    ending: float | None = None


_UNKNOWN = Words()


@dataclass(frozen=True, slots=True)
class TurnPolicy:
    """How turns are found; all times in ms.

    With `fixed_silence_ms` a turn ends after exactly that much silence. Without it the end-of-turn score decides, which
    is asked for after `check_silence_ms`, or before if it is so quiet that silence is coming. From `sure_score` on the
    turn ends after `least_silence_ms`, or as soon as the score is known; below it the wait grows with the doubt, slowly
    down to `complete_score`, up to `silence_limit_ms`. What was said changes the doubt: words that cannot be all of a
    turn give it; a short answer leaves none, nor do many words with a sure score; and how likely a sentence ends with
    them is one more witness beside the score. Two or three words that need be no more are waited upon for
    `brief_silence_ms` at least, whatever the witnesses say. A word by itself that the second witness doubts, as no
    sentence ends so, is waited upon as long, and by the score beyond that. The person's own pauses move both ends of
    the wait (`Patience`). While the words are asked for (`TurnDetector.await_words`) a turn waits for them up to
    `words_ms`. A turn found by its score is also judged for whose it was: people behind the speaker are no one to
    answer (`TurnEnded.near`).

    It takes `onset_ms` of speech to open a turn and as much to go on after a pause, so that a click does neither; while
    that may be coming no score ends the turn.
    """

    threshold: float
    onset_ms: int
    pre_roll_ms: int
    check_silence_ms: int
    least_silence_ms: int
    complete_score: float
    sure_score: float
    silence_limit_ms: int
    fixed_silence_ms: int | None = None
    speculate_ms: int = 0
    words_ms: int = 0
    brief_silence_ms: int = 0

    def wait_ms(self, score: float | None, words: Words, patience: Patience, *, awaiting_words: bool = False) -> int:
        """Silence after which the turn is over, given the latest score and what is known of its words."""
        if self.fixed_silence_ms is not None:
            return self.fixed_silence_ms
        limit = patience.limit_ms(self.silence_limit_ms)
        least = patience.least_ms(self.least_silence_ms, limit)
        if words.kind == "complete" or (words.kind == "ample" and score is not None and score >= self.sure_score):
            return least
        if score is None:
            return limit
        brief = min(limit, max(least, self.brief_silence_ms))
        if words.kind == "brief":
            least = brief
        doubt = max(self._doubt(score), _UNFINISHED if words.kind == "unfinished" else 0.0)
        wait = by_score = round(least + doubt * (limit - least))
        if words.ending is not None:
            wait = round(least + self._doubt_of_both(score, words.ending) * (limit - least))
        if words.kind == "single":
            wait = min(wait, max(by_score, brief))
        return max(wait, self.words_ms) if awaiting_words else wait

    def _doubt_of_both(self, score: float, ending: float) -> float:
        """Two witnesses that know nothing of each other: their odds multiply. `complete_score` is the score that says
        nothing."""
        evidence = _logit(score) + _logit(ending) - _logit(self.complete_score)
        over = 1 / (1 + math.exp(-evidence) / _ODDS)
        return _UNFINISHED * float(max(0.0, 1 - over / _SURE) ** _BEND)

    def _doubt(self, score: float) -> float:
        """1 at score 0, _LEFT at `complete_score`, 0 from `sure_score` on, linear between them."""
        if score >= self.sure_score or not self.complete_score:
            return 0.0
        if score >= self.complete_score:
            return _LEFT * (self.sure_score - score) / (self.sure_score - self.complete_score)
        return 1 - (1 - (_LEFT if self.sure_score > self.complete_score else 0.0)) * score / self.complete_score


def _logit(probability: float) -> float:
    bounded = min(max(probability, _CERTAIN), 1 - _CERTAIN)
    return math.log(bounded / (1 - bounded))


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
    """The user has finished; speech ended at `speech_end_ms`, which was known at `decided_ms`. If it was not `near`,
    nobody has spoken to the microphone."""

    speech_end_ms: int
    decided_ms: int
    near: bool = True


TurnSignal = SpeechStarted | ScoreWanted | Hesitated | SpeechResumed | TurnEnded


class TurnDetector:
    """From voice activity and end-of-turn scores to turns. Feed windows in order; time is theirs."""

    def __init__(self, policy: TurnPolicy) -> None:
        self.policy = policy
        self._now_ms = 0
        self._run_start_ms = 0
        self._run_ms = self._run_clear_ms = 0
        self._run_loudest, self._quietest = 0.0, math.inf
        self._score: float | None = None
        self._words = _UNKNOWN
        self._awaiting_words = False
        self._scored_ms = 0
        self.patience = Patience()
        self._asked_ms: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the present utterance, as after a commit by the client."""
        self._speaking = False
        self._speech_end_ms = self._loud_end_ms = 0
        self._loudest = 0.0
        self.speech_ms = self.clear_ms = 0
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
                self._quiet(window)
                return self._pausing()
            self._speech_end_ms = window.at_ms
            self.speech_ms += length
            self.clear_ms += length if self._is_clear(window) else 0
            return self._going_quiet(window.level)
        self._listen(window, before_ms, length)
        if self._run_ms >= self.policy.onset_ms:
            return [self._take_turn()]
        return self._pausing() if self._speaking else []

    def judge(self, score: EndScore) -> list[TurnSignal]:
        """Take a score; one asked for before the user went on is void."""
        if not self._speaking or score.at_ms <= max(self._loud_end_ms, self._scored_ms):
            return []
        self._score, self._scored_ms = score.probability, score.at_ms
        return self._ended()

    def await_words(self) -> None:
        """What is known of the words up to the present pause will be told."""
        self._awaiting_words = True

    def understood(self, words: Words, *, final: bool = True) -> list[TurnSignal]:
        """What is known of the words up to the present pause; unless it is `final`, more will be told."""
        if not self._speaking or not self.silence_ms:
            return []
        self._words = words
        self._awaiting_words = self._awaiting_words and not final
        return self._ended()

    def _is_clear(self, window: Activity) -> bool:
        return window.speech >= min(_CLEAR, self.policy.threshold + _CLEAR_MARGIN)

    def _listen(self, window: Activity, start_ms: int, length: int) -> None:
        """Weigh a window outside of speech: one that is none takes away what one that is has given."""
        if window.speech < max(LEAST, self.policy.threshold):
            self._run_ms = max(0, self._run_ms - length)
            self._quiet(window)
            return
        if not self._run_ms:
            self._run_start_ms, self._run_clear_ms, self._run_loudest = start_ms, 0, 0.0
        self._run_ms += length
        self._run_loudest = max(self._run_loudest, window.level or 0.0)
        self._run_clear_ms += length if self._is_clear(window) else 0

    def _quiet(self, window: Activity) -> None:
        if window.level is not None:
            self._quietest = min(self._quietest, window.level)

    @property
    def _near(self) -> bool:
        """Whoever chose a fixed silence, or does not know levels, is not asked."""
        if self.policy.fixed_silence_ms is not None or not self._loudest:
            return True
        return self.clear_ms >= NEAR_MS or self._loudest > _STANDS_OUT * self._quietest

    def _going_quiet(self, level: float | None) -> list[TurnSignal]:
        """Within speech, as far as voice activity knows."""
        self._loudest = max(self._loudest, level or 0.0)
        if level is None or level > _QUIET * self._loudest:
            self._loud_end_ms = self._now_ms
            self._score = self._asked_ms = None
        elif self._now_ms - self._loud_end_ms >= _QUIET_MS and self._wants_score():
            self._asked_ms = self._now_ms
            return [ScoreWanted(self._now_ms)]
        return []

    def _take_turn(self) -> SpeechStarted | SpeechResumed:
        resumed, self._speaking = self._speaking, True
        if resumed and self._run_start_ms - self._speech_end_ms >= _PAUSE_MS:
            self.patience.paused(self._run_start_ms - self._speech_end_ms)
        self._speech_end_ms = self._loud_end_ms = self._now_ms
        self.speech_ms += self._run_ms
        self.clear_ms += self._run_clear_ms
        self._loudest = max(self._loudest, self._run_loudest)
        self._begin_pause()
        return SpeechResumed(self._run_start_ms) if resumed else SpeechStarted(self._run_start_ms)

    def _begin_pause(self) -> None:
        self._run_ms = 0
        self._quietest = math.inf
        self._score = self._asked_ms = None
        self._words = _UNKNOWN
        self._awaiting_words = self._hesitated = False

    def _pausing(self) -> list[TurnSignal]:
        hesitates = (
            bool(self.policy.speculate_ms) and self.silence_ms >= self.policy.speculate_ms and not self._hesitated
        )
        # what is known of the words is asked for now, and told before a score decides
        asks = hesitates and self.policy.fixed_silence_ms is None
        if not asks and (ended := self._ended()):
            return ended
        signals: list[TurnSignal] = []
        if hesitates:
            self._hesitated = True
            signals.append(Hesitated(self._speech_end_ms))
        if self.silence_ms >= self.policy.check_silence_ms and self._wants_score():
            self._asked_ms = self._now_ms
            signals.append(ScoreWanted(self._now_ms))
        return signals

    def _wants_score(self) -> bool:
        """Once in each pause: the longer the silence, the higher the score, whatever was said."""
        return self.policy.fixed_silence_ms is None and self._asked_ms is None

    def _ended(self) -> list[TurnSignal]:
        wait_ms = self.policy.wait_ms(self._score, self._words, self.patience, awaiting_words=self._awaiting_words)
        resuming = self._run_ms > 0 and self.policy.fixed_silence_ms is None
        if self.silence_ms < wait_ms or resuming:
            return []
        self.patience.turn_ended()
        ended = TurnEnded(self._speech_end_ms, self._now_ms, self._near)
        self.reset()
        return [ended]
