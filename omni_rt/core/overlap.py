"""Speech over a reply: an interruption, a backchannel, or noise?

Where somebody can tell the words of what is being said, the reply is ducked, then held, and the words decide; a reply
that was held in vain goes on where it stood. Where nobody can, the length of the speech decides. People behind the
speaker do not count: what they say is hardly ever speech beyond doubt.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from omni_rt.core.actions import Action, Duck, Hold, Overhear
from omni_rt.core.overheard import Meaning
from omni_rt.core.turns import NEAR_MS

Verdict = Literal["interruption", "aside"]


@dataclass(frozen=True, slots=True)
class OverlapPolicy:
    """Times in ms. `interrupt_ms` of speech make an interruption, `yield_ms` of silence before that a backchannel. Less
    than `clear_ms` of speech beyond doubt is noise whatever words are found in it, unless they are to stop.

    With `by_words` the reply is held after `hold_ms` of speech. The words of the latest `clip_ms` are asked for after
    `sure_ms` of speech or when it is over, and again with every `again_ms` more; when none were found after the
    `asks`th time it is noise, and the reply goes on softly, as it does after the first while nothing in them is beyond
    doubt. Speech of `limit_ms` is an interruption unless no words were found in it, and noise if nothing is beyond
    doubt. When the words of something that is over are not known after `patience_ms` of silence, its length decides,
    more leniently: it must have been twice as long.
    """

    interrupt_ms: int
    clear_ms: int = NEAR_MS
    yield_ms: int = 200
    by_words: bool = False
    hold_ms: int = 160
    sure_ms: int = 384
    clip_ms: int = 2560
    limit_ms: int = 1600
    patience_ms: int = 800
    again_ms: int = 256
    asks: int = 3


class Overlap:
    """One of them, from `start_ms` on until it is judged, or the latest `clip_ms` of a noise. Feed `step` with each
    window of activity."""

    def __init__(self, start_ms: int, policy: OverlapPolicy) -> None:
        self.start_ms = start_ms
        self.policy = policy
        self.speech_ms = 0
        self.end_ms = start_ms
        self.ended = False
        """the turn detector has already found it to be over"""
        self._before_ms = 0
        self._counted_ms = 0
        # where and how much speech beyond doubt there was lately
        self._beyond_doubt: deque[tuple[int, int]] = deque()
        self._silence_ms = 0
        self._held = False
        self._asked_ms: int | None = None
        self._asked_speech_ms = 0
        self._kind: Meaning | None = None
        self._known_ms = 0
        self._known_speech_ms = 0

    @property
    def is_near(self) -> bool:
        """Enough of the latest was beyond doubt."""
        return sum(ms for _, ms in self._beyond_doubt) >= self.policy.clear_ms

    @property
    def wants_quiet(self) -> bool:
        """All that was said, as far as it is known, is that the assistant should be silent."""
        return self._kind == "stop" and self.end_ms <= self._known_ms

    def step(
        self, speech_ms: int, clear_ms: int, silence_ms: int, end_ms: int, now_ms: int
    ) -> tuple[list[Action], Verdict | None]:
        """`speech_ms` of speech were counted, `clear_ms` of it beyond doubt, the latest ended at `end_ms`, and it has
        been silent for `silence_ms` (0 while that is not sure)."""
        if self.ended:
            self._silence_ms = now_ms - self.end_ms
        else:
            self.speech_ms, self.end_ms, self._silence_ms = self._before_ms + speech_ms, end_ms, silence_ms
            self._count_clear(clear_ms, now_ms)
        if verdict := self._verdict():
            return [], verdict
        return self._wonder(now_ms) if self.policy.by_words else [], None

    def over(self, end_ms: int) -> None:
        """The turn detector calls it over and starts to count anew."""
        self.ended, self.end_ms = True, end_ms
        self._before_ms, self._counted_ms = self.speech_ms, 0

    def goes_on(self) -> None:
        """After that, there is speech again."""
        self.ended = False

    def overheard(self, at_ms: int, kind: Meaning) -> Verdict | None:
        """What was said up to `at_ms`, as asked for."""
        if at_ms != self._asked_ms:
            return None
        self._asked_ms = None
        self._kind, self._known_ms, self._known_speech_ms = kind, at_ms, self._asked_speech_ms
        return self._verdict()

    # -- inside

    def _count_clear(self, clear_ms: int, now_ms: int) -> None:
        if clear_ms > self._counted_ms:
            self._beyond_doubt.append((now_ms, clear_ms - self._counted_ms))
        self._counted_ms = clear_ms
        while self._beyond_doubt and self._beyond_doubt[0][0] <= now_ms - self.policy.clip_ms:
            self._beyond_doubt.popleft()

    def _verdict(self) -> Verdict | None:
        policy, silent = self.policy, self._silence_ms >= self.policy.yield_ms
        if not policy.by_words:
            if self.is_near and self.speech_ms >= policy.interrupt_ms:
                return "interruption"
            return "aside" if silent else None
        if self._kind == "stop":
            return "interruption"
        wanted = self._kind == "words" and (self._known_speech_ms >= policy.sure_ms or self._known_ms >= self.end_ms)
        if wanted and self.is_near:
            return "interruption"
        if silent and not self._held:
            return "aside"
        if silent and self._known_ms >= self.end_ms:
            return "aside"
        if silent and self._silence_ms >= policy.patience_ms:
            return "interruption" if self.is_near and self.speech_ms >= 2 * policy.interrupt_ms else "aside"
        endless = self.speech_ms >= policy.limit_ms and self._kind != "nothing"
        return "interruption" if self.is_near and endless else None

    def _wonder(self, now_ms: int) -> list[Action]:
        policy, actions = self.policy, list[Action]()
        known_ms = policy.sure_ms + (policy.asks - 1) * policy.again_ms
        nothing = self._kind == "nothing" and self._known_speech_ms >= known_ms
        doubtful = self._known_speech_ms >= policy.sure_ms or self.speech_ms >= policy.limit_ms
        noise = nothing or (not self.is_near and doubtful)
        wanted = self._known_speech_ms + policy.again_ms if self._known_speech_ms else policy.sure_ms
        if noise:
            self.start_ms = max(self.start_ms, now_ms - policy.clip_ms)
        if self._held and noise:
            self._held = False
            actions.append(Duck())
        elif not self._held and not noise and self.speech_ms >= policy.hold_ms:
            self._held = True
            actions.append(Hold())
        over = self.speech_ms >= policy.hold_ms and self._silence_ms >= policy.yield_ms // 2
        if self._asked_ms is None and (self.speech_ms >= wanted or (over and self._known_ms < self.end_ms)):
            self._asked_ms, self._asked_speech_ms = now_ms, self.speech_ms
            actions.append(Overhear(max(self.start_ms, now_ms - policy.clip_ms), now_ms))
        return actions
