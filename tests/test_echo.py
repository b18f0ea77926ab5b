"""The assistant's voice in the microphone, through Opus, a loudspeaker and a room, with the real detector of speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni_rt.client.speech import load_vad, read_speech
from omni_rt.core.timeline import WINDOW_MS
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.echo import Echo
from omni_rt.media.resample import resample
from omni_rt.media.vad import WINDOW, SileroVad, VadState
from tools.echo_room import Room

CLIPS = Path(__file__).parent / "data" / "speech"
FRAME = OUTPUT_RATE // 50
SECONDS = 24

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return load_vad()


@pytest.fixture(scope="module")
def reply() -> Pcm:
    """A voice that goes on for all the time, 24 kHz."""
    clip = resample(read_speech(CLIPS / "beckett.wav"), INPUT_RATE, OUTPUT_RATE)
    clip = (clip * (24_000 / np.abs(clip).max())).astype(np.int16)
    return np.tile(clip, SECONDS * OUTPUT_RATE // len(clip) + 1)[: SECONDS * OUTPUT_RATE]


def nobody() -> Pcm:
    return np.zeros(SECONDS * INPUT_RATE, np.int16)


def probabilities(vad: SileroVad, microphone: Pcm, reply: Pcm | None) -> list[float]:
    """Of each window of speech that is not the assistant's; with `reply` None, of all speech."""
    echo, state, speech, sent = Echo(), VadState(), list[float](), 0
    for at in range(0, len(microphone) - WINDOW + 1, WINDOW):
        window = microphone[at : at + WINDOW]
        if reply is None:
            speech.append(vad.step(state, window))
            continue
        while sent * INPUT_RATE // OUTPUT_RATE < at + WINDOW and sent < len(reply):
            echo.played(reply[sent : sent + FRAME], sent * 1000 / OUTPUT_RATE, at + WINDOW)
            sent += FRAME
        heard = echo.hear(window, at)
        speech.append(vad.step(state, heard.pcm) * (1 - heard.explained))
    return speech


def longest_ms(speech: list[float]) -> int:
    """The longest stretch taken for speech; a window that is none takes away what one that is has given."""
    run = most = 0
    for probability in speech:
        run = run + 1 if probability >= 0.5 else max(0, run - 1)
        most = max(most, run)
    return most * WINDOW_MS


@pytest.mark.parametrize(
    "room",
    [
        Room(),
        Room(delay_ms=((0, 300),), level_db=((0, -10), (3000, -30)), seed=1),
        Room(delay_ms=((0, 60), (12_000, 220)), loss=0.05, noise_db=-55, seed=2),
    ],
    ids=["usual", "loud at first", "loss and a jump"],
)
def test_its_own_voice_interrupts_nothing(vad: SileroVad, reply: Pcm, room: Room) -> None:
    microphone = room.microphone(reply, nobody())
    assert longest_ms(probabilities(vad, microphone, None)) > 448, "else there is nothing to be found"
    assert longest_ms(probabilities(vad, microphone, reply)) < 224


@pytest.mark.parametrize("at_ms", [1500, 12_000])
def test_who_speaks_over_it_is_found_in_time(vad: SileroVad, reply: Pcm, at_ms: int) -> None:
    """Within a quarter of a second of when the detector finds the same speech in a silent room."""
    person = nobody()
    clip = read_speech(CLIPS / "goforward.wav")[: 4 * INPUT_RATE]
    start = at_ms * INPUT_RATE // 1000
    person[start : start + len(clip)] = clip

    def found_ms(speech: list[float]) -> int:
        run = 0
        for number in range(at_ms // WINDOW_MS, len(speech)):
            run = run + 1 if speech[number] >= 0.5 else max(0, run - 1)
            if run * WINDOW_MS >= 96:
                return number * WINDOW_MS
        raise AssertionError("nobody was found")

    alone = found_ms(probabilities(vad, person, None))
    heard = found_ms(probabilities(vad, Room().microphone(reply, person), reply))
    assert heard - alone <= 256


def test_without_a_reply_the_microphone_is_what_it_was() -> None:
    echo = Echo()
    rng = np.random.default_rng(0)
    for number in range(50):
        window = rng.integers(-3000, 3000, WINDOW).astype(np.int16)
        heard = echo.hear(window, number * WINDOW)
        assert heard.explained == 0
        assert np.array_equal(heard.pcm, window)


def test_the_same_sound_gives_the_same_result(reply: Pcm) -> None:
    microphone = Room().microphone(reply, nobody())[: 6 * INPUT_RATE]

    def left() -> list[tuple[bytes, float]]:
        echo, out = Echo(), []
        for at in range(0, len(microphone) - WINDOW + 1, WINDOW):
            begin = at * OUTPUT_RATE // INPUT_RATE
            echo.played(reply[begin : begin + WINDOW * 3 // 2], begin * 1000 / OUTPUT_RATE, at)
            heard = echo.hear(microphone[at : at + WINDOW], at)
            out.append((heard.pcm.tobytes(), heard.explained))
        return out

    assert left() == left()
