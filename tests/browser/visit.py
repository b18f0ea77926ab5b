"""A person in front of the page: what they press and say, what they see and hear."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

Event = dict[str, Any]
Samples = NDArray[np.int16]

RATE = 24_000
# Quieter than this, at 16 bit, is silence to a listener.
QUIET = 40
PATIENCE_MS = 120_000
_OPEN = ("output_audio_buffer.started",)
_CLOSED = ("output_audio_buffer.stopped", "output_audio_buffer.cleared")


class Visit:
    """One page. Waits are generous: they end a broken test, they measure nothing."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_MS)
        self.folder = folder

    # pressing and saying

    def start(self) -> None:
        """Press the start control and wait until the call is on."""
        self.page.locator("#orb").click()
        self.event("session.created")

    def type(self, text: str) -> None:
        self.page.locator("#message").fill(text)
        self.page.locator("#message").press("Enter")

    def say(self, wav: Path) -> None:
        """Speak into a scripted microphone; returns when it was said."""
        self.page.evaluate("wav => probe.say(wav)", base64.b64encode(wav.read_bytes()).decode())

    def speak(self, pcm: Samples) -> None:
        """The same with 16 kHz sound."""
        wav = self.folder / "said.wav"
        write_wav(wav, pcm, 16_000)
        self.say(wav)

    def send(self, event: Event) -> None:
        """A client event that the page itself would not send."""
        self.page.evaluate("event => probe.send(event)", event)

    # seeing

    def expect_word(self, word: str) -> None:
        """The start control shows this word."""
        expect(self.page.locator("#orb-word")).to_have_text(word, timeout=PATIENCE_MS)

    def expect_failure(self, code: str) -> str:
        """The failure box shows this failure; returns its words."""
        box = self.page.locator("#failure")
        expect(box).to_have_attribute("data-code", code, timeout=PATIENCE_MS)
        expect(box).to_be_visible()
        expect(self.page.locator("#orb-word")).to_have_text("Not connected")
        return box.inner_text()

    def captions(self, role: str) -> list[str]:
        """The lines of `user` or `assistant`, without the marks."""
        return self.page.locator(f".line[data-role={role}] .heard").all_inner_texts()

    # events

    def events(self, kind: str | None = None) -> list[Event]:
        """Server events of this kind so far. `at` says when each came, on the recording's clock."""
        found: list[Event] = self.page.evaluate("kind => probe.events.filter(e => !kind || e.type === kind)", kind)
        return found

    def event(self, kind: str, number: int = 1) -> Event:
        """Wait for the `number`th event of this kind, counted from 1."""
        self.until(f"{number} of {kind}", lambda: len(self.events(kind)) >= number)
        return self.events(kind)[number - 1]

    def until(self, what: str, happened: Callable[[], Any]) -> None:
        """Wait until `happened()` is true; `what` names it if it never is."""
        for _ in range(PATIENCE_MS // 100):
            if happened():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"waited in vain for {what}")

    def pause(self, ms: float) -> None:
        """Let time pass in the conversation."""
        self.page.wait_for_timeout(ms)

    def silence_after_reply(self) -> None:
        """Wait until a turn was answered, the answer has been played, and nobody is about to say more."""

        def settled() -> bool:
            counts = {kind: len(self.events(kind)) for kind in (*_OPEN, *_CLOSED, "response.created", "response.done")}
            opened, closed = sum(counts[k] for k in _OPEN), sum(counts[k] for k in _CLOSED)
            return 0 < opened == closed and counts["response.created"] == counts["response.done"]

        def settled_for_a_while() -> bool:
            if not settled():
                return False
            before = len(self.events())
            self.pause(2500)
            return settled() and len(self.events()) == before

        self.until("the end of a reply", settled_for_a_while)

    # hearing

    def now(self) -> float:
        """Where the recording is, in ms."""
        at: float = self.page.evaluate("probe.now()")
        return at

    def heard(self, start_ms: float, end_ms: float) -> Samples:
        """What came out of the loudspeaker between two places of the recording, when it is recorded: 24 kHz mono."""
        self.until("the recording", lambda: self.page.evaluate("probe.recorded()") >= end_ms)
        text = self.page.evaluate("([a, b]) => probe.pcm(a, b)", [start_ms, end_ms])
        return np.frombuffer(base64.b64decode(text), np.int16)

    def filled_ms(self) -> float:
        """How much audible sound the browser has made of its own so far, where none came in time, less what it left out
        to catch up."""
        ms: float = self.page.evaluate("probe.filled()")
        return ms

    def keep(self) -> None:
        """Leave behind what explains a failure: screenshot, events, recording."""
        self.page.screenshot(path=self.folder / "page.png")
        events = self.page.evaluate("window.probe ? probe.events : []")
        (self.folder / "events.json").write_text(json.dumps(events, indent=1))
        if self.page.evaluate("Boolean(window.probe) && probe.recorded() > 0"):
            write_wav(self.folder / "heard.wav", self.heard(0, self.page.evaluate("probe.recorded()")), RATE)


def write_wav(path: Path, pcm: Samples, rate: int) -> None:
    with av.open(path, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        if len(pcm):
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def resample(pcm: Samples, rate: int, to: int) -> Samples:
    """Mono to mono."""
    if len(pcm) == 0:
        return pcm
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm)[None], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=to)
    pieces = [piece.to_ndarray()[0] for piece in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(pieces).astype(np.int16)


def camera_film(picture: Path, film: Path) -> None:
    """A y4m film of one standing picture, as Chromium's fake camera takes it."""
    with av.open(picture) as container:
        frame = next(container.decode(video=0)).reformat(format="yuv420p", width=640, height=480)
    planes = frame.to_ndarray().tobytes()
    film.write_bytes(b"YUV4MPEG2 W640 H480 F15:1 Ip A1:1 C420mpeg2\n" + 15 * (b"FRAME\n" + planes))


def microphone_tape(speech: Samples, tape: Path, lead_s: float) -> None:
    """A 48 kHz wav with silence before and after; 16 kHz speech in."""
    loud = resample(speech, 16_000, 48_000)
    quiet = np.zeros(round(lead_s * 48_000), np.int16)
    write_wav(tape, np.concatenate([quiet, loud, np.zeros(48_000, np.int16)]), 48_000)
