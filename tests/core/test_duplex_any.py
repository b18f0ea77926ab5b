"""Whatever is said and done, in whatever order: decisions are in order, and after everything is quiet nobody waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omni_rt.core.actions import CloseUtterance, FinishReply, ReleaseReply, StartReply, StopReply
from omni_rt.core.duplex import DuplexPolicy
from omni_rt.core.overheard import Meaning
from omni_rt.core.playout import ASSUMED_DELAY_MS
from omni_rt.core.turns import Words
from tests.core.actors import Judge, Loudspeaker, Plan, Sound, Voice
from tests.core.dialogue import BY_WORDS, PUSH_TO_TALK, SEMANTIC, SERVER_VAD, SPECULATIVE, TURNS, Deed, Dialogue

BUSY_MS = 4000
QUIET_MS = 15_000


@dataclass(slots=True)
class Teller:
    """Tells one thing after the other of what is said over replies, the last for ever; `delay_ms` None never."""

    meanings: Sequence[Meaning]
    delay_ms: int | None
    _told: int = 0

    def __call__(self, voice: Voice, from_ms: int, to_ms: int) -> tuple[Meaning, int | None]:
        self._told += 1
        return self.meanings[min(self._told, len(self.meanings)) - 1], self.delay_ms


@dataclass(frozen=True, slots=True)
class Script:
    sounds: Sequence[Sound]
    policy: DuplexPolicy
    judge: Judge
    replies: Sequence[Plan]
    loudspeaker: Loudspeaker
    client: Sequence[tuple[int, Deed]]
    teller: Teller

    def play(self, *last: tuple[int, Deed]) -> Dialogue:
        return Dialogue(
            *self.sounds,
            until=QUIET_MS,
            policy=self.policy,
            judge=self.judge,
            replies=self.replies,
            loudspeaker=self.loudspeaker,
            client=[*self.client, *last],
            overhear=self.teller,
        )


FINDING = st.sampled_from(
    [
        SEMANTIC,
        SERVER_VAD,
        SPECULATIVE,
        replace(SEMANTIC, create_reply=False),
        replace(SEMANTIC, interrupt_reply=False),
        replace(SPECULATIVE, interrupt_reply=False),
        replace(SEMANTIC, turns=replace(TURNS, fixed_silence_ms=96, pre_roll_ms=1000)),
        BY_WORDS,
        replace(BY_WORDS, turns=SPECULATIVE.turns, duck_threshold=None),
        replace(BY_WORDS, turns=replace(TURNS, fixed_silence_ms=96, pre_roll_ms=1000)),
    ]
)
POLICIES = st.one_of(FINDING, st.just(PUSH_TO_TALK))
DEEDS: st.SearchStrategy[Deed] = st.one_of(
    st.sampled_from(["create", "cancel", "commit", "clear", "hush", "engine lost", "engine back"]),
    st.builds(Words, st.sampled_from(["unfinished", "complete", "open"]), st.sampled_from([None, 0.0, 0.1, 1.0])),
)
MEANINGS: st.SearchStrategy[Meaning] = st.sampled_from(["nothing", "backchannel", "stop", "words"])
LATENESS = st.sampled_from([0, 100, 600, 3000, None])
TELLERS = st.builds(Teller, st.lists(MEANINGS, min_size=1, max_size=4), LATENESS)
SOUNDS = st.builds(
    lambda at, ms, speech: Sound(at, at + ms, f"{at}-{at + ms}", speech),
    st.integers(0, BUSY_MS),
    st.sampled_from([32, 64, 96, 160, 256, 700, 2000]),
    st.sampled_from([0.4, 0.6, 0.95]),
)
JUDGES = st.builds(
    Judge, st.lists(st.sampled_from([0.0, 0.3, 0.9]), min_size=1, max_size=4), st.sampled_from([0, 60, 400, None])
)
PLANS = st.builds(
    Plan,
    audio_ms=st.sampled_from([0, 200, 2400]),
    first_text_ms=st.sampled_from([10, 150]),
    first_audio_ms=st.sampled_from([160, 400, 1200]),
    speed=st.sampled_from([0.5, 1.0, 4.0]),
    call=st.booleans(),
    end=st.sampled_from(["completed", "failed"]),
)
DELAYS = st.sampled_from([0, 80, 300])
LOUDSPEAKERS = st.one_of(
    st.builds(Loudspeaker, DELAYS, reports=st.sampled_from([(), range(100, QUIET_MS, 100)])),
    st.builds(Loudspeaker, DELAYS, client_plays=st.just(True)),
)
SCRIPTS = st.builds(
    Script,
    st.lists(SOUNDS, max_size=8),
    POLICIES,
    JUDGES,
    st.lists(PLANS, min_size=1, max_size=4),
    LOUDSPEAKERS,
    st.lists(st.tuples(st.integers(0, BUSY_MS), st.one_of(DEEDS, POLICIES)), max_size=8),
    TELLERS,
)
MANY = settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(SCRIPTS)
def test_decisions_are_in_order_and_all_comes_to_rest(script: Script) -> None:
    d = script.play((BUSY_MS, "engine back"))
    assert d.idle
    for generation, truth in d.truly_heard.items():
        assert abs(d.claimed[generation] - truth) <= abs(d.loudspeaker.delay_ms - ASSUMED_DELAY_MS) + 1


@MANY
@given(SCRIPTS, st.integers(0, BUSY_MS))
def test_after_the_transport_is_lost_nothing_begins(script: Script, at_ms: int) -> None:
    d = script.play((at_ms, "transport lost"))
    assert d.idle
    assert not d.order.utterance
    assert all(at <= at_ms for at, _ in d.log)


@MANY
@given(SCRIPTS, FINDING, st.builds(Teller, st.just(["words"]), LATENESS))
def test_left_alone_it_hears_all_that_is_said_and_answers_all_it_hears(
    script: Script, policy: DuplexPolicy, teller: Teller
) -> None:
    d = replace(script, client=(), policy=replace(policy, create_reply=True), teller=teller).play()
    kept = " ".join(words for role, words in d.history if role == "user").split()
    said = [sound.text for sound in script.sounds]
    for sound in script.sounds:
        if sound.speech > 0.9 and sound.end_ms - sound.start_ms >= 700:
            assert kept.count(sound.text) == said.count(sound.text)
    closed = [at for at, a in d.log if isinstance(a, CloseUtterance)]
    begun = [at for at, a in d.log if a == StartReply(d.duplex.generation) or isinstance(a, ReleaseReply)]
    ended = [a for _, a in d.log if isinstance(a, FinishReply | StopReply)]
    assert max(begun, default=0) >= max(closed, default=0)
    assert bool(closed) == bool(ended)
