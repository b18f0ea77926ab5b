"""Short phrases and murmurs over a reply, of which the recogniser alone makes something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from omni_rt.core.overheard import classify
from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.engine.local import asr
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.spotting import Spotted, tokens_of
from omni_rt.models.manifest import ASR
from tests.support.local import spoken
from tests.support.speech import model
from tools.duplex.clips import Clip, for_tuning, read_clips
from tools.duplex.microphone import in_room
from tools.duplex.sounds import crowd

SEEDS = range(3)
BEFORE, AFTER = INPUT_RATE * 6 // 100, INPUT_RATE // 10

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(*(model(name) for name in ASR), threads=2)


@pytest.fixture(scope="module")
def clips() -> dict[str, Clip]:
    return {clip.name: clip for clip in for_tuning(read_clips())}


def as_overheard(clip: Clip, seed: int) -> Pcm:
    """From a little before its onset to a little after its end, in a quiet room."""
    return noisy(clip.pcm[max(0, clip.onset - BEFORE) : clip.offset + AFTER][: INPUT_RATE * 3 // 2], seed)


def noisy(pcm: npt.NDArray[Any], seed: int) -> Pcm:
    return in_room(pcm, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["stop_slt", "hold_on_slt", "stop_awb", "stop_rms", "wait_rms", "one_moment"])
def test_who_wants_quiet_is_understood(name: str, seed: int, recogniser: Recogniser, clips: dict[str, Clip]) -> None:
    assert classify(recogniser.overhear(as_overheard(clips[name], seed)), "en") == "stop"


def test_a_phrase_that_the_recogniser_was_not_sure_of_is_found(
    recogniser: Recogniser, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without looking for it, it is noise or another word at least once."""
    heard = [as_overheard(clips[name], seed) for name in ("stop_slt", "hold_on_slt") for seed in SEEDS]
    monkeypatch.setattr(recogniser._spotter, "spot", lambda *_: Spotted())
    assert any(classify(recogniser.overhear(pcm), "en") != "stop" for pcm in heard)


def test_a_phrase_is_found_that_is_heard_only_with_more_silence_around(
    recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = spoken("Hush.")
    loud = np.flatnonzero(np.abs(said) > 300)
    clip = said[max(0, loud[0] - BEFORE) : loud[-1] + AFTER]
    soft = [noisy(clip * gain, seed) for gain in (0.1, 0.03) for seed in range(6)]

    def found() -> int:
        return sum(classify(recogniser.overhear(pcm), "en") == "stop" for pcm in soft)

    twice = found()
    monkeypatch.setattr(asr, "_MORE_AROUND", asr._AROUND_CLIP)
    assert twice >= found() + 2


@pytest.mark.parametrize("name", ["right_rms", "right_awb", "yeah_awb", "oh_letter", "mm_hm_1", "mm_hm_3"])
def test_who_only_listens_is_understood(name: str, recogniser: Recogniser, clips: dict[str, Clip]) -> None:
    """The recogniser alone makes "Bright." of one."""
    heard = [recogniser.overhear(as_overheard(clips[name], seed)) for seed in SEEDS]
    assert {classify(text, "en") for text in heard} <= {"backchannel", "nothing"}, heard


@pytest.mark.parametrize("words", ["What?", "Why?", "Help.", "Next.", "Louder.", "No.", "Seven.", "Not that one."])
def test_a_short_word_is_no_murmur(words: str, recogniser: Recogniser) -> None:
    said = spoken(words)
    loud = np.flatnonzero(np.abs(said) > 300)
    assert classify(recogniser.overhear(said[loud[0] : loud[-1]]), "en") == "words"


@pytest.mark.parametrize("kind", ["backchannel", "cough", "typing", "answer"])
def test_nothing_else_wants_quiet(kind: str, recogniser: Recogniser, clips: dict[str, Clip]) -> None:
    heard = [as_overheard(clip, seed) for clip in clips.values() if clip.kind == kind for seed in SEEDS]
    assert "stop" not in [classify(recogniser.overhear(pcm), "en") for pcm in heard]


def test_a_crowd_does_not_want_quiet(recogniser: Recogniser, clips: dict[str, Clip]) -> None:
    readers, found = [clip for clip in clips.values() if clip.kind == "turn"], []
    for seed in range(10):
        pcm = crowd(readers, 4.0, seed).pcm
        for start_ms, length_ms in ((500, 400), (1500, 650), (2500, 900)):
            part = pcm[start_ms * INPUT_RATE // 1000 :][: length_ms * INPUT_RATE // 1000]
            found.append(classify(recogniser.overhear(noisy(part, seed)), "en"))
    assert "stop" not in found


def test_tokens_are_those_that_the_recogniser_writes(recogniser: Recogniser, clips: dict[str, Clip]) -> None:
    index = {piece: number for number, piece in enumerate(recogniser._words)}
    said = {"question_rms": "What time is it?", "try_again": "Please try again.", "stop_awb": "Stop."}
    for name, text in said.items():
        found = recogniser.recognise(as_overheard(clips[name], 0))
        assert (found.text, found.tokens) == (text, tokens_of(text, index))


def test_likelihoods_are_those_with_which_it_writes(recogniser: Recogniser, clips: dict[str, Clip]) -> None:
    """Read at once, beside shorter and longer phrases, each token is as likely as written after the ones before, but
    for the model's weights of 8 bits, whose steps depend on what is read together."""
    for name in ("question_rms", "stop_awb", "yes_rms"):
        sound = recogniser._listen(as_overheard(clips[name], 0).astype(np.float32) / 32768)
        written = recogniser._write(sound)
        others = [(5,), (7, 8, 9, 10, 11, 12, 13, 14, 15, 16)]
        found = recogniser._likelihoods(sound, [others[0], tuple(written.tokens), others[1]])
        assert found[1] == pytest.approx(sum(written.sureness), abs=0.1)
        assert max(found[0], found[2]) < found[1] - 5
