"""Talking with the default models through the page: what was understood, said, heard, seen and cut."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import expect

from omni_rt.client.words import edits, normalise, word_error_rate
from tests.browser.conftest import DATA, Open
from tests.browser.visit import QUIET, RATE, Samples, Visit, camera_film, microphone_tape, resample
from tests.support import speech
from tests.support.ears import transcribe
from tests.support.server import RunningServer

# The fake microphone plays from the moment it is opened; the call is on well before this is over.
LEAD_S = 4.0
# Into go_on.wav, just before its last word ends: nobody answers it earlier.
GO_ON_MS = 2000
COUNT = normalise(" ".join(map(str, range(1, 20))))

_NUMBER = re.compile(r"^\d+$")

pytestmark = pytest.mark.models


def recorded(name: str) -> tuple[Samples, str]:
    """A clip of human speech, or a question in a voice that is not the server's; and its words."""
    if (DATA / f"{name}.wav").exists():
        pcm, _ = soundfile.read(DATA / f"{name}.wav", dtype="int16")
        return pcm, (DATA / f"{name}.txt").read_text(encoding="utf-8").strip()
    clip = speech.clip(name)
    return clip.pcm, clip.words


def call_with_tape(open_page: Open, server: RunningServer, folder: Path, name: str, *flags: str) -> tuple[Visit, str]:
    """A call in which Chromium's fake microphone plays a recording once; and its words."""
    pcm, said = recorded(name)
    tape = folder / f"{name}.wav"
    microphone_tape(pcm, tape, LEAD_S)
    visit = open_page(server.url, f"--use-file-for-fake-audio-capture={tape}%noloop", *flags)
    visit.start()
    return visit, said


def heard_reply(visit: Visit) -> Samples:
    """16 kHz: the last reply as it came out of the browser."""
    started = visit.events("output_audio_buffer.started")[-1]["at"]
    ended = [e["at"] for kind in ("stopped", "cleared") for e in visit.events(f"output_audio_buffer.{kind}")]
    return resample(visit.heard(started - 200, max(ended) + 600), RATE, 16_000)


@pytest.mark.parametrize("name", ["lv_0880", "something", "capital_of_france", "why_is_the_sky_blue"])
def test_speech_is_understood_and_the_answer_heard(
    open_page: Open, server: RunningServer, tmp_path: Path, name: str
) -> None:
    visit, said = call_with_tape(open_page, server, tmp_path, name)
    visit.silence_after_reply()

    understood = " ".join(
        e["transcript"] for e in visit.events("conversation.item.input_audio_transcription.completed")
    )
    assert word_error_rate(said, understood) <= 0.2, f"said {said!r}, understood {understood!r}"
    assert " ".join(visit.captions("user")) == understood.strip()

    answer = visit.events("response.output_audio_transcript.done")[-1]["transcript"]
    assert normalise(answer)
    assert visit.captions("assistant")[-1] == answer.strip()
    sounded = transcribe(heard_reply(visit))
    assert word_error_rate(answer, sounded) <= 0.25, f"written {answer!r}, sounded {sounded!r}"


@pytest.mark.parametrize("busy", [False, True], ids=["page_idle", "page_busy"])
def test_an_interrupted_answer_stops_and_is_remembered_as_heard(
    open_page: Open, server: RunningServer, busy: bool
) -> None:
    visit = open_page(server.url)
    visit.page.evaluate("() => probe.scriptMicrophone()")
    visit.start()
    visit.type("Please count from one to fifty, in words.")
    started = visit.event("output_audio_buffer.started")
    visit.until("some counting", lambda: visit.now() > started["at"] + 3000)
    if busy:
        visit.page.evaluate("() => probe.busy(400)")
    interrupted = visit.now()
    visit.say(DATA / "go_on.wav")

    cleared = visit.event("output_audio_buffer.cleared")
    cut = visit.event("conversation.item.truncated")
    visit.event("output_audio_buffer.started", 2)

    # The sound stops, and what was still on its way is not heard while the user speaks on.
    after = visit.heard(cleared["at"] + 150, interrupted + GO_ON_MS)
    assert len(after) == 0 or np.abs(after).max() < QUIET

    # History, page and recording tell the same.
    claimed = normalise(cut["transcript"])
    visit.send({"type": "conversation.item.retrieve", "item_id": cut["item_id"]})
    item = visit.event("conversation.item.retrieved")["item"]
    assert normalise(item["content"][0]["transcript"]) == claimed
    line = visit.page.locator(".line[data-state=cut]")
    expect(line.locator(".heard")).to_have_text(cut["transcript"].strip())
    expect(line.locator(".cut")).to_be_visible()
    written = normalise(said_of(visit, cut["item_id"]))
    recorded = transcribe(resample(visit.heard(started["at"] - 200, cleared["at"] + 300), RATE, 16_000))
    # Counting says no number twice; the recogniser repeats a word that is cut off.
    heard = [word for word, _ in groupby(normalise(recorded))]
    assert claimed == written[: len(claimed)]
    assert edits(claimed, heard) <= 1, f"claimed {claimed}, heard {heard}"

    # The next answer goes on from there, not from where the writing had got to.
    def answer() -> list[str]:
        replies = [e["item_id"] for e in visit.events("response.output_audio_transcript.delta")]
        return normalise(said_of(visit, replies[-1])) if replies[-1] != cut["item_id"] else []

    def counted() -> list[str]:
        """The model may say first that it goes on."""
        return [word for word in answer() if word in COUNT]

    visit.until("the next answer", lambda: len(counted()) > 1 or len(visit.events("response.done")) > 1)
    last = COUNT.index(claimed[-1])
    due = set(COUNT[last : last + 3])
    assert set(counted()[:2]) & due, f"heard {claimed} of {written}, answered {answer()}"


def said_of(visit: Visit, item_id: str) -> str:
    """What was written of an answer so far."""
    deltas = visit.events("response.output_audio_transcript.delta")
    return "".join(event["delta"] for event in deltas if event["item_id"] == item_id)


def test_shown_a_picture_it_names_what_is_in_it(open_page: Open, server: RunningServer, tmp_path: Path) -> None:
    film = tmp_path / "camera.y4m"
    camera_film(DATA / "cat_and_sign.jpg", film)
    visit = open_page(server.url, f"--use-file-for-fake-video-capture={film}")
    visit.page.evaluate("() => probe.scriptMicrophone()")
    visit.start()
    visit.page.get_by_role("button", name="Camera").click()
    expect(visit.page.locator("#selfview")).to_be_visible()
    expect(visit.page.get_by_role("button", name="Stop camera")).to_be_visible()
    visit.pause(4000)
    visit.say(DATA / "what_do_you_see.wav")
    visit.silence_after_reply()
    answer = normalise(visit.events("response.output_audio_transcript.done")[-1]["transcript"])
    assert {"cat", "kitten", "harbor", "cafe"} & set(answer), f"answered {answer}"


def test_a_muted_microphone_sends_silence(open_page: Open, server: RunningServer, tmp_path: Path) -> None:
    pcm, _ = recorded("capital_of_france")
    tape = tmp_path / "loop.wav"
    microphone_tape(pcm, tape, 1.0)
    visit = open_page(server.url, f"--use-file-for-fake-audio-capture={tape}")
    visit.start()
    visit.page.get_by_role("button", name="Mute", exact=True).click()
    visit.expect_word("Muted")
    visit.pause(1000)
    energy = visit.page.evaluate(_SENT_ENERGY)
    turns = len(visit.events("input_audio_buffer.speech_started"))
    visit.pause(6000)
    assert visit.page.evaluate(_SENT_ENERGY) == energy
    assert len(visit.events("input_audio_buffer.speech_started")) == turns

    visit.page.get_by_role("button", name="Unmute", exact=True).click()
    visit.event("input_audio_buffer.speech_started", turns + 1)
    assert visit.page.evaluate(_SENT_ENERGY) > energy


_SENT_ENERGY = """async () => {
    const reports = [...(await probe.peers.at(-1).getStats()).values()];
    return reports.find((report) => report.type === "media-source" && report.kind === "audio").totalAudioEnergy;
}"""


def test_a_call_by_keyboard_alone(open_page: Open, server: RunningServer) -> None:
    visit = open_page(server.url)
    visit.page.evaluate("() => probe.scriptMicrophone()")
    for _ in range(10):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.id") == "orb":
            break
    visit.page.keyboard.press("Enter")
    visit.expect_word("Listening")
    expect(visit.page.locator("#announcer")).to_have_text("Connected. The assistant is listening.")
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Space")
    visit.expect_word("Muted")
    for _ in range(3):
        visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    visit.expect_word("Start")
    expect(visit.page.locator("#announcer")).to_have_text("The call has ended.")
    expect(visit.page.locator("#orb")).to_be_focused()


def test_pressing_the_control_silences_the_answer_and_moments_are_shown(open_page: Open, server: RunningServer) -> None:
    visit = open_page(server.url)
    visit.page.evaluate("() => probe.scriptMicrophone()")
    visit.start()
    visit.page.get_by_role("button", name="Timing").click()
    visit.say(DATA / "why_is_the_sky_blue.wav")
    visit.expect_word("Speaking")
    first_sound = visit.page.locator("tr[data-moment=first_audio_sent] td").first
    expect(first_sound).to_have_text(_NUMBER, timeout=20_000)
    visit.page.locator("#orb").click()
    # The page silences itself before the server does, and is not left silent for the next answer.
    visit.page.wait_for_function("document.getElementById('voice').muted")
    cleared = visit.event("output_audio_buffer.cleared")
    visit.expect_word("Listening")
    visit.page.wait_for_function("!document.getElementById('voice').muted")
    visit.pause(500)
    after = visit.heard(cleared["at"] + 150, visit.now())
    assert np.abs(after).max() < QUIET
