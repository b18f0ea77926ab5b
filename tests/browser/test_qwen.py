"""The Qwen3-Omni engine with tiny random weights before a real Chromium. What it says is random or, where a test says
so, scripted; how long it sounds, when it stops and what it is shown are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DATA, Open
from tests.browser.visit import RATE, Samples, Visit, camera_film
from tests.support.server import RunningServer, running_server
from tools.duplex.serving import underruns

pytest.importorskip("torch")

from tests.support.qwen import SCRIPTED, TINY, WRITE

FRAME_MS = 80
# So long a voice that stops abruptly is still audible: 5 ms of fading, then what Opus keeps of it.
DYING_MS = 40
# Quieter than this, at 16 bit, is silence; the noise that random weights make is far louder.
QUIET = 200
# Into go_on.wav, just before its last word ends: nobody answers it earlier.
GO_ON_MS = 2000
# Seven tokens, as many as a reply with its end may have here.
SHORT_WORDS = "A cat on a red chair."
CALL = '<tool_call>\n{"name": "lamp", "arguments": {"on": true}}\n</tool_call>'
LAMP = {
    "type": "function",
    "name": "lamp",
    "description": "Switches the lamp",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
}

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("qwen"), *TINY, factory=SCRIPTED) as running:
        yield running


@pytest.fixture(autouse=True)
def clean_log(qwen: RunningServer) -> Iterator[None]:
    """Whatever happens, nothing fails unforeseen."""
    yield
    assert "Traceback" not in qwen.log.read_text(errors="replace")


def called(open_page: Open, server: RunningServer, *flags: str, **session: object) -> Visit:
    """A call that is on, with a microphone to be spoken into."""
    visit = open_page(server.url, *flags)
    visit.page.evaluate("() => probe.scriptMicrophone()")
    visit.start()
    visit.send({"type": "session.update", "session": {"type": "realtime", **session}})
    visit.event("session.updated")
    return visit


def made_ms(visit: Visit, item_id: str) -> int:
    """How much sound the server made of a reply that was played to its end: no more than all can be kept of it."""
    count = len(visit.events("conversation.item.truncated"))
    visit.send({"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": 600_000})
    length: int = visit.event("conversation.item.truncated", count + 1)["audio_end_ms"]
    return length


def sounded_ms(pcm: Samples) -> float:
    """How much of it is audible, in steps of 10 ms."""
    step = RATE // 100
    pieces = np.abs(pcm[: len(pcm) // step * step].astype(np.int32)).reshape(-1, step)
    return 10.0 * int(np.count_nonzero(pieces.max(axis=1) > QUIET))


def test_a_typed_turn_is_heard_frame_by_frame_and_a_call_is_not(open_page: Open, qwen: RunningServer) -> None:
    visit = called(open_page, qwen, tools=[LAMP])
    filled, dry = visit.filled_ms(), underruns(qwen.url)
    visit.type(f"{WRITE}<think>It is dark.</think>I switch it on.{CALL}")
    started = visit.event("output_audio_buffer.started")
    stopped = visit.event("output_audio_buffer.stopped")
    done = visit.events("response.done")[-1]["response"]
    assert done["status"] == "completed"
    assert [item["type"] for item in done["output"]] == ["message", "function_call"]

    # Neither thought nor call is spoken or shown.
    assert visit.captions("assistant") == ["I switch it on."]
    call = visit.event("response.function_call_arguments.done")
    assert (call["name"], json.loads(call["arguments"])) == ("lamp", {"on": True})

    # Every frame of 80 ms that was made is heard, and nothing else but what the browser filled gaps with, as frames
    # come late from a busy machine, and how the voice dies away each time that it runs dry.
    made = made_ms(visit, done["output"][0]["id"])
    assert made > 0
    assert made % FRAME_MS == 0
    sounded = sounded_ms(visit.heard(started["at"] - 500, stopped["at"] + 1000))
    filled, dry = visit.filled_ms() - filled, underruns(qwen.url) - dry
    print("made", made, "sounded", sounded, "filled", filled, "dry", dry, "timeline", stopped["at"] - started["at"])
    assert made - 2 * FRAME_MS <= sounded - filled <= made + 2 * FRAME_MS + dry * DYING_MS

    # The tool's result makes a further reply.
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "it is on"}
    visit.send({"type": "conversation.item.create", "item": output})
    visit.send({"type": "response.create", "response": {"max_output_tokens": 4}})
    visit.event("output_audio_buffer.stopped", 2)
    assert visit.events("error") == []


def test_turns_by_voice_an_interruption_and_the_camera(open_page: Open, qwen: RunningServer, tmp_path: Path) -> None:
    film = tmp_path / "camera.y4m"
    camera_film(DATA / "cat_and_sign.jpg", film)
    visit = called(open_page, qwen, f"--use-file-for-fake-video-capture={film}", max_output_tokens=8)
    # Random words may have no blank for seconds, and then not one is heard whole when they are broken off.
    hint = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": f"{WRITE}{SHORT_WORDS}"}]}
    visit.send({"type": "conversation.item.create", "item": hint})
    visit.say(DATA / "what_do_you_see.wav")
    started = visit.event("output_audio_buffer.started")
    visit.until("some sound", lambda: visit.now() > started["at"] + 1500)
    spoken = visit.now()
    visit.say(DATA / "go_on.wav")
    cleared = visit.event("output_audio_buffer.cleared")
    cut = visit.event("conversation.item.truncated")
    again = visit.event("output_audio_buffer.started", 2)

    # It falls silent, and what was heard of it is kept.
    assert np.abs(visit.heard(started["at"] + 200, spoken)).max() > QUIET
    after = visit.heard(cleared["at"] + 300, min(again["at"], spoken + GO_ON_MS))
    assert len(after) == 0 or np.abs(after).max() < QUIET
    assert cut["transcript"]
    assert SHORT_WORDS.startswith(cut["transcript"])
    assert 0 < cut["audio_end_ms"] < 10_000

    visit.silence_after_reply()
    before = visit.events("response.done")[-1]["response"]["usage"]
    visit.page.get_by_role("button", name="Camera").click()
    expect(visit.page.get_by_role("button", name="Stop camera")).to_be_visible()
    visit.pause(2500)
    visit.say(DATA / "what_do_you_see.wav")
    visit.event("response.done", 3)
    shown = visit.events("response.done")[-1]["response"]["usage"]
    # a frame of 640 x 480 is 300 tokens; the utterance alone is fewer than 100
    assert shown["input_tokens"] - before["input_tokens"] - before["output_tokens"] > 300
    turns = [event["item_id"] for event in visit.events("input_audio_buffer.committed")]
    visit.until("all transcripts", lambda: set(turns) == {event["item_id"] for event in visit.events(_UNDERSTOOD)})
    assert visit.events("error") == []


_UNDERSTOOD = "conversation.item.input_audio_transcription.completed"
