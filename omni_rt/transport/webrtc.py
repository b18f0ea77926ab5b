"""One client over WebRTC: microphone and pictures in, the assistant's voice out, events on a data channel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.codecs import get_capabilities
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket
from aiortc.stats import RTCRemoteInboundRtpStreamStats

from omni_rt.config import MediaSettings, ServerSettings
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.dejitter import Dejitter, DejitterStats, Sound
from omni_rt.media.frames import FrameSampler, FrameStats, is_key_frame
from omni_rt.media.opus import OpusEncoder
from omni_rt.media.reply_queue import Frame
from omni_rt.transport import aiortc_seams as seams
from omni_rt.transport.base import SentAudio, TransportListener
from omni_rt.transport.ice import ice_servers
from omni_rt.transport.offer import Offer, SdpError, read_offer
from omni_rt.transport.speaker import Speaker

logger = logging.getLogger(__name__)

EVENTS = "oai-events"
PLAYOUT = "omni-playout"
# A busy browser notes the sample it plays this late at most; beyond that nothing is known to have been played.
_LONGEST_AGE_MS = 300.0
MOMENTS = "omni-moments"

_TICK_S = 0.02
_TICKS_PER_CHECK = 10
_REPORT_S = 2.0
_UNREAD_BYTES = 16 * 2**20
_UNREAD_NOTES = 2**16
_LEAST_EXPECTED_LOSS = 10
_MOST_EXPECTED_LOSS = 30


@dataclass(frozen=True, slots=True)
class WebRtcStats:
    """One connection, for metrics. `loss_percent` and `round_trip_ms` are what the client reports of our packets;
    None before its first report."""

    received: DejitterStats
    frames: FrameStats
    packets_sent: int
    underruns: int
    stale: int
    queued_ms: float
    playout_reports: int
    malformed_reports: int
    loss_percent: float | None
    round_trip_ms: float | None


class WebRtcTransport:
    """A Transport over aiortc; made by `answer`.

    The listener's `on_closed` is called once, whoever ends the connection.
    """

    server_plays = True
    kind: Literal["webrtc"] = "webrtc"

    @classmethod
    async def answer(
        cls, offer_sdp: str, listener: TransportListener, media: MediaSettings, server: ServerSettings
    ) -> tuple[WebRtcTransport, str]:
        """Accept a client's offer; gives the transport and the answer's SDP. Raises SdpError."""
        offer = read_offer(offer_sdp)
        transport = cls(offer, listener, media, server)
        try:
            sdp = await transport._negotiate(offer)
        except BaseException:
            transport._ended = True
            await seams.close_half_made(transport._pc)
            raise
        transport._watch = asyncio.create_task(transport._watching(), name="webrtc-watch")
        return transport, sdp

    def __init__(self, offer: Offer, listener: TransportListener, media: MediaSettings, server: ServerSettings) -> None:
        """Use `answer`."""
        self._listener = listener
        self._media = media
        self._silent_s = server.silent_transport_s
        self._most_bytes = offer.max_message_bytes
        servers = [
            RTCIceServer(list(one.urls), one.username or None, one.credential or None)
            for one in ice_servers(server, "omni-rt")
        ]
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._dejitter = Dejitter(
            INPUT_RATE,
            reorder_packets=media.reorder_packets,
            reorder_ms=media.reorder_ms,
            conceal_limit_ms=media.conceal_limit_ms,
        )
        encoder = OpusEncoder(OUTPUT_RATE, media.opus_bitrate, media.opus_complexity, _LEAST_EXPECTED_LOSS)
        self._speaker = Speaker(encoder, self._sent)
        self._voice = self._pc.addTransceiver(self._speaker, direction="sendrecv")
        self._samplers: list[FrameSampler] = []
        self._has_microphone = False
        self._events: RTCDataChannel | None = None
        self._moments: RTCDataChannel | None = None
        self._unsent: list[str] = []
        self._unsent_bytes = 0
        self._newest_report = 0.0
        self._reports = self._malformed = 0
        self._loss_percent: float | None = None
        self._round_trip_ms: float | None = None
        self._ended = False
        self._watch: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    # Transport

    def send_audio(self, generation: int, pcm: Pcm) -> None:
        self._speaker.say(generation, pcm)

    def end_audio(self, generation: int) -> None:
        self._speaker.finish(generation)

    def set_gain(self, gain: float) -> None:
        self._speaker.queue.set_gain(gain)

    def hold(self, on: bool) -> None:
        self._speaker.hold(on)

    def clear(self) -> None:
        self._speaker.queue.clear()

    def send_event(self, event: dict[str, Any]) -> None:
        """Send a server event; one larger than the client's data channel takes is replaced by an `error` event."""
        text = _compact(event)
        size = len(text.encode())
        if self._most_bytes and size > self._most_bytes:
            text = _compact(_too_large(event, size, self._most_bytes))
        if self._ended:
            return
        if self._events is None:
            self._unsent.append(text)
            self._unsent_bytes += len(text)
        elif self._events.readyState == "open":
            self._events.send(text)
            self._unsent_bytes = self._events.bufferedAmount
        if self._unsent_bytes > _UNREAD_BYTES:
            self._end(f"the client left {self._unsent_bytes} bytes of events unread")

    def send_note(self, note: dict[str, Any]) -> None:
        """Tell a client that opened the `omni-moments` channel; others, and those who lag, get none."""
        channel = self._moments
        if channel is not None and channel.readyState == "open" and channel.bufferedAmount < _UNREAD_NOTES:
            channel.send(_compact(note))

    async def close(self) -> None:
        """End the connection and free everything; safe to call twice."""
        self._end("closed by the server")
        if self._closing is not None:
            await self._closing

    def stats(self) -> WebRtcStats:
        queue = self._speaker.queue
        frames = [sampler.stats for sampler in self._samplers]
        return WebRtcStats(
            received=self._dejitter.stats,
            frames=FrameStats(
                sum(f.decoded for f in frames),
                sum(f.kept for f in frames),
                sum(f.failed for f in frames),
                sum(f.dropped for f in frames),
            ),
            packets_sent=self._speaker.packets,
            underruns=queue.underruns,
            stale=queue.stale,
            queued_ms=queue.queued_ms,
            playout_reports=self._reports,
            malformed_reports=self._malformed,
            loss_percent=self._loss_percent,
            round_trip_ms=self._round_trip_ms,
        )

    # Setting up

    async def _negotiate(self, offer: Offer) -> str:
        self._pc.on("track", self._on_track)
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("connectionstatechange", self._on_state)
        opus = [codec for codec in get_capabilities("audio").codecs if codec.name.lower() == "opus"]
        self._voice.setCodecPreferences(opus)
        self._speaker.read_clock = lambda: seams.last_timestamp(self._voice.sender)
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp=offer.sdp, type="offer"))
            await asyncio.sleep(0)  # each half takes milliseconds; other sessions' packets go in between
            seams.offer_error_correction(self._voice)
            await self._pc.setLocalDescription(await self._pc.createAnswer())
        except Exception as error:
            # aiortc has no error type of its own for a description it cannot apply.
            raise SdpError("invalid_sdp", f"The offer cannot be answered ({type(error).__name__}: {error}).") from error
        return self._pc.localDescription.sdp

    def _on_track(self, track: MediaStreamTrack) -> None:
        transceiver = next(t for t in self._pc.getTransceivers() if t.receiver.track is track)
        if track.kind == "video":
            self._watch_pictures(transceiver)
        elif self._has_microphone:
            seams.tap_audio(transceiver.receiver, lambda packet: None)
        else:
            self._has_microphone = True
            seams.tap_audio(transceiver.receiver, self._on_packet)

    def _watch_pictures(self, transceiver: RTCRtpTransceiver) -> None:
        sampler = FrameSampler(
            lambda rgb: self._tell(self._listener.on_frame, rgb),
            frames_per_second=self._media.frames_per_second,
            frame_pixels=self._media.frame_pixels,
        )
        self._samplers.append(sampler)
        decoders: dict[int, tuple[str, seams.VideoDecoder]] = {}

        def take(payload_type: int, frame: JitterFrame) -> bool:
            if payload_type not in decoders:
                decoders[payload_type] = seams.video_decoder(transceiver, payload_type)
            codec, decode = decoders[payload_type]
            sampler.feed(lambda: decode(frame), is_key_frame(codec, frame.data))
            wanted, sampler.wants_key_frame = sampler.wants_key_frame, False
            return wanted

        seams.tap_video(transceiver.receiver, take)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label == EVENTS and self._events is None:
            self._events = channel
            channel.on("message", lambda data: self._tell(self._listener.on_event, data))
            channel.on("close", lambda: self._end("the client hung up"))
            for text in self._unsent:
                channel.send(text)
            self._unsent.clear()
            self._tell(self._listener.on_open)
        elif channel.label == PLAYOUT:
            channel.on("message", self._on_report)
        elif channel.label == MOMENTS:
            self._moments = channel

    # What arrives

    def _on_packet(self, packet: RtpPacket) -> None:
        now = time.monotonic() * 1000
        self._hear(self._dejitter.push(packet.ssrc, packet.sequence_number, packet.timestamp, packet.payload, now))

    def _hear(self, sounds: list[Sound]) -> None:
        for sound in sounds:
            self._tell(self._listener.on_audio, sound.pcm, sound.concealed)

    def _on_report(self, data: str | bytes) -> None:
        """The page's loudspeaker: {"rtp", "age_ms", "latency_ms"} of the sample it delivered last, and "silenced" when
        it is made silent there."""
        try:
            rtp, age_ms, latency_ms, silenced = _read_report(data)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._malformed += 1
            return
        at = self._speaker.stream_ms(rtp)
        if at is None or (at < self._newest_report and not silenced):
            return
        if at > self._speaker.sent_ms:
            self._malformed += 1
            return
        self._reports += 1
        heard = min(self._speaker.sent_ms, max(0.0, at + age_ms - latency_ms))
        if at >= self._newest_report:
            self._newest_report = at
            self._tell(self._listener.on_heard, heard)
        if silenced:
            self._tell(self._listener.on_silenced, heard)

    def _sent(self, frame: Frame, stream_ms: float) -> None:
        assert frame.generation is not None
        sent = SentAudio(frame.generation, frame.reply_ms, stream_ms, frame.duration_ms, frame.pcm)
        self._tell(self._listener.on_sent, sent)

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._ended:
            _guarded(call, *arguments)

    # Staying alive

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == "failed":
            self._end("no connection could be made, or it was lost: ICE or DTLS failed")
        elif state == "closed":
            self._end("the client hung up")

    async def _watching(self) -> None:
        loop = asyncio.get_running_loop()
        seen, alive, reported = 0, loop.time(), loop.time()
        while True:
            for _ in range(_TICKS_PER_CHECK):
                await asyncio.sleep(_TICK_S)
                if self._pc.connectionState == "connected":
                    self._hear(self._dejitter.poll(time.monotonic() * 1000))
            now = loop.time()
            if (packets := seams.packets_received(self._pc)) != seen:
                seen, alive = packets, now
            elif now - alive > self._silent_s:
                self._end(f"nothing came from the client for {self._silent_s:g} s")
            if seams.overflowing(self._pc):
                self._end("the client sent a data channel message far above the announced size")
            if now - reported > _REPORT_S:
                reported = now
                await self._read_reports()

    async def _read_reports(self) -> None:
        for entry in (await self._voice.sender.getStats()).values():
            if isinstance(entry, RTCRemoteInboundRtpStreamStats):
                self._loss_percent = entry.fractionLost * 100 / 256
                if entry.roundTripTime is not None:
                    self._round_trip_ms = entry.roundTripTime * 1000
                expected = min(_MOST_EXPECTED_LOSS, max(_LEAST_EXPECTED_LOSS, round(self._loss_percent)))
                self._speaker.expect_loss(expected)

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        _guarded(self._listener.on_closed, reason)
        self._closing = asyncio.ensure_future(self._free())

    async def _free(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        for sampler in self._samplers:
            sampler.close()
        await self._pc.close()


def _guarded(call: Callable[..., None], *arguments: Any) -> None:
    """An error of the listener must not end aiortc's tasks, on which it would fall."""
    try:
        call(*arguments)
    except Exception:
        logger.exception("a transport listener failed")


def _compact(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _too_large(event: dict[str, Any], size: int, limit: int) -> dict[str, Any]:
    message = (
        f"The event {event.get('type')!r} has {size} bytes; your data channel takes {limit} (a=max-message-size). "
        "Connect over WebSocket to get events of this size."
    )
    error = {"type": "server_error", "code": "event_too_large", "message": message, "param": None, "event_id": None}
    return {"type": "error", "event_id": f"event_{uuid.uuid4().hex[:24]}", "error": error}


def _read_report(data: str | bytes) -> tuple[int, float, float, bool]:
    """RTP timestamp, age and output latency in ms, and whether it was silenced there.

    Raises ValueError, KeyError, TypeError or AttributeError.
    """
    if len(data) > 1024:
        raise ValueError("too long")
    report = json.loads(data)
    rtp = report["rtp"]
    age, latency = float(report.get("age_ms", 0)), float(report.get("latency_ms", 0))
    if type(rtp) is not int or not 0 <= rtp < 1 << 32 or not math.isfinite(age) or not math.isfinite(latency):
        raise ValueError("out of range")
    return rtp, min(_LONGEST_AGE_MS, max(0.0, age)), min(1000.0, max(0.0, latency)), report.get("silenced") is True


__all__ = ["EVENTS", "MOMENTS", "PLAYOUT", "SdpError", "WebRtcStats", "WebRtcTransport"]
