"""What is said, or sounds, over an answer in the page: what lets it go on, and what stops it; judged from the sound
that came out of the browser."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.client.words import normalise, word_error_rate
from omni_rt.engine.api import INPUT_RATE
from tests.browser.visit import QUIET, RATE, Visit, resample
from tests.support.ears import transcribe
from tools.duplex.clips import for_tuning, read_clips

pytestmark = pytest.mark.models

CLIPS = {clip.name: clip.pcm for clip in for_tuning(read_clips())}


COUNT = "Please count from one to thirty, in words."
STORY = "Tell me a story about a lighthouse keeper and a storm in four sentences."


def ask(visit: Visit, question: str = COUNT) -> float:
    """Something with a long answer; where its sound begins."""
    visit.type(question)
    began: float = visit.event("output_audio_buffer.started")["at"]
    return began


def until(visit: Visit, at_ms: float) -> None:
    visit.until(f"{at_ms:.0f} ms", lambda: visit.now() > at_ms)


def test_murmurs_coughs_and_typing_let_the_answer_go_on(visit: Visit) -> None:
    began = ask(visit, STORY)
    for seconds, name in ((1.5, "yeah_awb"), (4.0, "cough_2"), (6.5, "right_slt"), (9.0, "typing_2")):
        until(visit, began + 1000 * seconds)
        visit.speak(CLIPS[name])
    ended = visit.event("output_audio_buffer.stopped")["at"]

    assert not visit.events("output_audio_buffer.cleared")
    assert not visit.events("conversation.item.truncated")
    assert not visit.events("input_audio_buffer.committed")
    assert len(visit.events("response.created")) == 1
    # going on where it was left, it lost nothing and said nothing twice
    written = visit.events("response.output_audio_transcript.done")[-1]["transcript"]
    sounded = transcribe(resample(visit.heard(began - 200, ended + 300), RATE, INPUT_RATE))
    assert ended - began > 12_000
    assert word_error_rate(written, sounded) <= 0.2, f"written {written!r}, sounded {sounded!r}"


def test_told_to_stop_it_is_silent_at_once_and_says_nothing_more(visit: Visit) -> None:
    until(visit, ask(visit) + 2500)
    visit.speak(CLIPS["stop_awb"])
    cleared = visit.event("output_audio_buffer.cleared")["at"]
    cut = visit.event("conversation.item.truncated")
    visit.pause(4000)

    after = visit.heard(cleared + 150, visit.now())
    assert np.abs(after).max() < QUIET
    assert len(visit.events("output_audio_buffer.started")) == 1
    assert visit.captions("assistant")[-1] == cut["transcript"].strip()


def test_its_own_voice_leaking_back_does_not_stop_it_and_a_person_does(visit: Visit) -> None:
    visit.page.evaluate("() => probe.leak(-20, 120)")
    began = ask(visit)
    until(visit, began + 8000)
    assert not visit.events("output_audio_buffer.cleared")
    assert not visit.events("input_audio_buffer.committed")
    assert len(visit.events("response.created")) == 1
    visit.speak(CLIPS["question_rms"])
    cleared = visit.event("output_audio_buffer.cleared")["at"]
    assert np.abs(visit.heard(cleared + 150, cleared + 650)).max() < QUIET
    transcript = visit.event("conversation.item.truncated")["transcript"]
    assert 5 <= len(normalise(transcript)) <= 25
