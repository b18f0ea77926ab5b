"""Who has the turn: a state machine from what is heard, judged, made and played to what is to be done.

Pure and synchronous. In come voice activity, end-of-turn scores, the reply's progress and the client's wishes; each
call returns the actions to take, in order. A reply is known by its generation; what belongs to an older one is stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omni_rt.core.actions import (
    AbandonReply,
    Action,
    CloseUtterance,
    DropUtterance,
    FinishReply,
    JudgeEnd,
    OpenUtterance,
    ReleaseReply,
    StartReply,
    StopReason,
    StopReply,
)
from omni_rt.core.ducking import Ducking
from omni_rt.core.idleness import Idleness
from omni_rt.core.overheard import Meaning
from omni_rt.core.overlap import Overlap, OverlapPolicy, Verdict
from omni_rt.core.timeline import Activity, EarlyActivity, EndScore
from omni_rt.core.turns import (
    Hesitated,
    ScoreWanted,
    SpeechResumed,
    SpeechStarted,
    TurnDetector,
    TurnEnded,
    TurnPolicy,
    TurnSignal,
    Words,
)

# Speech that ended so little later than the words that are known was not more of it.
_PAUSE_MS = 100


@dataclass(frozen=True, slots=True)
class DuplexPolicy:
    """`turns` None is push-to-talk: only the client opens and closes turns. Times in ms.

    `overlap` says what of the speech over a reply is an interruption. What is none is an answer if it came within the
    last `answer_ms` of the reply. A window that is speech with a probability of `duck_threshold` ducks the reply,
    without one its onset does. An utterance has `speculations` held replies at most, and one more for every second of
    speech. `idle_ms` after a reply was heard, if nobody has spoken since, another is made; None: never.
    """

    turns: TurnPolicy | None
    overlap: OverlapPolicy
    create_reply: bool = True
    interrupt_reply: bool = True
    duck_threshold: float | None = None
    answer_ms: int = 500
    speculations: int = 3
    idle_ms: int | None = None


class ReplyPhase(Enum):
    NONE = "none"
    HELD = "held"
    """speculative: being made, unheard"""
    MAKING = "making"
    """being made, nothing sent yet"""
    SPEAKING = "speaking"
    """audio is being sent"""


class Duplex:
    """The turn-taking of one session.

    The floor is the user's while an utterance is open and found by its silence; no reply begins then. One that is owed
    begins as soon as the floor is free and no other is made or played.
    """

    def __init__(self, policy: DuplexPolicy, first_generation: int = 1) -> None:
        self._generation = first_generation - 1
        self._phase = ReplyPhase.NONE
        self._made = False
        self._owed = False
        self._utterance_open = False
        self._speculated = 0
        self._overlap: Overlap | None = None
        # where the latest speech ended if all that it said was that the assistant be silent
        self._hushed_ms: int | None = None
        self._aside: tuple[int, int] | None = None
        self._taken_ms = 0
        self._idleness = Idleness()
        self._ducking = Ducking()
        self.policy = policy
        self._turns = TurnDetector(policy.turns) if policy.turns else None

    @property
    def generation(self) -> int:
        """The newest reply's number."""
        return self._generation

    @property
    def phase(self) -> ReplyPhase:
        return self._phase

    @property
    def reply_active(self) -> bool:
        """A reply that the client knows of is being made or played."""
        return self._phase in (ReplyPhase.MAKING, ReplyPhase.SPEAKING)

    @property
    def making(self) -> bool:
        """A reply that the client knows of is not fully made yet."""
        return self.reply_active and not self._made

    @property
    def utterance_open(self) -> bool:
        return self._utterance_open

    @property
    def idle_from_ms(self) -> int | None:
        """Where the latest reply had been heard, if nobody has spoken since; the audio from there on may be needed."""
        return self._idleness.from_ms if self.policy.idle_ms is not None else None

    @property
    def judged_ms(self) -> int | None:
        """Up to where the microphone's audio was judged; None where it is not."""
        return self._turns.now_ms if self._turns is not None else None

    def set_policy(self, policy: DuplexPolicy) -> list[Action]:
        """Change the rules between or during turns.

        In push-to-talk an open utterance waits for the client's commit. One that the client opened and has not
        committed when turns are found again was nothing.
        """
        self.policy = policy
        if policy.turns is None:
            self._turns = self._aside = None
            self._idleness.end()
            return [*self._abandon(), *self._end_overlap(), *self._settle()]
        if self._turns is not None:
            self._turns.policy = policy.turns
            return []
        dropped: list[Action] = [DropUtterance()] if self._utterance_open else []
        self._utterance_open = False
        self._turns = TurnDetector(policy.turns)
        return dropped

    # -- hearing

    def activity(self, window: Activity) -> list[Action]:
        """One window of microphone audio."""
        if self._turns is None:
            return []
        actions: list[Action] = []
        worth = self._ducking.hear(window, self.policy.duck_threshold)
        for signal in self._turns.step(window):
            actions += self._on_signal(signal)
        if self._overlap is not None:
            actions += self._judge_overlap(self._overlap, self._turns)
        else:
            actions += self._duck_early(self._turns, worth)
        return actions or self._judge_idleness(self._turns)

    def early_activity(self, sound: EarlyActivity) -> list[Action]:
        """Nothing but a duck can come of it, and the next window ends that if it was nothing."""
        if self._turns is None or self._overlap is not None or not self._may_duck:
            return []
        return self._ducking.begin() if self._ducking.hear_early(sound, self.policy.duck_threshold) else []

    def score(self, score: EndScore) -> list[Action]:
        """An end-of-turn score asked for with JudgeEnd."""
        actions: list[Action] = []
        for signal in self._turns.judge(score) if self._turns else []:
            actions += self._on_signal(signal)
        return actions

    def understood(self, words: Words, *, final: bool = True) -> list[Action]:
        """What is known of the words of the open utterance, whose reply is being prepared; unless `final`, more will
        be told."""
        actions: list[Action] = []
        for signal in self._turns.understood(words, final=final) if self._turns and self._utterance_open else []:
            actions += self._on_signal(signal)
        return actions

    def overheard(self, at_ms: int, kind: Meaning) -> list[Action]:
        """What was said over the reply up to `at_ms`, asked for with Overhear."""
        overlap = self._overlap
        return [] if overlap is None else self._decide(overlap, overlap.overheard(at_ms, kind))

    # -- the reply's progress

    def reply_sent(self, generation: int) -> list[Action]:
        """Audio of the reply has begun to leave."""
        if generation == self._generation and self._phase is ReplyPhase.MAKING:
            self._phase = ReplyPhase.SPEAKING
        return []

    def reply_made(self, generation: int) -> list[Action]:
        """The engine has finished the reply (or failed to)."""
        if generation == self._generation and self._phase is not ReplyPhase.NONE:
            self._made = True
        return []

    def reply_played(self, generation: int) -> list[Action]:
        """Everything that was made has been heard."""
        if generation != self._generation or not self._made or not self.reply_active:
            return []
        return [FinishReply(generation), *self._end_reply(), *self._answer_aside(), *self._settle()]

    # -- the client's wishes

    def create_reply(self) -> list[Action]:
        """`response.create`: at once, or when what is being said by either side has been said."""
        abandoned = self._abandon()
        self._owed = True
        return [*abandoned, *self._settle()]

    def cancel_reply(self, reason: StopReason = "client_cancelled") -> list[Action]:
        """Stop the active reply, or a held one."""
        return [*self._stop(reason), *self._settle()] if self.reply_active else self._abandon()

    def clear_output(self) -> list[Action]:
        """`output_audio_buffer.clear`: stop the reply that is being heard; one that nobody hears yet goes on."""
        return self.cancel_reply() if self._phase is ReplyPhase.SPEAKING else []

    def open_by_client(self, at_ms: int) -> list[Action]:
        """Push-to-talk: audio from here on is the user's turn."""
        if self._utterance_open or self._turns is not None:
            return []
        self._utterance_open = True
        return [OpenUtterance(at_ms, at_ms)]

    def commit_by_client(self, at_ms: int) -> list[Action]:
        """`input_audio_buffer.commit`: the open utterance ends here; no reply by itself."""
        if not self._utterance_open:
            return []
        abandoned = self._abandon()
        self._close_turn(at_ms)
        return [*abandoned, CloseUtterance(at_ms), *self._settle()]

    def clear_by_client(self) -> list[Action]:
        """`input_audio_buffer.clear`: the open utterance never was."""
        actions = [*self._abandon(), *self._end_overlap()]
        if self._utterance_open:
            actions.append(DropUtterance())
        self._close_turn(self._turns.now_ms if self._turns else 0)
        return [*actions, *self._settle()]

    def transport_lost(self) -> list[Action]:
        """Nobody listens any more. What the user said so far stays said; nothing is answered.

        What the client would have had to commit was not said.
        """
        self._owed = False
        actions = [*self._abandon(), *self._end_overlap(), *self.cancel_reply("transport_lost")]
        if self._utterance_open:
            actions.append(CloseUtterance(self._turns.speech_end_ms) if self._turns else DropUtterance())
        self._close_turn(self._turns.now_ms if self._turns else 0)
        return actions

    def engine_lost(self) -> list[Action]:
        """The reply that was being made is gone; a fully made one plays on, an open utterance stays open."""
        return self.cancel_reply("engine_lost") if self.making or self._phase is ReplyPhase.HELD else []

    # -- inside: hearing

    def _on_signal(self, signal: TurnSignal) -> list[Action]:
        match signal:
            case SpeechStarted(at_ms):
                return self._speech_started(at_ms)
            case ScoreWanted(at_ms):
                return [JudgeEnd(at_ms)] if self._utterance_open else []
            case Hesitated():
                return self._speculate()
            case SpeechResumed():
                return self._abandon()
            case TurnEnded(speech_end_ms, near=near):
                return self._turn_ended(speech_end_ms, near)

    def _speech_started(self, at_ms: int) -> list[Action]:
        if self._overlap is not None:
            self._overlap.goes_on()
            return []
        if self.reply_active and self.policy.interrupt_reply:
            self._overlap = Overlap(at_ms, self.policy.overlap)
            return self._ducking.begin()
        return [self._open(at_ms)]

    def _open(self, speech_ms: int) -> OpenUtterance:
        """With the pre-roll, but not again with what belonged to an earlier turn."""
        assert self._turns is not None
        self._utterance_open = True
        self._speculated = 0
        self._idleness.end()
        from_ms = max(self._taken_ms, speech_ms - self._turns.policy.pre_roll_ms)
        return OpenUtterance(from_ms, max(from_ms, speech_ms))

    def _turn_ended(self, speech_end_ms: int, near: bool = True) -> list[Action]:
        """What nobody near the microphone said is kept, and not answered."""
        if not self._utterance_open:
            return self._overlap_over(speech_end_ms)
        hushed = self._hushed_ms is not None and speech_end_ms <= self._hushed_ms
        close = CloseUtterance(speech_end_ms)
        self._close_turn(speech_end_ms)
        if self._phase is ReplyPhase.HELD and near:
            self._phase = ReplyPhase.MAKING
            return [close, ReleaseReply(self._generation)]
        abandoned = self._abandon()
        self._owed = self._owed or (self.policy.create_reply and near and not hushed)
        return [*abandoned, close, *self._settle()]

    def _close_turn(self, taken_ms: int) -> None:
        self._utterance_open = False
        self._aside = self._hushed_ms = None
        self._taken_ms = max(self._taken_ms, taken_ms)
        if self._turns is not None:
            self._turns.reset()

    # -- inside: silence

    def _judge_idleness(self, turns: TurnDetector) -> list[Action]:
        timeout = None if turns.doubtful_ms else self._idleness.judge(turns.now_ms, self.policy.idle_ms)
        if timeout is None:
            return []
        self._close_turn(turns.now_ms)
        return [timeout, self._start(speculative=False)]

    # -- inside: speech over a reply

    def _duck_early(self, turns: TurnDetector, worth: bool) -> list[Action]:
        """Before it is known whether it is speech."""
        doubtful = self.policy.duck_threshold is not None and (worth or turns.doubtful_ms > 0)
        if doubtful and self._may_duck:
            return self._ducking.begin()
        return [] if doubtful else self._ducking.end()

    @property
    def _may_duck(self) -> bool:
        return self.policy.interrupt_reply and self.reply_active and not self._utterance_open

    def _judge_overlap(self, overlap: Overlap, turns: TurnDetector) -> list[Action]:
        actions, verdict = overlap.step(
            turns.speech_ms, turns.clear_ms, turns.silence_ms, turns.speech_end_ms, turns.now_ms
        )
        return [*actions, *self._decide(overlap, verdict)]

    def _decide(self, overlap: Overlap, verdict: Verdict | None) -> list[Action]:
        if verdict == "interruption":
            hushed_ms = overlap.end_ms + _PAUSE_MS if overlap.wants_quiet else None
            self._learn(overlap)
            actions = self._stop("turn_detected", overlap.start_ms)
            self._hushed_ms = hushed_ms
            if overlap.ended:
                actions += self._turn_ended(overlap.end_ms)
            return actions
        return self._set_aside(overlap) if verdict == "aside" else []

    def _learn(self, overlap: Overlap) -> None:
        """Who goes on before anything was answered, and so soon that it was a pause, was cut in on."""
        pause_ms, turns = overlap.start_ms - self._taken_ms, self._turns
        if self._phase is ReplyPhase.MAKING and turns is not None and 0 < pause_ms <= turns.policy.silence_limit_ms:
            turns.patience.cut_in(pause_ms)

    def _overlap_over(self, speech_end_ms: int) -> list[Action]:
        """The turn detector has found an end, and begins anew."""
        overlap = self._overlap
        if overlap is None:
            return []
        overlap.over(speech_end_ms)
        return [] if overlap.policy.by_words else self._set_aside(overlap)

    def _set_aside(self, overlap: Overlap) -> list[Action]:
        """It was no interruption."""
        if overlap.is_near:
            self._aside = overlap.start_ms, overlap.end_ms
        if self._turns is not None:
            self._turns.reset()
        return self._end_overlap()

    def _answer_aside(self) -> list[Action]:
        """The reply has just ended: a short word over its last moments is the user's turn."""
        aside, self._aside = self._aside, None
        if aside is None or self._turns is None or self._utterance_open:
            return []
        start_ms, end_ms = aside
        if self._turns.now_ms - end_ms > self.policy.answer_ms:
            return []
        return [self._open(start_ms), *self._turn_ended(end_ms)]

    def _end_overlap(self) -> list[Action]:
        self._overlap = None
        return self._ducking.end()

    # -- inside: replies

    def _speculate(self) -> list[Action]:
        if not self._utterance_open or not self.policy.create_reply or self._owed or self._hushed_ms is not None:
            return []
        if self._phase is not ReplyPhase.NONE or self._turns is None:
            return []
        if self._speculated >= self.policy.speculations + self._turns.speech_ms // 1000:
            return []
        self._speculated += 1
        self._turns.await_words()
        return [self._start(speculative=True)]

    def _settle(self) -> list[Action]:
        """Start the reply that is owed, if the floor is free."""
        users_floor = self._utterance_open and self._turns is not None
        if not self._owed or users_floor or self._phase is not ReplyPhase.NONE:
            return []
        return [self._start(speculative=False)]

    def _start(self, speculative: bool) -> StartReply:
        self._owed = self._made = False
        self._aside = None
        self._idleness.end()
        self._generation += 1
        self._phase = ReplyPhase.HELD if speculative else ReplyPhase.MAKING
        return StartReply(self._generation, speculative)

    def _abandon(self) -> list[Action]:
        if self._phase is not ReplyPhase.HELD:
            return []
        self._phase, self._made = ReplyPhase.NONE, False
        return [AbandonReply(self._generation)]

    def _stop(self, reason: StopReason, onset_ms: int | None = None) -> list[Action]:
        return [StopReply(self._generation, reason, onset_ms), *self._end_reply()]

    def _end_reply(self) -> list[Action]:
        """The reply is over. Speech that overlapped it, if any, has the turn now."""
        self._phase, self._made = ReplyPhase.NONE, False
        if self._turns is not None and not self._utterance_open:
            self._idleness.begin()
        overlap = self._overlap
        actions = self._end_overlap()
        if overlap is not None:
            if self._turns is not None:
                self._turns.wonder_again()
            actions.append(self._open(overlap.start_ms))
        return actions
