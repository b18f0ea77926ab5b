"""Offers that cannot be answered, clients that vanish, and what is left of a call when it is over."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection

from omni_rt.config import MediaSettings, ServerSettings
from omni_rt.transport.caller import Caller, CallError
from omni_rt.transport.offer import SdpError, read_offer
from omni_rt.transport.webrtc import EVENTS, WebRtcTransport
from tests.support.calls import Ear, call, eventually, only_loopback, picture  # noqa: F401
from tests.support.loss_proxy import LossProxy

pytestmark = pytest.mark.usefixtures("only_loopback")


async def offer(*, audio: bool = True, video: bool = False, direction: str = "sendrecv") -> str:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    if audio:
        pc.addTransceiver("audio", direction=direction)
    if video:
        pc.addTransceiver("video", direction="sendonly")
    pc.createDataChannel(EVENTS)
    await pc.setLocalDescription(await pc.createOffer())
    sdp = pc.localDescription.sdp
    await pc.close()
    return sdp


async def refusal(sdp: str) -> SdpError:
    ear = Ear()
    with pytest.raises(SdpError) as refused:
        await WebRtcTransport.answer(sdp, ear, MediaSettings(), ServerSettings())
    assert not ear.closed
    return refused.value


@pytest.mark.parametrize("garbage", ["", "hello", "{}", "v=0", "v=0\r\nm=audio", "\x00" * 100, "v=0\r\n" * 1000])
async def test_garbage_is_refused_by_name(garbage: str) -> None:
    assert (await refusal(garbage)).code in ("invalid_sdp", "no_audio")


async def test_an_offer_without_audio_is_refused_by_name() -> None:
    refused = await refusal(await offer(audio=False))
    assert refused.code == "no_audio"
    assert "audio" in str(refused)
    assert (await refusal(await offer(direction="inactive"))).code == "no_audio"


async def test_an_offer_without_opus_is_refused_by_name() -> None:
    sdp = (await offer()).replace("opus/48000/2", "speex/16000")
    refused = await refusal(sdp)
    assert refused.code == "unsupported_codec"
    assert "OPUS" in str(refused)


async def test_an_offer_of_unknown_video_codecs_is_refused_by_name() -> None:
    sdp = re.sub(r"VP8/90000|H264/90000", "AV1/90000", await offer(video=True))
    assert (await refusal(sdp)).code == "unsupported_codec"


@pytest.mark.parametrize("attribute", ["fingerprint", "ice-ufrag", "ice-pwd", "rtcp-mux", "setup"])
async def test_a_missing_attribute_is_named(attribute: str) -> None:
    refused = await refusal(re.sub(rf"a={attribute}.*\r\n", "", await offer()))
    assert refused.code == "invalid_sdp"
    assert f"a={attribute}" in str(refused)


async def test_every_truncation_of_an_offer_is_answered_or_refused() -> None:
    lines = (await offer(video=True)).splitlines(keepends=True)
    for end in range(0, len(lines), 3):
        try:
            transport, _ = await WebRtcTransport.answer("".join(lines[:end]), Ear(), MediaSettings(), ServerSettings())
        except SdpError:
            continue
        await transport.close()


async def test_mdns_candidates_are_dropped_and_no_candidates_are_fine() -> None:
    sdp = await offer()
    local = "a=candidate:1 1 udp 2113937151 0f3e-11.local 50000 typ host\r\n"
    mixed = sdp.replace("a=end-of-candidates\r\n", local + "a=end-of-candidates\r\n")
    assert ".local" in mixed
    assert ".local" not in read_offer(mixed).sdp
    assert "127.0.0.1" in read_offer(mixed).sdp
    bare = re.sub(r"a=candidate.*\r\n", "", sdp)
    transport, answer = await WebRtcTransport.answer(bare, Ear(), MediaSettings(), ServerSettings())
    assert "a=candidate" in answer
    await transport.close()


async def test_the_answer_names_its_track_and_asks_for_error_correction() -> None:
    transport, answer = await WebRtcTransport.answer(await offer(), Ear(), MediaSettings(), ServerSettings())
    audio = answer.partition("m=audio")[2].partition("m=application")[0]
    assert "a=sendrecv" in audio
    assert re.search(r"a=msid:\S+ \S+", audio)
    assert "useinbandfec=1" in audio
    assert "PCMU" not in audio
    await transport.close()


async def test_a_client_that_hangs_up_is_noticed_at_once_and_once() -> None:
    async with call() as c:
        await c.caller.close()
        await eventually(lambda: c.ear.closed, "the hang-up")
        c.transport.send_event({"type": "into the void"})
        c.transport.send_audio(1, np.zeros(480, np.int16))
        await c.transport.close()
        await c.transport.close()
        assert len(c.ear.closed) == 1
        assert c.ear.closed[0] == "the client hung up"


async def test_a_client_that_vanishes_is_noticed_by_its_silence() -> None:
    async with LossProxy() as proxy, call(proxy=proxy, server=ServerSettings(silent_transport_s=1.0)) as c:
        proxy.cut = True
        await eventually(lambda: c.ear.closed, "the end")
        assert c.ear.closed == ["nothing came from the client for 1 s"]


async def test_a_client_that_never_connects_is_forgotten() -> None:
    ear = Ear()
    transport, _ = await WebRtcTransport.answer(
        await offer(), ear, MediaSettings(), ServerSettings(silent_transport_s=1.0)
    )
    await eventually(lambda: ear.closed, "the end")
    await transport.close()
    assert len(ear.closed) == 1


async def test_a_message_far_above_the_announced_size_ends_only_that_call() -> None:
    async with call() as good, call() as rude:
        rude.caller._pc.sctp._remote_max_message_size = 0
        rude.caller.send_event({"type": "flood", "data": "x" * 20_000_000})
        await eventually(lambda: rude.ear.closed, "the end of the rude call", 60)
        assert "announced size" in rude.ear.closed[0]
        assert not rude.ear.events
        good.caller.send_event({"type": "fine"})
        await eventually(lambda: good.ear.events, "an event of the other call")
        assert not good.ear.closed


async def test_the_caller_learns_that_the_server_hung_up() -> None:
    async with call() as c:
        await c.transport.close()
        assert await asyncio.wait_for(c.caller.events.get(), 20) is None
        with pytest.raises(CallError):
            c.caller.send_event({"type": "too late"})
        with pytest.raises(CallError):
            await c.caller.speak(np.zeros(320, np.int16))


async def test_a_caller_without_a_server_says_so() -> None:
    with pytest.raises(CallError) as failed:
        await Caller("http://127.0.0.1:9").connect()
    assert failed.value.code == "unreachable"


async def test_a_listener_that_fails_does_not_end_the_call() -> None:
    class Clumsy(Ear):
        def on_event(self, raw: str | bytes) -> None:
            super().on_event(raw)
            raise RuntimeError("a bug")

    ear = Clumsy()

    async def exchange(sdp: str) -> str:
        transport, answer = await WebRtcTransport.answer(sdp, ear, MediaSettings(), ServerSettings())
        transports.append(transport)
        return answer

    transports: list[WebRtcTransport] = []
    async with Caller(exchange=exchange) as caller:
        caller.send_event({"type": "one"})
        caller.send_event({"type": "two"})
        await eventually(lambda: len(ear.events) == 2, "both events")
        assert not ear.closed
    await transports[0].close()


@pytest.fixture
def own_objects() -> Iterator[None]:
    """The garbage collector sees what the test itself makes, not the models that other tests have loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("own_objects")
async def test_twenty_calls_leave_nothing_behind() -> None:
    def still() -> object:
        while True:
            yield picture(90)

    async def once(full: bool) -> None:
        if not full:
            transport, _ = await WebRtcTransport.answer(await offer(), Ear(), MediaSettings(), ServerSettings())
            await transport.close()
            return
        async with call(camera=still(), media=MediaSettings(frames_per_second=5)) as c:
            await eventually(lambda: c.ear.frames and c.ear.ms > 100, "sound and a picture", 60)

    await once(True)
    tasks = len(asyncio.all_tasks())
    for number in range(20):
        await once(number % 2 == 0)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "the end of all tasks")
    await eventually(lambda: not [t for t in threading.enumerate() if "frames" in t.name or "decoder" in t.name])

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, (WebRtcTransport, RTCPeerConnection)) for thing in gc.get_objects())

    await eventually(lambda: alive() <= 2, "the last of 40 connections")
