"""The seam between a session and whatever carries it: receive frames, send audio, send event, clear what is queued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from omni_rt.engine.api import Pcm, Rgb


@dataclass(frozen=True, slots=True)
class SentAudio:
    """A piece of a reply that left the server.

    `reply_ms` is its start within the reply's audio, `stream_ms` its start on the outgoing track (milliseconds since
    the track began), `duration_ms` its length; `pcm` is what of it can be heard, 24 kHz, as loud as it was sent.
    """

    generation: int
    reply_ms: float
    stream_ms: float
    duration_ms: float
    pcm: Pcm = field(compare=False, repr=False)


class TransportListener(Protocol):
    """What a transport delivers. All calls come on the event loop."""

    def on_audio(self, pcm: Pcm, concealed: bool) -> None:
        """16 kHz mono microphone audio in order; `concealed` marks audio made up for a lost packet."""

    def on_frame(self, rgb: Rgb) -> None:
        """A camera or screen picture, already thinned to the configured rate."""

    def on_event(self, raw: str | bytes) -> None:
        """One client event as it came, not yet parsed."""

    def on_open(self) -> None:
        """Events can be sent from now on."""

    def on_sent(self, sent: SentAudio) -> None:
        """A piece of reply audio left the server just now."""

    def on_heard(self, stream_ms: float) -> None:
        """The client reports that its loudspeaker is at `stream_ms` of the outgoing track."""

    def on_silenced(self, stream_ms: float) -> None:
        """The client reports that it silenced its loudspeaker at `stream_ms` of the outgoing track."""

    def on_closed(self, reason: str) -> None:
        """The transport is gone; nothing more will be delivered."""


class Transport(Protocol):
    """One client's connection.

    With `server_plays` the transport paces audio in real time and can unsay what it has not sent (WebRTC). Without it
    the client queues and plays (WebSocket), and owns the playback position.
    """

    server_plays: bool

    def send_audio(self, generation: int, pcm: Pcm) -> None:
        """Queue 24 kHz mono audio of a reply."""

    def end_audio(self, generation: int) -> None:
        """No more audio of this reply will come; what is queued plays out."""

    def set_gain(self, gain: float) -> None:
        """Scale what is sent from now on, 0 to 1, without a click (ducking)."""

    def hold(self, on: bool) -> None:
        """Send no audio of replies while on, and lose none; then go on where it stood."""

    def clear(self) -> None:
        """Drop all audio that was not sent yet."""

    def send_event(self, event: dict[str, Any]) -> None:
        """Send a server event; queued while the channel is not open."""

    def send_note(self, note: dict[str, Any]) -> None:
        """Tell a client that knows us something beside the protocol (moments); others never see it."""

    async def close(self) -> None: ...
