"""Every private attribute of aiortc that omni_rt touches, and nothing else.

aiortc offers no way to receive packets before its jitter buffer, to map an RTP timestamp to what was sent, or to see
whether anything arrives. Importing this module fails, naming the version, if one of the attributes is gone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import aiortc
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCRtpTransceiver
from aiortc.codecs import get_decoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtpPacket
from av import VideoFrame

VideoDecoder = Callable[[JitterFrame], list[VideoFrame]]

_JITTER_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_RTP_TIMESTAMP = "_RTCRtpSender__rtp_timestamp"
_RX_PACKETS = "_RTCDtlsTransport__rx_packets"
_CODECS = "_codecs"
_RECEIVE_WINDOW = "_advertised_rwnd"

_STUCK_S = 1.0


def _check(needed: Iterable[tuple[type, str]]) -> None:
    for owner, name in needed:
        if name not in owner.__init__.__code__.co_names:  # type: ignore[misc]
            raise ImportError(
                f"aiortc {aiortc.__version__} has no {owner.__name__}.{name}, which omni_rt's media path needs; "
                "install the version it was made for: pip install 'aiortc==1.16.*'"
            )


_check(
    [
        (RTCRtpReceiver, _JITTER_BUFFER),
        (RTCRtpSender, _RTP_TIMESTAMP),
        (RTCDtlsTransport, _RX_PACKETS),
        (RTCRtpTransceiver, _CODECS),
        (RTCSctpTransport, _RECEIVE_WINDOW),
    ]
)


async def close_half_made(pc: RTCPeerConnection) -> None:
    """Free a connection whose negotiation failed; where that left it in a state that aiortc cannot close, its
    transports."""
    try:
        await pc.close()
    except Exception:
        transports = {transceiver.receiver.transport for transceiver in pc.getTransceivers()}
        if pc.sctp is not None:
            transports.add(pc.sctp.transport)
        for transport in transports - {None}:
            with contextlib.suppress(Exception):
                await transport.stop()
            with contextlib.suppress(Exception):
                await transport.transport.stop()
        pc.remove_all_listeners()


class _AudioTap(JitterBuffer):
    """Hands every packet on and lets none reach aiortc's decoder."""

    def __init__(self, take: Callable[[RtpPacket], None]) -> None:
        super().__init__(capacity=1)
        self._take = take

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        self._take(packet)
        return False, None


class _VideoTap(JitterBuffer):
    """Hands complete frames on; says when a key frame must be asked for."""

    def __init__(self, take: Callable[[int, JitterFrame], bool]) -> None:
        super().__init__(capacity=512, is_video=True)
        self._take = take
        self._moved = time.monotonic()

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        ask, frame = super().add(packet)
        now = time.monotonic()
        if frame is not None:
            self._moved = now
            ask |= self._take(packet.payload_type, frame)
        elif now - self._moved > _STUCK_S:
            # A packet that is never sent again would hold all others back until 512 of them are here.
            super().__init__(capacity=512, is_video=True)
            self._moved = now
            ask = True
        return ask, None


def tap_audio(receiver: RTCRtpReceiver, take: Callable[[RtpPacket], None]) -> None:
    """Give every audio packet to `take` as it arrives. Must be called in the `track` event, before media flows."""
    setattr(receiver, _JITTER_BUFFER, _AudioTap(take))


def tap_video(receiver: RTCRtpReceiver, take: Callable[[int, JitterFrame], bool]) -> None:
    """Give every complete encoded frame and its payload type to `take`; it says whether a key frame is wanted."""
    setattr(receiver, _JITTER_BUFFER, _VideoTap(take))


def video_decoder(transceiver: RTCRtpTransceiver, payload_type: int) -> tuple[str, VideoDecoder]:
    """The codec's name and a new decoder for a negotiated payload type."""
    codec = next(c for c in getattr(transceiver, _CODECS) if c.payloadType == payload_type)
    decoder = get_decoder(codec)
    return codec.name, lambda frame: cast(list[VideoFrame], decoder.decode(frame))


def offer_error_correction(transceiver: RTCRtpTransceiver) -> None:
    """Ask the peer for Opus with inband FEC. Must be called before the answer is made."""
    for codec in getattr(transceiver, _CODECS):
        if codec.name.lower() == "opus":
            codec.parameters = {"minptime": 10, "useinbandfec": 1}


def last_timestamp(sender: RTCRtpSender) -> int:
    """The RTP timestamp of the packet sent last."""
    return int(getattr(sender, _RTP_TIMESTAMP))


def packets_received(pc: RTCPeerConnection) -> int:
    """Datagrams of media, RTCP and data channels so far; ICE checks are not among them."""
    transports: set[Any] = {transceiver.receiver.transport for transceiver in pc.getTransceivers()}
    if pc.sctp is not None:
        transports.add(pc.sctp.transport)
    return sum(getattr(transport, _RX_PACKETS) for transport in transports)


def overflowing(pc: RTCPeerConnection) -> bool:
    """Whether the peer sent more of an unfinished message than the window it was told (1 MiB)."""
    return pc.sctp is not None and getattr(pc.sctp, _RECEIVE_WINDOW) < 0
