"""Whose turn it is in the page: a pause inside a sentence is waited out, a word by itself is answered, people who talk
behind the speaker are not; judged from the sound that came out of the browser."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.client.words import normalise, word_error_rate
from omni_rt.engine.api import INPUT_RATE
from tests.browser.visit import QUIET, RATE, Visit, resample
from tests.support.ears import transcribe
from tools.duplex.clips import for_tuning, read_clips
from tools.duplex.sounds import crowd, with_pause

CLIPS = {clip.name: clip for clip in for_tuning(read_clips())}

pytestmark = pytest.mark.models


def answered(visit: Visit, number: int) -> tuple[str, str]:
    """Of the call's `number`th answer what was written and what it sounded like."""
    began = visit.event("output_audio_buffer.started", number)["at"]
    ended = visit.event("output_audio_buffer.stopped", number)["at"]
    written = visit.events("response.output_audio_transcript.done")[-1]["transcript"]
    return written, transcribe(resample(visit.heard(began - 200, ended + 300), RATE, INPUT_RATE))


def test_a_pause_is_waited_out_and_a_word_is_answered(visit: Visit) -> None:
    clip = CLIPS["only_person"]
    paused = with_pause(clip, clip.splits[0], 1.0)
    visit.speak(paused.pcm)
    said = visit.now() - 1000 * (len(paused.pcm) - paused.offset) / INPUT_RATE
    written, sounded = answered(visit, 1)
    assert np.abs(visit.heard(0, said - 100)).max() < QUIET
    assert normalise(written)
    assert word_error_rate(written, sounded) <= 0.25, f"written {written!r}, sounded {sounded!r}"

    visit.speak(CLIPS["no"].pcm)
    written, sounded = answered(visit, 2)
    assert normalise(written)
    assert word_error_rate(written, sounded) <= 0.25, f"written {written!r}, sounded {sounded!r}"
    understood = [e["transcript"] for e in visit.events("conversation.item.input_audio_transcription.completed")]
    assert len(visit.events("input_audio_buffer.committed")) == len(understood) == 2
    assert word_error_rate(clip.words, understood[0]) <= 0.2, understood
    assert normalise(understood[1]) == ["no"]


def test_people_who_talk_behind_the_speaker_do_not_stop_the_answer(visit: Visit) -> None:
    visit.type("Please count from one to twenty, in words.")
    began = visit.event("output_audio_buffer.started")["at"]
    visit.until("some counting", lambda: visit.now() > began + 1500)
    visit.speak(crowd([clip for clip in CLIPS.values() if clip.kind == "turn"], 4.0).pcm)
    written, sounded = answered(visit, 1)
    assert not visit.events("output_audio_buffer.cleared")
    assert len(visit.events("response.created")) == 1
    assert word_error_rate(written, sounded) <= 0.2, f"written {written!r}, sounded {sounded!r}"


def test_people_who_talk_behind_the_speaker_are_not_answered(visit: Visit) -> None:
    """Somebody who speaks to the microphone in their midst is understood and answered."""
    behind = crowd([clip for clip in CLIPS.values() if clip.kind == "turn"], 16.0, seed=3).pcm
    clip = CLIPS["only_person"]
    began = 5 * INPUT_RATE
    sound = behind[: 2 * began].astype(np.int32)
    sound[began : began + len(clip.pcm)] += clip.pcm
    visit.speak(np.clip(sound, -32768, 32767).astype(np.int16))
    said = visit.now() - 1000 * (len(sound) - began) / INPUT_RATE
    committed = [event["at"] for event in visit.events("input_audio_buffer.committed")]
    assert min(committed) < said < max(committed)
    created = visit.event("response.created")["at"]
    assert said + 1000 * clip.offset / INPUT_RATE < created
    understood = visit.events("conversation.item.input_audio_transcription.completed")
    (asked,) = (event["transcript"] for event in understood if said < event["at"] <= created + 1)
    assert word_error_rate(clip.words, asked) <= 0.2, asked
    assert np.abs(visit.heard(0, said)).max() < QUIET
    visit.event("output_audio_buffer.started")
