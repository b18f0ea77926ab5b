"""A client's SDP offer: checked before anything is built from it, so that what is wrong has a name."""

from __future__ import annotations

from dataclasses import dataclass

from aiortc.sdp import MediaDescription, SessionDescription

_DEFAULT_MESSAGE_BYTES = 65_536
"""RFC 8841: what a peer takes that does not say."""
_VIDEO_CODECS = ("video/vp8", "video/h264")


class SdpError(Exception):
    """An offer that cannot be answered; `code` is `invalid_sdp`, `no_audio` or `unsupported_codec`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Offer:
    """`max_message_bytes` is the largest data channel message the client takes; 0 means any."""

    sdp: str
    max_message_bytes: int


def read_offer(text: str) -> Offer:
    """Check an offer and drop what would do harm. Raises SdpError.

    `.local` candidates cost a second each and never resolve here. `end-of-candidates` makes ICE fail as soon as the
    candidates named do, though the client's own checks may still arrive from where nobody knew (NAT, mDNS).
    """
    if not text.lstrip().startswith("v=0"):
        raise SdpError("invalid_sdp", "The body is not an SDP offer: it must begin with the line v=0.")
    sdp = "\r\n".join(line for line in text.splitlines() if not _is_harmful(line)) + "\r\n"
    try:
        description = SessionDescription.parse(sdp)
    except Exception as error:
        # The parser asserts, indexes and unpacks; whatever it raises means the same.
        raise SdpError("invalid_sdp", f"The SDP offer cannot be read ({type(error).__name__}: {error}).") from error
    _check_bundle(description)
    for media in description.media:
        _check_media(media)
    audio = [media for media in description.media if media.kind == "audio"]
    if not any(media.port and media.direction != "inactive" for media in audio):
        raise SdpError("no_audio", "The offer has no active audio m-line; add an audio track or transceiver.")
    sctp = next((media.sctpCapabilities for media in description.media if media.sctpCapabilities), None)
    return Offer(sdp, sctp.maxMessageSize if sctp else _DEFAULT_MESSAGE_BYTES)


def _is_harmful(line: str) -> bool:
    if line == "a=end-of-candidates":
        return True
    fields = line.split()
    return line.startswith("a=candidate:") and len(fields) > 4 and fields[4].lower().endswith(".local")


def _check_bundle(description: SessionDescription) -> None:
    """aiortc takes what is not there for what all others travel with."""
    mids = [media.rtp.muxId for media in description.media if media.rtp.muxId]
    if len(set(mids)) < len(mids):
        raise SdpError("invalid_sdp", "Two m-lines have the same a=mid.")
    for group in description.group:
        if group.semantic == "BUNDLE" and not set(group.items) <= set(mids):
            raise SdpError("invalid_sdp", "a=group:BUNDLE names an a=mid that no m-line has.")


def _check_media(media: MediaDescription) -> None:
    name = f"The {media.kind} m-line"
    if media.kind not in ("audio", "video", "application"):
        raise SdpError("invalid_sdp", f"{name} is of a kind this server cannot answer; offer audio, video, data.")
    if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
        raise SdpError("invalid_sdp", f"{name} lacks a=ice-ufrag or a=ice-pwd.")
    if media.dtls is None or not media.dtls.fingerprints:
        raise SdpError("invalid_sdp", f"{name} lacks a=fingerprint or a=setup.")
    if media.kind == "application":
        return
    if not media.rtcp_mux:
        raise SdpError("invalid_sdp", f"{name} lacks a=rtcp-mux.")
    offered = {codec.mimeType.lower() for codec in media.rtp.codecs}
    wanted = ("audio/opus",) if media.kind == "audio" else _VIDEO_CODECS
    if not offered.intersection(wanted):
        names = " or ".join(name.partition("/")[2].upper() for name in wanted)
        raise SdpError(
            "unsupported_codec", f"{name} offers {', '.join(sorted(offered)) or 'no codec'}; {names} is needed."
        )
