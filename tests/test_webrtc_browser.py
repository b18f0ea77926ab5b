"""The transport against a real Chromium: what a browser does that aiortc's own client does not."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from omni_rt.config import MediaSettings, ServerSettings
from omni_rt.transport.webrtc import WebRtcTransport
from tests.support.calls import Ear, eventually, only_loopback  # noqa: F401
from tests.support.voices import rms, voiced

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("only_loopback")]

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
]

PAGE = """<!doctype html><audio id=out autoplay></audio><script>
const got = [];
let pc, mic, cam, voice, video, events, playout, receiver, streams;
async function start() {
  pc = new RTCPeerConnection();
  pc.ontrack = (e) => { streams = e.streams.length; receiver = e.receiver; out.srcObject = e.streams[0]; };
  mic = (await navigator.mediaDevices.getUserMedia({audio: true})).getAudioTracks()[0];
  voice = pc.addTransceiver(mic, {direction: 'sendrecv'});
  video = pc.addTransceiver('video', {direction: 'sendonly'});
  events = pc.createDataChannel('oai-events');
  events.onmessage = (m) => got.push(m.data);
  playout = pc.createDataChannel('omni-playout', {ordered: false, maxRetransmits: 0});
  await pc.setLocalDescription();
  await pc.setRemoteDescription({type: 'answer', sdp: await exchange(pc.localDescription.sdp)});
  await new Promise((done) => { events.onopen = done; });
}
async function camera() {
  cam = (await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480}})).getVideoTracks()[0];
  await video.sender.replaceTrack(cam);
}
function report() {
  const s = receiver.getSynchronizationSources()[0];
  playout.send(JSON.stringify({rtp: s.rtpTimestamp, latency_ms: 0,
    age_ms: performance.timeOrigin + performance.now() - s.timestamp}));
}
</script>"""


class Visit:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.ear = Ear()
        self.offer = ""
        self.transport: WebRtcTransport

    async def exchange(self, offer: str) -> str:
        self.offer = offer
        self.transport, answer = await WebRtcTransport.answer(
            offer, self.ear, MediaSettings(frames_per_second=5), ServerSettings()
        )
        return answer

    async def run(self, script: str) -> Any:
        return await self.page.evaluate(script)


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS, ignore_default_args=["--mute-audio"]
        )
        page = await browser.new_page()
        visit = Visit(page)
        await page.route("http://localhost/**", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        await page.expose_function("exchange", visit.exchange)
        await page.goto("http://localhost/")
        await visit.run("start()")
        yield visit
        await browser.close()
        await visit.transport.close()


async def test_an_offer_without_candidates_is_enough_and_the_track_has_a_stream(visit: Visit) -> None:
    assert "a=candidate" not in visit.offer
    assert await visit.run("streams") == 1
    await eventually(lambda: any(rms(pcm) > 100 for pcm, _ in visit.ear.audio), "the fake microphone's beep")
    assert visit.transport.stats().received.buffered_max_ms <= 40


async def test_large_events_arrive_and_the_browser_refuses_to_send_larger_ones(visit: Visit) -> None:
    for size in (20_000, 200_000, 260_000):
        visit.transport.send_event({"type": "t", "data": "x" * size})
    visit.transport.send_event({"type": "t", "data": "x" * 300_000})
    for _ in range(200):
        got = await visit.run("got")
        if len(got) == 4:
            break
        await asyncio.sleep(0.05)
    assert [len(json.loads(text).get("data", "")) for text in got] == [20_000, 200_000, 260_000, 0]
    assert json.loads(got[3])["error"]["code"] == "event_too_large"
    await visit.run("events.send('y'.repeat(250000))")
    await eventually(lambda: visit.ear.events, "the browser's large event")
    assert "max-message-size" in await visit.run(
        "(() => { try { events.send('y'.repeat(300000)) } catch (e) { return String(e) } })()"
    )


async def test_camera_and_microphone_come_go_and_come_again(visit: Visit) -> None:
    ear, transport = visit.ear, visit.transport
    await visit.run("camera()")
    await eventually(lambda: len(ear.frames) > 2, "pictures", 60)
    assert ear.frames[0].shape == (480, 640, 3)

    await visit.run("Promise.all([video.sender.replaceTrack(null), voice.sender.replaceTrack(null)])")
    await asyncio.sleep(0.5)
    frames, packets = transport.stats().frames.decoded, transport.stats().received.packets
    filled = transport.stats().received.filled_ms
    await eventually(lambda: transport.stats().received.filled_ms > filled + 500, "time without a microphone")
    assert transport.stats().frames.decoded == frames
    assert transport.stats().received.packets == packets

    heard, seen = len(ear.audio), len(ear.frames)
    await visit.run("Promise.all([video.sender.replaceTrack(cam), voice.sender.replaceTrack(mic)])")
    await eventually(lambda: len(ear.frames) > seen + 2, "pictures again", 60)
    await eventually(lambda: any(rms(pcm) > 100 for pcm, _ in ear.audio[heard:]), "the beep again")
    assert not ear.closed


async def test_the_page_reports_what_its_loudspeaker_plays(visit: Visit) -> None:
    ear = visit.ear
    visit.transport.send_audio(1, voiced(5.0, 24_000))
    await eventually(lambda: len(ear.sent) > 50, "a second of reply")
    await visit.run("report()")
    await eventually(lambda: ear.heard, "the report")
    assert ear.sent[0].stream_ms <= ear.heard[0] <= ear.sent[-1].stream_ms + 20


async def test_closing_the_page_s_connection_is_noticed(visit: Visit) -> None:
    await visit.run("pc.close()")
    await eventually(lambda: visit.ear.closed, "the end")
    assert visit.ear.closed == ["the client hung up"]
