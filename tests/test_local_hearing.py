from __future__ import annotations

import numpy as np
import pytest

from omni_rt.client.words import edits, normalise
from omni_rt.core.overheard import classify
from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.utterance import PAUSE_MS, Understood, Utterance, next_cut
from omni_rt.models.manifest import ASR
from tests.support.local import spoken
from tests.support.speech import Clip, clip, clips, model, silence, with_noise
from tools.bench_endings import Steps

STEP = INPUT_RATE // 50


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(*(model(name) for name in ASR), threads=2)


def heard(pcm: Pcm) -> Utterance:
    utterance = Utterance()
    for start in range(0, len(pcm), STEP):
        utterance.append(pcm[start : start + STEP])
    return utterance


def whole(recogniser: Recogniser, pcm: Pcm) -> str:
    texts = []
    while (cut := next_cut(pcm)) is not None:
        texts.append(recogniser.transcribe(pcm[:cut]))
        pcm = pcm[cut:]
    return " ".join([*texts, recogniser.transcribe(pcm)])


@pytest.mark.models
def test_human_speech_is_understood(recogniser: Recogniser) -> None:
    said = [(normalise(spoken.words), normalise(recogniser.transcribe(spoken.pcm))) for spoken in clips()]
    wrong = sum(edits(expected, understood) for expected, understood in said)
    assert wrong / sum(len(expected) for expected, _ in said) < 0.06


@pytest.mark.models
def test_quiet_speech_is_understood(recogniser: Recogniser) -> None:
    quiet = (clip("something").pcm * 0.02).astype(np.int16)
    assert normalise(recogniser.transcribe(quiet)) == normalise(clip("something").words)


def short_clips() -> list[Clip]:
    return [said for said in clips() if len(said.pcm) < 4 * INPUT_RATE]


@pytest.mark.models
@pytest.mark.parametrize("missing_s", [0.3, 0.8])
def test_what_was_understood_before_is_only_read(
    recogniser: Recogniser, missing_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Steps(recogniser._decoder)
    monkeypatch.setattr(recogniser, "_decoder", counting)
    steps = [0, 0]
    for said in short_clips():
        earlier = said.pcm[: len(said.pcm) - round(missing_s * INPUT_RATE)]
        draft = recogniser.recognise(earlier).tokens if len(earlier) else ()
        results = []
        for index, given in enumerate(((), draft)):
            before = counting.count
            results.append(recogniser.recognise(said.pcm, given))
            steps[index] += counting.count - before
        assert results[1] == results[0]
    assert steps[1] < 0.5 * steps[0]


@pytest.mark.models
@pytest.mark.parametrize("others", ["a wrong beginning", "more than was said", "nothing but the end"])
def test_a_wrong_draft_changes_nothing(recogniser: Recogniser, others: str) -> None:
    for said in short_clips():
        plain = recogniser.recognise(said.pcm)
        draft = {
            "a wrong beginning": (1000, *plain.tokens),
            "more than was said": (*plain.tokens, *plain.tokens),
            "nothing but the end": (2, 2, 2),
        }[others]
        assert recogniser.recognise(said.pcm, draft) == plain


@pytest.mark.models
@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0, 3.0])
def test_what_is_no_speech_has_no_words(recogniser: Recogniser, seconds: float) -> None:
    count = round(seconds * INPUT_RATE)
    time = np.arange(count) / INPUT_RATE
    rng = np.random.default_rng(1)
    sounds = {
        "silence": np.zeros(count),
        "faint noise": rng.normal(0, 30, count),
        "loud noise": rng.normal(0, 2000, count),
        "hum": 3000 * np.sin(2 * np.pi * 100 * time),
        "tone": 6000 * np.sin(2 * np.pi * 1000 * time),
        "thump": rng.normal(0, 8000, count) * np.exp(-(((time - seconds / 2) / 0.08) ** 2)),
    }
    assert {name: recogniser.transcribe(sound.astype(np.int16)) for name, sound in sounds.items()} == dict.fromkeys(
        sounds, ""
    )


@pytest.mark.models
@pytest.mark.parametrize("words", ["Stop.", "Wait.", "Hold on.", "No.", "Yeah.", "Okay.", "Right?", "What about Rome?"])
def test_a_short_clip_is_understood(recogniser: Recogniser, words: str) -> None:
    said = spoken(words)
    loud = np.flatnonzero(np.abs(said) > 300)
    assert normalise(recogniser.overhear(said[loud[0] : loud[-1]])) == normalise(words)


@pytest.mark.models
def test_a_crowd_is_no_clip_of_words(recogniser: Recogniser) -> None:
    """Five readers at once, and noise."""
    readers = [clip(name).pcm.astype(np.float64) for name in ("lv_0870", "lv_0880", "lv_0890", "lv_0920", "lv_0930")]
    rng, heard = np.random.default_rng(0), []
    for number in range(12):
        count = INPUT_RATE * (6, 10)[number % 2] // 10
        crowd = np.zeros(count)
        for reader in readers:
            start = rng.integers(0, len(reader) - count)
            part = reader[start : start + count]
            crowd += part / np.abs(part).max()
        pcm = (crowd / np.abs(crowd).max() * 8000).astype(np.int16)
        heard.append(classify(recogniser.overhear(pcm), "en"))
        heard.append(classify(recogniser.overhear(rng.normal(0, 2000, count).astype(np.int16)), "en"))
    assert sum(meaning in ("words", "stop") for meaning in heard) <= 2


@pytest.mark.models
def test_long_speech_is_cut_at_pauses_and_nothing_is_lost(recogniser: Recogniser) -> None:
    spoken = [clip(name) for name in ("lv_0870", "lv_0880", "lv_0890", "lv_0920", "lv_0930", "something")] * 2
    pcm = np.concatenate([part for one in spoken for part in (one.pcm, silence(0.3))])
    assert len(pcm) > 50 * INPUT_RATE
    expected = [word for one in spoken for word in normalise(one.words)]
    assert edits(expected, normalise(whole(recogniser, pcm))) / len(expected) < 0.08


def test_cuts_do_not_depend_on_what_follows() -> None:
    pcm = np.concatenate([one.pcm for one in clips()])
    first = next_cut(pcm)
    assert first is not None
    lengths = range(first + 2 * INPUT_RATE, len(pcm), INPUT_RATE)
    assert {next_cut(pcm[:length]) for length in lengths} <= {None, first}
    assert next_cut(pcm[: 10 * INPUT_RATE]) is None


def test_noise_without_a_pause_is_cut_all_the_same() -> None:
    noise = with_noise(silence(60), 3000)
    sizes = []
    while (cut := next_cut(noise)) is not None:
        sizes.append(cut / INPUT_RATE)
        noise = noise[cut:]
    assert len(sizes) >= 2
    assert all(6 <= size <= 21 for size in sizes)


def test_a_pause_is_noticed_and_ends_with_the_next_word() -> None:
    spoken = clip("card1").pcm
    utterance = heard(np.concatenate([spoken, silence(0.3)]))
    assert utterance.pausing
    assert utterance.needed < utterance.samples
    utterance.understand(Understood(utterance.samples, "ten of clubs"))
    assert utterance.complete
    for chunk in (spoken[start : start + STEP] for start in range(0, len(spoken) // 2, STEP)):
        utterance.append(chunk)
    assert not utterance.complete


def test_speech_on_its_way_is_no_pause() -> None:
    spoken = clip("lv_0870").pcm
    utterance = Utterance()
    pauses = 0
    for start in range(0, len(spoken) - INPUT_RATE // 2, STEP):
        utterance.append(spoken[start : start + STEP])
        pauses += start > INPUT_RATE and utterance.pausing
    assert pauses * STEP < 0.1 * len(spoken)
    assert PAUSE_MS * INPUT_RATE // 1000 > STEP


def test_an_utterance_is_cut_back_to_what_it_was() -> None:
    pcm = np.concatenate([clip("card3").pcm, silence(0.4)])
    utterance = heard(pcm)
    chunks, pausing = utterance.chunks, utterance.pausing
    utterance.understand(Understood(utterance.samples, "seven of clubs"))
    utterance.append(clip("card1").pcm)
    utterance.settled.append(Understood(utterance.samples, "seven of clubs"))
    utterance.understand(Understood(utterance.samples, "more"))
    assert utterance.latest == Understood(utterance.samples, "seven of clubs more")
    utterance.cut(chunks)
    np.testing.assert_array_equal(utterance.audio(), pcm)
    assert (utterance.pausing, utterance.settled, utterance.latest) == (pausing, [], None)


def test_audio_may_come_in_packets_of_any_size() -> None:
    pcm = np.concatenate([clip("card3").pcm, silence(0.4)])
    at_once = Utterance()
    at_once.append(pcm)
    in_steps = heard(pcm)
    assert (at_once.needed, at_once.pausing) == (in_steps.needed, in_steps.pausing)
    odd = Utterance()
    for start in range(0, len(pcm), 1001):
        odd.append(pcm[start : start + 1001])
    assert odd.pausing
    assert abs(odd.needed - in_steps.needed) <= 2 * STEP


def test_audio_can_be_had_from_any_sample_on() -> None:
    pcm = clip("card1").pcm
    utterance = heard(pcm)
    for start in (0, 1, STEP, STEP + 1, len(pcm) - 1, len(pcm)):
        np.testing.assert_array_equal(utterance.audio(start), pcm[start:])


def test_a_pause_is_left_alone_while_it_begins_and_soft_speech_is_not() -> None:
    rng = np.random.default_rng(1)
    utterance = heard(rng.normal(0, 3000, INPUT_RATE).astype(np.int16))
    fading, worth = [], []
    for _ in range(30):
        utterance.append(rng.normal(0, 3000 * 0.07, STEP).astype(np.int16))
        fading.append(utterance.fading)
        worth.append(utterance.worth_hearing(INPUT_RATE // 10))
    assert fading == [False, *[True] * 18, *[False] * 11]
    assert worth[1:19] == [False] * 18
    assert worth[19:] == [True] * 11
    utterance.append(rng.normal(0, 3000, STEP).astype(np.int16))
    assert not utterance.fading


def test_the_last_word_is_expected_only_at_a_pause() -> None:
    utterance = heard(np.full(INPUT_RATE, 5000, np.int16))
    assert utterance.expected == ""
    utterance.understand(Understood(INPUT_RATE // 2, "Eight of space"))
    assert utterance.expected == "Eight of"
    utterance.append(silence(0.5))
    utterance.understand(Understood(utterance.samples, "Eight of spades, four"))
    assert utterance.expected == "Eight of spades, four"


def test_a_pause_is_heard_once() -> None:
    utterance = heard(np.full(INPUT_RATE, 5000, np.int16))
    heard_at = []
    for _ in range(50):
        utterance.append(silence(0.02))
        if utterance.worth_hearing(10 * INPUT_RATE):
            heard_at.append(utterance.samples)
            utterance.understand(Understood(utterance.samples, "seven of clubs"))
    assert heard_at == [INPUT_RATE + PAUSE_MS * INPUT_RATE // 1000]
    assert utterance.complete


def test_a_broken_model_file_is_named(tmp_path: object) -> None:
    from pathlib import Path

    broken = Path(str(tmp_path)) / "encoder.ort"
    broken.write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"encoder\.ort.*--fetch"):
        Recogniser(broken, broken, broken, threads=1)
