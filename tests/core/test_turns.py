"""Where turns begin, pause and end, window by window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.core.patience import Patience
from omni_rt.core.timeline import Activity, EndScore
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
from tests.core.dialogue import TURNS

FIXED = replace(TURNS, fixed_silence_ms=320)
LOUD, DOUBTFUL, QUIET = 0.9, 0.4, 0.1


class Listener:
    """A detector that is fed by number of windows and keeps what it said."""

    def __init__(self, policy: TurnPolicy = TURNS) -> None:
        self.detector = TurnDetector(policy)
        self.at_ms = 0
        self.signals: list[TurnSignal] = []

    def hear(self, windows: int, speech: float) -> Listener:
        return self.hear_all([speech] * windows)

    def hear_level(self, windows: int, speech: float, level: float) -> Listener:
        for _ in range(windows):
            self.at_ms += 32
            self.signals += self.detector.step(Activity(self.at_ms, speech, level))
        return self

    def hear_all(self, probabilities: Iterable[float]) -> Listener:
        for speech in probabilities:
            self.at_ms += 32
            self.signals += self.detector.step(Activity(self.at_ms, speech))
        return self

    def judge(self, at_ms: int, score: float) -> Listener:
        self.signals += self.detector.judge(EndScore(at_ms, score))
        return self

    def take(self) -> list[TurnSignal]:
        taken, self.signals = self.signals, []
        return taken


def speaking(policy: TurnPolicy = TURNS) -> Listener:
    """Has spoken from 320 to 640 ms."""
    listener = Listener(policy).hear(10, QUIET).hear(10, LOUD)
    assert listener.take() == [SpeechStarted(320)]
    return listener


def test_of_speech_is_beyond_doubt_what_is_far_above_the_threshold() -> None:
    """That of a click that was no speech does not count."""
    listener = Listener().hear_all([0.95, QUIET, *[0.8] * 10, 0.95, 0.9, 0.89, *[QUIET] * 4, *[0.95] * 3])
    assert (listener.detector.speech_ms, listener.detector.clear_ms) == (16 * 32, 5 * 32)
    listener.detector.reset()
    assert listener.detector.clear_ms == 0
    faint = Listener(replace(TURNS, threshold=0.2)).hear_all([0.55] * 5 + [0.65] * 5)
    assert (faint.detector.speech_ms, faint.detector.clear_ms) == (10 * 32, 5 * 32)


@pytest.mark.parametrize(
    ("score", "wait"),
    [(None, 1600), (1.0, 160), (0.5, 160), (0.4, 448), (0.25, 880), (0.1, 1312), (0.0, 1600)],
)
def test_the_wait_grows_with_the_doubt(score: float | None, wait: int) -> None:
    assert TURNS.wait_ms(score, Words("open"), Patience()) == wait
    assert FIXED.wait_ms(score, Words("open"), Patience()) == 320


@pytest.mark.parametrize(
    ("score", "wait"), [(1.0, 160), (0.9, 160), (0.7, 340), (0.5, 520), (0.25, 1060), (0.0, 1600), (None, 1600)]
)
def test_between_complete_and_sure_a_little_doubt_is_left(score: float | None, wait: int) -> None:
    assert replace(TURNS, sure_score=0.9).wait_ms(score, Words("open"), Patience()) == wait


@pytest.mark.parametrize(
    ("score", "ending", "wait"),
    [
        (0.95, 0.4, 160), (0.95, 0.1, 160), (0.95, 0.01, 1174), (0.95, 0.0, 1456), (0.98, 0.05, 160),
        (0.5, 0.5, 525), (0.5, 0.3, 929), (0.2, 0.9, 160), (0.02, 0.4, 1432), (0.0, 0.99, 1454), (0.0, 0.0, 1456),
    ],
)  # fmt: skip
def test_how_likely_a_sentence_ends_is_a_second_witness(score: float, ending: float, wait: int) -> None:
    assert replace(TURNS, sure_score=0.9).wait_ms(score, Words("open", ending), Patience()) == wait


def test_a_second_witness_outweighs_the_last_word_but_no_short_answer() -> None:
    assert TURNS.wait_ms(0.9, Words("unfinished", 0.9), Patience()) == 160
    assert TURNS.wait_ms(0.1, Words("complete", 0.0), Patience()) == 160
    assert TURNS.wait_ms(None, Words("open", 0.9), Patience()) == 1600


@pytest.mark.parametrize(("complete_score", "wait"), [(0.35, 653), (0.5, 929), (0.7, 1184)])
def test_who_is_eager_needs_less_of_both(complete_score: float, wait: int) -> None:
    policy = replace(TURNS, complete_score=complete_score)
    assert policy.wait_ms(0.5, Words("open", 0.3), Patience()) == wait


@pytest.mark.parametrize(
    ("score", "words", "wait"),
    [
        (1.0, Words("brief"), 480), (1.0, Words("brief", 0.99), 480), (0.5, Words("brief"), 760),
        (0.0, Words("brief"), 1600), (0.0, Words("brief", 0.0), 1488), (None, Words("brief"), 1600),
        (1.0, Words("complete"), 160), (1.0, Words("open"), 160), (1.0, Words("ample"), 160),
    ],
)  # fmt: skip
def test_two_or_three_words_are_waited_upon(score: float | None, words: Words, wait: int) -> None:
    policy = replace(TURNS, sure_score=0.9, brief_silence_ms=480)
    assert policy.wait_ms(score, words, Patience()) == wait
    assert replace(policy, fixed_silence_ms=320).wait_ms(score, words, Patience()) == 320


@pytest.mark.parametrize(
    ("score", "words", "wait"),
    [
        (1.0, Words("single", 0.0), 480), (0.5, Words("single", 0.0), 520), (0.0, Words("single", 0.0), 1456),
        (1.0, Words("single", 0.99), 160), (1.0, Words("single"), 160), (None, Words("single", 0.0), 1600),
        (0.9, Words("open", 0.0), 1456),
    ],
)  # fmt: skip
def test_a_word_by_itself_ends_by_its_sound(score: float | None, words: Words, wait: int) -> None:
    """No sentence ends with it; one that both witnesses take for an end is waited upon no longer than others."""
    policy = replace(TURNS, sure_score=0.9, brief_silence_ms=480)
    assert policy.wait_ms(score, words, Patience()) == wait


def test_who_answers_with_one_word_is_answered() -> None:
    """The language model has never seen a sentence of it; without the rule it would be waited for 1456 ms."""
    policy = replace(TURNS, sure_score=0.9, brief_silence_ms=480)
    for words, end in ((Words("single", 0.0), [TurnEnded(640, 1120)]), (Words("open", 0.0), [])):
        listener = speaking(policy).hear(4, QUIET)
        listener.detector.understood(words)
        listener.judge(800, 0.9).hear(12, QUIET)
        assert [signal for signal in listener.take() if isinstance(signal, TurnEnded)] == end


def test_who_goes_on_after_two_words_is_not_cut_in_on() -> None:
    """The pause is 320 ms, and both witnesses are sure of an end."""
    policy = replace(TURNS, brief_silence_ms=480)
    for words, ended in ((Words("brief", 0.99), []), (Words("open", 0.99), [TurnEnded(640, 800)])):
        listener = speaking(policy).hear(4, QUIET)
        listener.detector.understood(words)
        listener.judge(800, 1.0).hear(6, QUIET).hear(3, LOUD)
        assert [signal for signal in listener.take() if isinstance(signal, TurnEnded)] == ended


@pytest.mark.parametrize(
    ("score", "words", "wait"),
    [
        (0.95, Words(), 512), (0.95, Words("open"), 512), (0.95, Words("unfinished"), 1456),
        (0.95, Words("ample"), 160), (0.95, Words("ample", 0.0), 160), (0.8, Words("ample"), 512),
        (0.0, Words("open"), 1600), (0.95, Words("complete"), 160), (None, Words("complete"), 160),
    ],
)  # fmt: skip
def test_words_that_are_asked_for_are_waited_for(score: float | None, words: Words, wait: int) -> None:
    """Until all is told of them a turn lasts at least `words_ms`, unless there are many and the score is sure."""
    policy = replace(TURNS, sure_score=0.9, words_ms=512)
    assert policy.wait_ms(score, words, Patience(), awaiting_words=True) == wait


def test_words_that_are_known_are_not_waited_for() -> None:
    policy = replace(TURNS, sure_score=0.9, words_ms=512, speculate_ms=96)
    listener = speaking(policy).hear(5, QUIET)
    listener.detector.await_words()
    assert listener.judge(800, 0.95).hear(6, QUIET).take() == [Hesitated(640), ScoreWanted(800)]
    assert listener.detector.understood(Words("open"), final=False) == []
    assert listener.detector.understood(Words("open", 0.7)) == [TurnEnded(640, 992)]


def test_words_are_asked_for_before_a_score_ends_a_turn() -> None:
    """The score is sure before the silence in which it may decide alone."""
    policy = replace(TURNS, check_silence_ms=32, least_silence_ms=64, speculate_ms=64, words_ms=512)
    listener = speaking(policy).hear(1, QUIET).judge(672, 0.99).hear(1, QUIET)
    assert listener.take() == [ScoreWanted(672), Hesitated(640)]
    listener.detector.await_words()
    assert listener.hear(1, QUIET).take() == []
    assert listener.detector.understood(Words("open", 0.9)) == [TurnEnded(640, 736)]

    nobody_tells = speaking(policy).hear(1, QUIET).judge(672, 0.99).hear(2, QUIET)
    assert nobody_tells.take() == [ScoreWanted(672), Hesitated(640), TurnEnded(640, 736)]


def test_words_that_never_come_are_waited_for_no_longer() -> None:
    listener = speaking(replace(TURNS, words_ms=512)).hear(5, QUIET)
    listener.detector.await_words()
    assert listener.judge(800, 0.7).hear(20, QUIET).take() == [ScoreWanted(800), TurnEnded(640, 1152)]


def test_words_of_an_earlier_pause_are_void() -> None:
    listener = speaking(replace(TURNS, words_ms=512)).hear(5, QUIET)
    listener.detector.await_words()
    listener.hear(3, LOUD)
    assert listener.detector.understood(Words("complete")) == []
    assert listener.hear(5, QUIET).judge(1056, 0.9).take()[-1] == TurnEnded(896, 1056)


def test_every_score_is_sure_when_none_is_asked_for() -> None:
    assert replace(TURNS, complete_score=0.0).wait_ms(0.0, Words("open"), Patience()) == 160


def test_three_windows_open_a_turn_where_the_first_began() -> None:
    listener = Listener().hear(10, QUIET).hear(2, LOUD)
    assert listener.take() == []
    assert listener.hear(1, LOUD).take() == [SpeechStarted(320)]
    assert listener.detector.speech_ms == 96


def test_speech_that_goes_on_when_hearing_begins() -> None:
    assert Listener().hear(3, LOUD).take() == [SpeechStarted(0)]


@pytest.mark.parametrize("between", [QUIET, DOUBTFUL])
def test_clicks_never_open_a_turn(between: float) -> None:
    assert Listener().hear_all([LOUD, LOUD, between, between] * 200).take() == []


def test_an_onset_may_waver() -> None:
    assert Listener().hear_all([LOUD, LOUD, DOUBTFUL, LOUD, LOUD]).take() == [SpeechStarted(0)]


def test_speech_lasts_until_it_is_clearly_over() -> None:
    listener = speaking(FIXED).hear(20, DOUBTFUL).hear(9, QUIET)
    assert listener.take() == []
    assert listener.hear(1, QUIET).take() == [TurnEnded(640 + 640, 1280 + 320)]


def test_fixed_silence_ends_the_turn_exactly_then_and_nobody_is_asked() -> None:
    assert speaking(FIXED).hear(9, QUIET).take() == []
    assert speaking(FIXED).hear(30, QUIET).take() == [TurnEnded(640, 960)]


def test_a_sure_score_ends_the_turn_when_it_comes() -> None:
    listener = speaking().hear(5, QUIET)
    assert listener.take() == [ScoreWanted(800)]
    assert listener.hear(2, QUIET).take() == []
    assert listener.judge(800, 0.6).take() == [TurnEnded(640, 864)]


def level_speaking(policy: TurnPolicy = TURNS) -> Listener:
    """Has spoken from 320 to 640 ms, loudly."""
    listener = Listener(policy).hear_level(10, QUIET, 20).hear_level(10, LOUD, 3000)
    assert listener.take() == [SpeechStarted(320)]
    return listener


def test_what_grows_quiet_is_asked_about_before_it_is_silence() -> None:
    """And the score holds while it stays quiet; the silence counts from the end of speech all the same."""
    listener = level_speaking().hear_level(1, LOUD, 140)
    assert listener.take() == []
    listener.hear_level(1, LOUD, 140)
    assert listener.take() == [ScoreWanted(704)]
    listener.judge(704, 0.9).hear_level(5, QUIET, 20)
    assert listener.take() == [TurnEnded(704, 864)]


def test_a_soft_moment_is_asked_about_once_and_its_score_is_void_when_it_grows_loud_again() -> None:
    listener = level_speaking().hear_level(4, LOUD, 100)
    assert listener.take() == [ScoreWanted(704)]
    listener.hear_level(1, LOUD, 3000).judge(704, 0.9).hear_level(4, LOUD, 3000).hear_level(7, QUIET, 20)
    assert listener.take() == [ScoreWanted(928 + 160)]
    assert listener.judge(1088, 0.9).take() == [TurnEnded(928, 1152)]


@pytest.mark.parametrize(("level", "asked"), [(160, False), (140, True)])
def test_a_twentieth_of_the_loudest_is_quiet(level: float, asked: bool) -> None:
    assert bool(level_speaking().hear_level(20, LOUD, level).take()) == asked


def ended(listener: Listener) -> TurnEnded:
    (end,) = (signal for signal in listener.take() if isinstance(signal, TurnEnded))
    return end


@pytest.mark.parametrize(
    ("speech", "level", "pause", "near"),
    [
        (0.6, 200, 70, False),
        (0.6, 200, 60, True),
        (0.6, 3000, 1100, False),
        (LOUD, 200, 70, True),
        (0.6, 0, 0, True),
    ],
)
def test_whoever_speaks_beyond_doubt_or_is_silent_afterwards_is_near(
    speech: float, level: float, pause: float, near: bool
) -> None:
    listener = Listener().hear_level(10, QUIET, 20).hear_level(10, speech, level).hear_level(60, QUIET, pause)
    assert ended(listener).near == near


@pytest.mark.parametrize(("clear", "near"), [(2, False), (3, True)])
def test_96_ms_of_speech_beyond_doubt_are_somebody_near(clear: int, near: bool) -> None:
    listener = Listener().hear_level(10, 0.6, 200).hear_level(clear, LOUD, 200).hear_level(60, QUIET, 100)
    assert ended(listener).near == near


def test_the_pause_that_ends_a_turn_counts_and_its_quietest_moment() -> None:
    """People behind the speaker were silent for a moment; and somebody who whispers clicked afterwards."""
    crowd = Listener().hear_level(10, 0.6, 200).hear_level(6, QUIET, 20).hear_level(10, 0.6, 200)
    assert not ended(crowd.hear_level(60, QUIET, 100)).near
    whisper = Listener().hear_level(10, 0.6, 200).hear_level(20, QUIET, 100).hear_level(1, QUIET, 20)
    assert ended(whisper.hear_level(60, QUIET, 100)).near


def test_the_shortest_utterance_has_a_level_as_well() -> None:
    listener = Listener().hear_level(3, 0.6, 200)
    assert not ended(listener.hear_level(60, QUIET, 100)).near
    assert ended(Listener().hear_level(3, 0.6, 200).hear_level(60, QUIET, 20)).near


def test_with_a_fixed_silence_or_no_levels_everybody_is_near() -> None:
    fixed = Listener(FIXED).hear_level(10, 0.6, 200).hear_level(60, QUIET, 100)
    assert ended(fixed).near
    assert ended(Listener().hear(10, 0.6).hear(60, QUIET)).near


def test_who_waits_for_a_fixed_silence_asks_about_no_quiet() -> None:
    assert level_speaking(FIXED).hear_level(20, LOUD, 10).take() == []


def test_an_unsure_score_waits_in_proportion() -> None:
    listener = speaking().hear(5, QUIET).judge(800, 0.25).hear(30, QUIET)
    assert listener.take() == [ScoreWanted(800), TurnEnded(640, 1536)]


def test_without_a_score_the_limit_ends_the_turn() -> None:
    assert speaking().hear(60, QUIET).take() == [ScoreWanted(800), TurnEnded(640, 2240)]


def test_a_late_score_of_the_same_pause_counts() -> None:
    listener = speaking().hear(11, QUIET)
    assert listener.take() == [ScoreWanted(800)]
    assert listener.judge(800, 0.9).take() == [TurnEnded(640, 992)]


def test_a_score_is_void_once_the_user_went_on() -> None:
    listener = speaking().hear(5, QUIET).hear(3, LOUD).hear(4, QUIET)
    assert listener.take() == [ScoreWanted(800), SpeechResumed(800)]
    assert listener.judge(800, 0.9).take() == []
    assert listener.hear(1, QUIET).judge(1056, 0.9).take() == [ScoreWanted(1056), TurnEnded(896, 1056)]


def test_a_score_for_no_turn_is_void() -> None:
    assert Listener().hear(10, QUIET).judge(320, 0.9).take() == []
    assert speaking().judge(640, 0.9).take() == []


def test_the_user_goes_on_after_a_pause() -> None:
    listener = speaking(FIXED).hear(9, QUIET).hear(3, LOUD)
    assert listener.take() == [SpeechResumed(928)]
    assert listener.detector.speech_ms == 320 + 96
    assert listener.hear(10, QUIET).take() == [TurnEnded(1024, 1344)]


def test_a_click_in_a_pause_does_not_lengthen_it() -> None:
    assert speaking(FIXED).hear(4, QUIET).hear(2, LOUD).hear(10, QUIET).take() == [TurnEnded(640, 960)]


def test_no_score_ends_a_turn_while_the_user_may_be_going_on() -> None:
    listener = speaking().hear(5, QUIET).judge(800, 0.25).hear(22, QUIET).hear(2, LOUD)
    assert listener.hear(1, LOUD).take() == [ScoreWanted(800), SpeechResumed(1504)]


def test_nothing_is_decided_while_the_user_may_be_going_on() -> None:
    listener = speaking(FIXED).hear(8, QUIET).hear(2, LOUD)
    assert listener.detector.silence_ms == 0
    assert listener.hear(1, QUIET).take() == []
    assert listener.hear(1, QUIET).take() == [TurnEnded(640, 640 + 12 * 32)]


def test_a_score_that_comes_while_the_user_may_be_going_on_is_used_when_they_do_not() -> None:
    listener = speaking().hear(5, QUIET).hear(1, LOUD).judge(800, 0.9)
    assert listener.take() == [ScoreWanted(800)]
    assert listener.hear(1, QUIET).take() == [TurnEnded(640, 864)]


def test_noise_with_bumps_ends_the_turn_as_silence_would() -> None:
    listener = speaking(FIXED).hear_all([QUIET, QUIET, LOUD] * 40)
    assert listener.take() == [TurnEnded(640, 960)]


def test_a_hesitation_is_told_once_a_pause() -> None:
    policy = replace(TURNS, speculate_ms=96)
    listener = speaking(policy).hear(5, QUIET).hear_all([LOUD, QUIET, QUIET]).hear(3, LOUD).hear(4, QUIET)
    assert listener.take() == [Hesitated(640), ScoreWanted(800), SpeechResumed(896), Hesitated(992)]


def test_a_turn_that_ends_is_not_speculated_about() -> None:
    policy = replace(FIXED, speculate_ms=320)
    assert speaking(policy).hear(12, QUIET).take() == [TurnEnded(640, 960)]


def test_reset_forgets_the_utterance_but_not_the_time() -> None:
    listener = speaking()
    listener.detector.reset()
    assert listener.detector.speech_ms == 0
    assert listener.hear(3, LOUD).take() == [SpeechStarted(640)]


def test_a_policy_changed_in_a_pause_holds_from_then_on() -> None:
    listener = speaking().hear(5, QUIET)
    listener.detector.policy = FIXED
    assert listener.hear(10, QUIET).take() == [ScoreWanted(800), TurnEnded(640, 960)]


@given(
    st.lists(st.tuples(st.sampled_from([QUIET, DOUBTFUL, LOUD]), st.integers(1, 60)), max_size=12),
    st.sampled_from([TURNS, FIXED, replace(TURNS, speculate_ms=64)]),
    st.floats(0, 1),
)
def test_signals_come_in_order(stretches: list[tuple[float, int]], policy: TurnPolicy, score: float) -> None:
    """Starts and ends alternate, everything else is inside; places on the timeline never run back."""
    listener = Listener(policy)
    inside, place = False, 0
    for speech in (speech for speech, windows in stretches for _ in range(windows)):
        listener.hear(1, speech)
        for signal in [*listener.take()]:
            match signal:
                case SpeechStarted(at_ms):
                    assert not inside
                    inside = True
                case TurnEnded(at_ms, decided_ms):
                    assert inside
                    assert decided_ms - at_ms >= (policy.fixed_silence_ms or policy.least_silence_ms)
                    assert (
                        decided_ms - at_ms < (policy.fixed_silence_ms or policy.silence_limit_ms + policy.onset_ms) + 32
                    )
                    inside = False
                case SpeechResumed(at_ms) | ScoreWanted(at_ms) | Hesitated(at_ms):
                    assert inside
            assert place <= at_ms <= listener.at_ms
            if not isinstance(signal, ScoreWanted):
                place = at_ms
            if isinstance(signal, ScoreWanted):
                listener.judge(at_ms, score)
        for signal in listener.take():
            assert inside
            assert isinstance(signal, TurnEnded)
            inside = False
