"""Dialogues in which the words of speech over a reply decide: it is ducked at once, then held, then stopped or resumed.

As in test_duplex_overlap the first reply's sound leaves from 2160 to 3760. Sound over it ducks after 32 ms and holds
it after 160 ms; then the words are asked for, which takes 100 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from omni_rt.core.actions import Action, CloseUtterance, Duck, FinishReply, Hold, OpenUtterance, StopReply, Unduck
from omni_rt.core.duplex import DuplexPolicy
from omni_rt.core.overheard import Meaning
from tests.core.actors import Plan, Sound, Voice, words_of
from tests.core.dialogue import BY_WORDS, DUCKED, TURNS, Dialogue, Overhearing

ALL = words_of(1600)
QUESTION = Sound(512, 1536, "question")
KINDS: dict[str, Meaning] = {"mhm": "backchannel", "yeah": "backchannel", "stop": "stop", "cough": "nothing"}


def told(known_ms: int = 250, delay_ms: int | None = 100) -> Overhearing:
    """Words are known once `known_ms` of them were said; before that, and of noise, nothing is found."""

    def overhear(voice: Voice, from_ms: int, to_ms: int) -> tuple[Meaning, int | None]:
        kinds = [
            KINDS.get(sound.text, "words")
            for sound in voice.sounds
            if sound.text
            and sound.end_ms > from_ms
            and to_ms - sound.start_ms >= min(known_ms, sound.end_ms - sound.start_ms)
        ]
        for kind in ("stop", "words", "backchannel"):
            if kind in kinds and not ("words" in kinds and kind == "stop"):
                return kind, delay_ms
        return "nothing", delay_ms

    return overhear


def after_the_question(
    *sounds: Sound,
    until: int = 12_000,
    policy: DuplexPolicy = BY_WORDS,
    replies: Sequence[Plan] = (Plan(),),
    overhear: Overhearing | None = None,
) -> Dialogue:
    return Dialogue(QUESTION, *sounds, until=until, policy=policy, replies=replies, overhear=overhear or told())


def rest(d: Dialogue) -> list[tuple[int, Action]]:
    return d.actions[3:]


@pytest.mark.parametrize("length_ms", [192, 320, 480, 640, 800])
def test_a_backchannel_is_kept_out_and_the_reply_goes_on_where_it_was(length_ms: int) -> None:
    d = after_the_question(Sound(2816, 2816 + length_ms, "mhm"))
    assert rest(d)[:2] == [(2848, Duck()), (2976, Hold())]
    assert [a for _, a in rest(d)[2:]] == [Unduck(), FinishReply(1)]
    resumed = rest(d)[2][0]
    assert resumed <= 2816 + length_ms + 320
    start = d.left(1)
    assert start[0] == (2160, 2860, 1.0)
    assert start[1] == (2860, 2980, DUCKED)
    assert start[2][0] == -(-resumed // 20) * 20
    assert sum(end - begin for begin, end, _ in start) == 1600
    assert d.heard(1) == ALL
    assert d.history == [("user", "question"), ("assistant", ALL)]
    assert d.idle


def test_a_cough_longer_than_an_interruption_was_keeps_the_reply() -> None:
    d = after_the_question(Sound(2816, 3200, "cough"))
    assert [a for _, a in rest(d)] == [Duck(), Hold(), Unduck(), FinishReply(1)]
    assert d.heard(1) == ALL


@pytest.mark.parametrize(("length_ms", "softly"), [(800, []), (1056, [Duck()])])
def test_a_long_cough_is_played_over_softly_once_no_words_were_found_three_times(
    length_ms: int, softly: list[Action]
) -> None:
    d = after_the_question(Sound(2816, 2816 + length_ms, "cough"))
    assert [a for _, a in rest(d)] == [Duck(), Hold(), *softly, Unduck(), FinishReply(1)]
    assert d.heard(1) == ALL


def test_words_that_are_understood_late_find_the_reply_still_held() -> None:
    d = after_the_question(Sound(2816, 4000, "what?"), overhear=told(known_ms=500))
    assert [a for _, a in rest(d)][:3] == [Duck(), Hold(), StopReply(1, "turn_detected", 2816)]
    assert d.left(1)[-1][1] <= 3000


def test_noise_that_does_not_end_is_played_over_softly() -> None:
    d = after_the_question(Sound(2816, 9000, "cough"))
    kinds = [a for _, a in rest(d)]
    assert kinds[:3] == [Duck(), Hold(), Duck()]
    assert FinishReply(1) in kinds
    assert StopReply(1, "turn_detected", 2816) not in kinds
    assert d.heard(1) == ALL


def test_people_who_talk_behind_the_speaker_are_played_over_softly() -> None:
    """Their words are found, but nothing they say is speech beyond doubt."""
    d = after_the_question(Sound(2816, 4864, "what?", 0.8))
    assert rest(d)[:3] == [(2848, Duck()), (2976, Hold()), (3328, Duck())]
    assert StopReply(1, "turn_detected", 2816) not in [a for _, a in rest(d)]
    assert d.heard(1) == ALL


def test_people_of_whom_nobody_tells_the_words_do_not_silence_it() -> None:
    d = after_the_question(Sound(2816, 9000, "what?", 0.8), overhear=told(delay_ms=None))
    assert rest(d)[:3] == [(2848, Duck()), (2976, Hold()), (2816 + 1600, Duck())]
    assert d.heard(1) == ALL


def test_over_a_noise_that_does_not_end_whoever_speaks_is_understood() -> None:
    """Only the latest is listened to, and belongs to the turn."""
    asked: list[tuple[int, int]] = []
    listen = told(known_ms=200)

    def overhear(voice: Voice, from_ms: int, to_ms: int) -> tuple[Meaning, int | None]:
        asked.append((from_ms, to_ms))
        return listen(voice, from_ms, to_ms)

    sounds = Sound(2816, 8000, "cough", 0.8), Sound(8000, 8704, "what?"), Sound(8704, 9600, "cough", 0.8)
    d = after_the_question(*sounds, replies=[Plan(audio_ms=9600)], overhear=overhear)
    (stop_at,) = (at for at, a in rest(d) if isinstance(a, StopReply))
    assert 8000 + 200 < stop_at <= 8000 + 600
    assert max(to_ms - from_ms for from_ms, to_ms in asked) == 2560
    (opened,) = (a for _, a in rest(d) if isinstance(a, OpenUtterance))
    assert stop_at - 2560 - 300 - 200 < opened.from_ms < 8000


@pytest.mark.parametrize(("clear_ms", "stops"), [(64, False), (96, True)])
def test_one_of_them_who_comes_near_stops_it(clear_ms: int, stops: bool) -> None:
    sounds = (
        Sound(2816, 3520, "what?", 0.8),
        Sound(3520, 3520 + clear_ms, "what?"),
        Sound(3520 + clear_ms, 4032, "", 0.8),
    )
    d = after_the_question(*sounds)
    assert [at for at, a in rest(d) if a == StopReply(1, "turn_detected", 2816)] == ([3616] if stops else [])


def test_whoever_wants_it_to_stop_need_not_be_near() -> None:
    d = after_the_question(Sound(2816, 3200, "stop", 0.8))
    assert StopReply(1, "turn_detected", 2816) in [a for _, a in rest(d)]


def test_words_stop_it_and_nothing_left_since_it_was_held() -> None:
    d = after_the_question(Sound(2816, 3840, "wait"))
    (duck_at, _), (hold_at, _), (stop_at, stop), *_ = rest(d)
    assert (duck_at, hold_at, stop) == (2848, 2976, StopReply(1, "turn_detected", 2816))
    assert hold_at < stop_at <= 2816 + 448 + 256 + 100
    assert d.left(1) == [(2160, 2860, 1.0), (2860, 2980, DUCKED)]
    assert d.claimed[1] == d.truly_heard[1] == 820
    assert d.history == [("user", "question"), ("assistant", words_of(800)), ("user", "wait"), ("assistant", ALL)]


def test_a_short_interruption_is_answered() -> None:
    """`no` is over before its words are known."""
    d = after_the_question(Sound(2816, 3040, "no"))
    assert [a for _, a in rest(d)][:5] == [
        Duck(),
        Hold(),
        StopReply(1, "turn_detected", 2816),
        Unduck(),
        OpenUtterance(2516, 2816),
    ]
    close_at, close = rest(d)[5]
    assert close == CloseUtterance(3040)
    assert close_at <= 3040 + 500
    assert d.history[1:] == [("assistant", words_of(800)), ("user", "no"), ("assistant", ALL)]


def test_stop_is_obeyed_and_not_answered() -> None:
    d = after_the_question(Sound(2816, 3200, "stop"))
    assert StopReply(1, "turn_detected", 2816) in [a for _, a in rest(d)]
    assert d.history[1:] == [("assistant", words_of(800)), ("user", "stop")]
    assert d.idle


def test_stop_and_a_question_is_answered() -> None:
    d = after_the_question(Sound(2816, 3200, "stop"), Sound(3300, 4400, "what"))
    assert d.history[1:] == [("assistant", words_of(800)), ("user", "stop what"), ("assistant", ALL)]


def test_after_a_stop_the_next_question_is_answered() -> None:
    d = after_the_question(Sound(2816, 3200, "stop"), Sound(6000, 7000, "what"))
    assert d.history[2:] == [("user", "stop"), ("user", "what"), ("assistant", ALL)]


@pytest.mark.parametrize(("length_ms", "kept"), [(320, True), (700, False)])
def test_when_nobody_tells_the_words_the_length_decides(length_ms: int, kept: bool) -> None:
    d = after_the_question(Sound(2816, 2816 + length_ms, "mhm"), overhear=told(delay_ms=None))
    stopped = StopReply(1, "turn_detected", 2816) in [a for _, a in rest(d)]
    assert stopped is not kept
    assert d.idle
    assert (d.heard(1) == ALL) is kept


def test_long_speech_is_an_interruption_though_nobody_tells_the_words() -> None:
    d = after_the_question(Sound(2816, 9000, "wait"), overhear=told(delay_ms=None))
    stop = next(at for at, a in rest(d) if isinstance(a, StopReply))
    assert stop == 2816 + 1600


def test_backchannels_that_do_not_end_are_an_interruption_at_last() -> None:
    d = after_the_question(Sound(2816, 6000, "mhm"))
    assert [at for at, a in rest(d) if isinstance(a, StopReply)] == [2816 + 1600]


def test_late_words_of_an_overlap_that_is_over_are_void() -> None:
    d = after_the_question(Sound(2816, 3008, "mhm"), overhear=told(delay_ms=3000))
    assert [a for _, a in rest(d)][2:] == [Unduck(), FinishReply(1)]
    assert d.heard(1) == ALL


def test_a_fixed_silence_shorter_than_the_words_take_does_not_lose_the_interruption() -> None:
    policy = replace(BY_WORDS, turns=replace(TURNS, fixed_silence_ms=96))
    d = Dialogue(QUESTION, Sound(2816, 3040, "no"), until=12_000, policy=policy, overhear=told(delay_ms=300))
    assert ("user", "no") in d.history
    assert d.history[-1] == ("assistant", ALL)
    assert d.idle


def test_clicks_duck_for_a_moment() -> None:
    d = after_the_question(Sound(2816, 2880, "", 0.8))
    assert rest(d) == [(2848, Duck()), (2944, Unduck()), (3856, FinishReply(1))]
    assert d.heard(1) == ALL


def test_what_is_hardly_speech_ducks_for_as_long_as_it_sounds() -> None:
    d = after_the_question(Sound(2816, 2944, "", 0.2))
    assert rest(d) == [(2848, Duck()), (2976, Unduck()), (3856, FinishReply(1))]
    assert rest(after_the_question(Sound(2816, 2944, "", 0.1))) == [(3856, FinishReply(1))]
