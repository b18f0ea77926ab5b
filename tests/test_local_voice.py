from __future__ import annotations

import numpy as np
import pytest

from omni_rt.client.words import edits, normalise
from omni_rt.engine.api import OUTPUT_RATE, EngineError
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.tts import Voice, voices
from omni_rt.models.manifest import ASR
from tests.support.local import to_input_rate, voice
from tests.support.speech import model, silence

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Tomorrow morning we shall walk along the river to the old stone bridge.",
    "Please put the green bottle on the kitchen table.",
)


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(*(model(name) for name in ASR), threads=2)


@pytest.mark.models
@pytest.mark.parametrize("sentence", SENTENCES)
def test_speech_is_intelligible(recogniser: Recogniser, sentence: str) -> None:
    heard = recogniser.transcribe(to_input_rate(voice().speak(sentence).pcm))
    assert edits(normalise(sentence), normalise(heard)) <= 1


@pytest.mark.models
@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_are_where_their_times_say(recogniser: Recogniser, sentence: str) -> None:
    """Sound cut at the end of a word holds the words up to there."""
    speech = voice().speak(sentence)
    written = normalise(sentence)
    assert len(speech.words) == len(written)
    for count in range(2, len(written)):
        end = round(speech.words[count - 1].end_ms * OUTPUT_RATE / 1000)
        heard = normalise(recogniser.transcribe(np.concatenate([to_input_rate(speech.pcm[:end]), silence(0.5)])))
        assert edits(written[:count], heard) <= 1, (written[:count], heard)


@pytest.mark.parametrize(
    "text",
    [
        " Dr. Smith paid $3.50 at 7:30 pm, on Jan. 5th, 2019 — well-known 'facts'.",
        "It is 25°C, about 3.2 billion people (or so).",
        "**Hi** 😀 there, [see](https://a.example/b) it!",
        "GPT-4 & qwzrx: ok?",
    ],
)
def test_every_word_has_its_time_and_place(text: str) -> None:
    speech = voice().speak(text)
    ends = [word.end for word in speech.words]
    assert ends == sorted(ends)
    assert all(0 < end <= len(text) for end in ends)
    starts = [word.start_ms for word in speech.words]
    assert starts == sorted(starts)
    for word, following in zip(speech.words, speech.words[1:], strict=False):
        assert word.start_ms <= word.end_ms <= following.start_ms
    assert speech.words[-1].end_ms <= speech.duration_ms
    assert speech.pcm.dtype == np.int16


@pytest.mark.parametrize("text", ["", "   ", "😀", "```x = 1```", "***", "?!"])
def test_what_cannot_be_said_makes_no_sound(text: str) -> None:
    speech = voice().speak(text)
    assert (len(speech.pcm), speech.words) == (0, ())


def test_a_clause_begins_and_ends_quietly_and_without_long_silence() -> None:
    speech = voice().speak("The capital of France")
    assert np.abs(speech.pcm[: OUTPUT_RATE // 200]).max() < 1000
    assert np.abs(speech.pcm[-OUTPUT_RATE // 200 :]).max() < 1000
    loud = np.flatnonzero(np.abs(speech.pcm) > 300)
    assert loud[0] < 0.12 * OUTPUT_RATE
    assert len(speech.pcm) - loud[-1] < 0.12 * OUTPUT_RATE
    assert np.abs(speech.pcm).max() > 6000


def test_one_very_long_word_is_said_in_part() -> None:
    assert 0 < voice().speak("x" * 3000).duration_ms < 60_000


def test_an_unknown_voice_is_refused_with_the_names_there_are() -> None:
    assert voices()[0] == "heart"
    with pytest.raises(EngineError, match="heart"):
        Voice("nobody")
