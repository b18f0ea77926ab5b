"""Whole calls over real sockets: sound, events, playout reports, pictures, barge-in."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import get_capabilities

from omni_rt.config import MediaSettings, ServerSettings
from omni_rt.transport.caller import Arrival, CallError, Camera, Microphone
from omni_rt.transport.webrtc import EVENTS, WebRtcTransport
from tests.support.calls import Ear, call, eventually, only_loopback, picture  # noqa: F401
from tests.support.voices import rms, voiced

pytestmark = pytest.mark.usefixtures("only_loopback")


async def test_what_is_spoken_arrives_at_once_and_whole() -> None:
    async with call() as c:
        await c.caller.speak(voiced(1.0, 16_000))
        await eventually(lambda: c.ear.ms >= 1000, "the speech")
        loud = sum(rms(pcm) > 100 for pcm, _ in c.ear.audio)
        assert 48 <= loud <= 53
        received = c.transport.stats().received
        assert received.lost == received.corrupt == received.late == 0
        assert received.buffered_max_ms == 0
        assert c.ear.ms == 20 * received.packets + received.filled_ms
        assert all(pcm.dtype == np.int16 for pcm, _ in c.ear.audio)


async def test_the_reply_is_heard_whole_and_reported_frame_by_frame() -> None:
    async with call() as c:
        c.transport.send_audio(1, voiced(0.505, 24_000))
        c.transport.end_audio(1)
        await eventually(lambda: len(c.ear.sent) == 26, "26 packets of reply")
        assert [s.reply_ms for s in c.ear.sent] == [20 * k for k in range(26)]
        assert c.ear.sent[-1].duration_ms == pytest.approx(5)
        first = c.ear.sent[0].stream_ms
        assert [s.stream_ms for s in c.ear.sent] == [first + 20 * k for k in range(26)]
        await eventually(lambda: sum(rms(a.pcm) > 100 for a in c.arrivals) >= 25, "the reply at the caller")
        assert c.transport.stats().underruns == 0


async def test_clear_drops_all_that_was_not_sent_and_stale_audio_dies() -> None:
    async with call() as c:
        c.transport.send_audio(1, voiced(10.0, 24_000))
        await eventually(lambda: len(c.ear.sent) >= 10, "the start of the reply")
        c.transport.clear()
        sent = len(c.ear.sent)
        c.transport.send_audio(1, voiced(1.0, 24_000))
        assert c.transport.stats().queued_ms == 0
        assert c.transport.stats().stale == 1
        packets = c.transport.stats().packets_sent
        await eventually(lambda: c.transport.stats().packets_sent > packets + 20, "silence packets")
        assert len(c.ear.sent) == sent
        assert rms(c.arrivals[-1].pcm) < 20
        c.transport.send_audio(2, voiced(0.1, 24_000))
        c.transport.end_audio(2)
        await eventually(lambda: len(c.ear.sent) == sent + 5, "the next reply")
        assert {s.generation for s in c.ear.sent[sent:]} == {2}


async def test_a_playout_report_maps_to_the_track_within_one_packet() -> None:
    async with call() as c:
        await eventually(lambda: len(c.arrivals) > 10, "the track")
        c.transport.send_audio(1, voiced(0.3, 24_000))
        c.transport.end_audio(1)
        await eventually(lambda: len(c.ear.sent) == 15, "the reply")

        def loud() -> list[Arrival]:
            return [a for a in c.arrivals if rms(a.pcm) > 300]

        await eventually(lambda: len(loud()) >= 14, "the reply at the caller")
        onset = loud()[0]
        c.caller.report_playout(onset.rtp)
        await eventually(lambda: c.ear.heard, "the report")
        assert abs(c.ear.heard[0] - c.ear.sent[0].stream_ms) <= 20
        c.caller.report_playout(onset.rtp + 4800, age_ms=30, latency_ms=50)
        await eventually(lambda: len(c.ear.heard) == 2, "the second report")
        assert c.ear.heard[1] - c.ear.heard[0] == pytest.approx(100 + 30 - 50)


async def test_where_a_client_fell_silent_is_told_even_after_a_later_report() -> None:
    async with call(reports=False) as c:
        await eventually(lambda: len(c.arrivals) > 10, "the track")
        first, last = c.arrivals[5], c.arrivals[-1]
        c.caller.report_playout(last.rtp)
        await eventually(lambda: c.ear.heard, "the report")
        c.caller.report_playout(first.rtp, silenced=True)
        await eventually(lambda: c.ear.silenced, "the silence")
        assert c.ear.heard[0] - c.ear.silenced[0] == pytest.approx((last.rtp - first.rtp) / 48)
        assert len(c.ear.heard) == 1


async def test_a_caller_tells_where_it_was_when_the_output_was_cleared() -> None:
    async with call(reports=True) as c:
        await eventually(lambda: c.ear.heard, "a report")
        c.transport.send_event({"type": "output_audio_buffer.cleared"})
        await eventually(lambda: c.ear.silenced, "the silence")
        assert c.ear.silenced[0] >= c.ear.heard[0]


async def test_reports_that_mean_nothing_are_counted_and_ignored() -> None:
    async with call() as c:
        await eventually(lambda: len(c.arrivals) > 10, "the track")
        channel = c.caller._playout
        rtp = c.arrivals[-1].rtp
        broken = ["no json", "[]", "{}", '{"rtp": "x"}', '{"rtp": 1.5}', '{"rtp": true}', '{"rtp": -1}', "x" * 5000]
        broken += [json.dumps({"rtp": rtp, "age_ms": None}), '{"rtp": 1, "age_ms": NaN}', "\ud83d[" * 900]
        broken += [json.dumps({"rtp": (rtp + 48_000 * 3600) & 0xFFFFFFFF})]
        for text in broken:
            channel.send(text.encode("utf-8", "ignore").decode())
        channel.send(b"\xff\xfe")
        channel.send(json.dumps({"rtp": rtp}))
        await eventually(lambda: c.ear.heard, "the good report")
        assert len(c.ear.heard) == 1
        assert c.transport.stats().malformed_reports == len(broken) + 1
        assert c.transport.stats().playout_reports == 1


async def test_events_go_both_ways_and_wait_for_the_channel() -> None:
    async with call() as c:
        assert c.ear.opened == 1
        c.caller.send_event({"type": "session.update", "text": "Grüß Gott 🎈"})
        await eventually(lambda: c.ear.events, "the client's event")
        assert json.loads(c.ear.events[0])["text"] == "Grüß Gott 🎈"
        c.transport.send_event({"type": "session.updated", "text": "Grüß Gott 🎈"})
        event = await asyncio.wait_for(c.caller.events.get(), 20)
        assert event is not None
        assert event["text"] == "Grüß Gott 🎈"
        c.transport.send_note({"moment": "turn_end_decided", "at_ms": 12})
        assert await asyncio.wait_for(c.caller.notes.get(), 20) == {"moment": "turn_end_decided", "at_ms": 12}


async def test_events_sent_before_the_channel_is_open_arrive_in_order() -> None:
    ear = Ear()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio", direction="sendrecv")
    got: list[str] = []
    pc.createDataChannel(EVENTS).on("message", got.append)
    await pc.setLocalDescription(await pc.createOffer())
    transport, answer = await WebRtcTransport.answer(pc.localDescription.sdp, ear, MediaSettings(), ServerSettings())
    for number in range(3):
        transport.send_event({"type": "early", "number": number})
    transport.send_note({"nobody": "listens"})
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await eventually(lambda: len(got) == 3, "the early events")
    assert [json.loads(text)["number"] for text in got] == [0, 1, 2]
    await pc.close()
    await transport.close()


async def test_an_event_of_200_kilobytes_goes_both_ways() -> None:
    async with call() as c:
        c.caller.send_event({"type": "conversation.item.create", "data": "x" * 200_000})
        await eventually(lambda: c.ear.events, "the large event")
        assert len(json.loads(c.ear.events[0])["data"]) == 200_000
        c.transport.send_event({"type": "conversation.item.retrieved", "data": "y" * 200_000})
        event = await asyncio.wait_for(c.caller.events.get(), 30)
        assert event is not None
        assert len(event["data"]) == 200_000


async def test_an_event_of_5_megabytes_becomes_a_named_error_and_the_call_goes_on() -> None:
    async with call() as c:
        c.transport.send_event({"type": "conversation.item.retrieved", "data": "y" * 5_000_000})
        c.transport.send_event({"type": "rate_limits.updated"})
        error = await asyncio.wait_for(c.caller.events.get(), 20)
        assert error is not None
        assert error["type"] == "error"
        assert error["error"]["code"] == "event_too_large"
        assert "conversation.item.retrieved" in error["error"]["message"]
        assert "262144" in error["error"]["message"]
        with pytest.raises(CallError, match="262144") as refused:
            c.caller.send_event({"type": "conversation.item.create", "data": "x" * 5_000_000})
        assert refused.value.code == "event_too_large"
        c.caller.send_event({"type": "still here"})
        await eventually(lambda: c.ear.events, "the next event")
        assert await asyncio.wait_for(c.caller.events.get(), 20) == {"type": "rate_limits.updated"}


async def test_pictures_are_thinned_scaled_and_the_newest() -> None:
    def growing() -> object:
        for red in range(60, 250, 10):
            yield picture(red, 800, 600)

    async with call(camera=growing(), media=MediaSettings(frames_per_second=2, frame_pixels=200)) as c:
        await eventually(lambda: len(c.ear.frames) >= 3, "three pictures", 60)
        stats = c.transport.stats().frames
        assert stats.decoded > stats.kept
        assert {frame.shape for frame in c.ear.frames} == {(150, 200, 3)}
        reds = [int(frame[:, :, 0].mean()) for frame in c.ear.frames[:3]]
        assert reds[0] < reds[1] < reds[2]


async def test_without_a_microphone_time_runs_and_the_voice_is_heard() -> None:
    for direction in ("recvonly", "sendrecv"):
        ear = Ear()
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = pc.addTransceiver("audio", direction=direction)
        pc.createDataChannel(EVENTS)
        await pc.setLocalDescription(await pc.createOffer())
        transport, answer = await WebRtcTransport.answer(
            pc.localDescription.sdp, ear, MediaSettings(), ServerSettings()
        )
        await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        transport.send_audio(1, voiced(0.2, 24_000))
        transport.end_audio(1)
        await eventually(lambda ear=ear: len(ear.sent) == 10, "the voice")
        await eventually(lambda ear=ear: ear.ms >= 400, "silence from the absent microphone")
        assert all(concealed and not pcm.any() for pcm, concealed in ear.audio)
        if direction == "sendrecv":
            microphone = Microphone()
            transceiver.sender.replaceTrack(microphone)
            microphone.play(voiced(0.5, 16_000))
            await eventually(lambda ear=ear: any(rms(pcm) > 300 for pcm, _ in ear.audio), "the late microphone")
        await pc.close()
        await eventually(lambda ear=ear: ear.closed, "the end")
        await transport.close()
        assert len(ear.closed) == 1


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_a_camera_can_come_later_and_change_on_the_same_m_line(codec: str) -> None:
    ear = Ear()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio", direction="sendrecv")
    video = pc.addTransceiver("video", direction="sendonly")
    video.setCodecPreferences([c for c in get_capabilities("video").codecs if c.name == codec])
    pc.createDataChannel(EVENTS)
    await pc.setLocalDescription(await pc.createOffer())
    transport, answer = await WebRtcTransport.answer(
        pc.localDescription.sdp, ear, MediaSettings(frames_per_second=5), ServerSettings()
    )
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await eventually(lambda: ear.opened, "the call")
    assert not ear.frames

    def still(red: int) -> object:
        while True:
            yield picture(red)

    video.sender.replaceTrack(Camera(still(200), 10))
    await eventually(lambda: len(ear.frames) >= 2, "the camera", 60)
    assert ear.frames[-1][:, :, 0].mean() > 150
    video.sender.replaceTrack(Camera(still(20), 10))
    await eventually(lambda: ear.frames[-1][:, :, 0].mean() < 60, "the screen", 60)
    await pc.close()
    await transport.close()
