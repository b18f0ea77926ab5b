"""The client half of the WebRTC path: what `omni-rt talk`, the bench and the tests call a server with.

    async with Caller("http://127.0.0.1:8080") as caller:
        spoken = await caller.speak(pcm)          # perf_counter time at which its last packet left
        event = await caller.events.get()

One clock for everything: `time.perf_counter()`, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtpPacket
from av import VideoFrame

from omni_rt.config import MediaSettings
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm, Rgb
from omni_rt.media.dejitter import Dejitter
from omni_rt.media.opus import OpusEncoder
from omni_rt.media.reply_queue import FRAME_MS
from omni_rt.transport import aiortc_seams as seams
from omni_rt.transport.speaker import PacedTrack
from omni_rt.transport.webrtc import EVENTS, MOMENTS, PLAYOUT

_REPORT_S = 0.1
_CONNECT_S = 15.0
_SILENT_S = 10.0


class CallError(Exception):
    """The call could not be made, or was cut; `code` is the server's name for it, or `unreachable`, `no_connection`,
    `closed`, `event_too_large`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Arrival:
    """20 ms of the assistant's track, 24 kHz mono; `at` is when its packet came, `rtp` its timestamp."""

    at: float
    rtp: int
    pcm: Pcm
    concealed: bool


class Microphone(PacedTrack):
    """Plays queued audio in real time, silence when there is none. `rate` is one of Opus's."""

    def __init__(self, rate: int = INPUT_RATE) -> None:
        super().__init__(OpusEncoder(rate))
        self._frame = rate * FRAME_MS // 1000
        self._queue: list[tuple[Pcm, asyncio.Future[float]]] = []

    def play(self, pcm: Pcm) -> asyncio.Future[float]:
        """Queue audio; the future gives the time at which its last packet was handed to the network."""
        left: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._queue.append((np.asarray(pcm, np.int16), left))
        self.hurry()
        return left

    def drop(self, reason: Exception) -> None:
        """Forget what is queued; those who wait for it get `reason`."""
        for _, left in self._queue:
            if not left.done():
                left.set_exception(reason)
                left.exception()  # nobody need be waiting
        self._queue.clear()

    def next_frame(self) -> tuple[Pcm, bool]:
        out = np.zeros(self._frame, np.int16)
        filled, silent = 0, not self._queue
        while self._queue and filled < self._frame:
            pcm, left = self._queue[0]
            part = pcm[: self._frame - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            if len(part) < len(pcm):
                self._queue[0] = (pcm[len(part) :], left)
                continue
            self._queue.pop(0)
            if not left.done():
                left.set_result(time.perf_counter())
        return out, silent


class Camera(MediaStreamTrack):
    """Pictures (uint8 RGB, even sides) at a steady rate; the last one stays when there are no more."""

    kind = "video"

    def __init__(self, pictures: Iterator[Rgb], frames_per_second: float) -> None:
        super().__init__()
        self._pictures = pictures
        self._period = 1 / frames_per_second
        self._picture: Rgb | None = None
        self._start: float | None = None
        self._count = 0

    async def recv(self) -> VideoFrame:
        now = time.perf_counter()
        if self._start is None:
            self._start = now
        await asyncio.sleep(self._start + self._count * self._period - now)
        self._picture = next(self._pictures, self._picture)
        if self._picture is None or self.readyState != "live":
            raise MediaStreamError
        frame = VideoFrame.from_ndarray(self._picture, format="rgb24")
        frame.pts = round(self._count * self._period * 90_000)
        frame.time_base = Fraction(1, 90_000)
        self._count += 1
        return frame


class Caller:
    """One call to a server at `server` (scheme, host, port).

    `events` and `notes` are queues of what came over `oai-events` and `omni-moments`; None in `events` means the
    connection is gone. `on_audio` gets the assistant's sound as it arrives. With `reports` the server is told every
    100 ms what arrived; a client with a loudspeaker calls `report_playout` itself. `session` is sent with the offer.
    `exchange`, from offer to answer, stands in for HTTP. `call_id` is what the server calls the call. A `microphone` of
    the caller's own replaces the one that plays what `speak` is given.
    """

    def __init__(
        self,
        server: str = "",
        *,
        microphone_rate: int = INPUT_RATE,
        camera: Iterator[Rgb] | None = None,
        camera_fps: float = 5.0,
        on_audio: Callable[[Arrival], None] | None = None,
        reports: bool = True,
        session: dict[str, Any] | None = None,
        api_key: str = "",
        exchange: Callable[[str], Awaitable[str]] | None = None,
        microphone: Microphone | None = None,
    ) -> None:
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.notes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.microphone = microphone or Microphone(microphone_rate)
        self.call_id = ""
        self._server = server.rstrip("/")
        self._session = session
        self._api_key = api_key
        self._exchange = exchange or self._post
        self._on_audio = on_audio
        self._reports = reports
        media = MediaSettings()
        self.dejitter = Dejitter(
            OUTPUT_RATE,
            reorder_packets=media.reorder_packets,
            reorder_ms=media.reorder_ms,
            conceal_limit_ms=media.conceal_limit_ms,
        )
        self._arrived: tuple[int, float] | None = None
        self._open = asyncio.Event()
        self._gone = asyncio.Event()
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._pc.on("track", self._on_track)
        self._pc.on("connectionstatechange", self._on_state)
        self._pc.addTransceiver(self.microphone, direction="sendrecv")
        if camera is not None:
            self._pc.addTransceiver(Camera(camera, camera_fps), direction="sendonly")
        self._channel = self._pc.createDataChannel(EVENTS)
        self._playout = self._pc.createDataChannel(PLAYOUT, ordered=False, maxRetransmits=0)
        moments = self._pc.createDataChannel(MOMENTS)
        self._channel.on("open", self._open.set)
        self._channel.on("close", self._hung_up)
        self._channel.on("message", lambda data: self._on_event(json.loads(data)))
        moments.on("message", lambda data: self.notes.put_nowait(json.loads(data)))
        self._ticking: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Make the call; returns when events can be sent. Raises CallError."""
        await self._pc.setLocalDescription(await self._pc.createOffer())
        try:
            answer = await self._exchange(self._pc.localDescription.sdp)
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
            self._ticking = asyncio.create_task(self._tick(), name="caller-tick")
            waiting = [asyncio.create_task(self._open.wait()), asyncio.create_task(self._gone.wait())]
            await asyncio.wait(waiting, timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            if not self._open.is_set():
                raise CallError("no_connection", "the server answered, but no media connection to it could be made")
        except BaseException:
            await self.close()
            raise

    def speak(self, pcm: Pcm) -> asyncio.Future[float]:
        """Queue mono int16 audio at the microphone's rate; gives the time its last packet left, or CallError."""
        left = self.microphone.play(pcm)
        if self._gone.is_set():
            self.microphone.drop(_over())
        return left

    def send_event(self, event: dict[str, Any]) -> None:
        """Send a client event. Raises CallError if the call is over or the event is too large for the channel."""
        text = json.dumps(event)
        if self._channel.readyState != "open":
            raise CallError("closed", f"the call is over; {event.get('type')!r} was not sent")
        try:
            self._channel.send(text)
        except ValueError as error:
            raise CallError("event_too_large", f"{event.get('type')!r}: {error}") from error

    def report_playout(self, rtp: int, age_ms: float = 0.0, latency_ms: float = 0.0, *, silenced: bool = False) -> None:
        """Tell the server that the sound at `rtp` left for the loudspeaker `age_ms` ago, which lags by `latency_ms`,
        and whether it is `silenced` there because the server said that its output was cleared."""
        if self._playout.readyState == "open":
            report = {"rtp": rtp, "age_ms": age_ms, "latency_ms": latency_ms, "silenced": silenced}
            self._playout.send(json.dumps(report))

    async def close(self) -> None:
        """Hang up; safe to call twice."""
        if self._ticking is not None:
            self._ticking.cancel()
        await self._pc.close()
        self._hung_up()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _post(self, offer: str) -> str:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        url = f"{self._server}/v1/realtime/calls"
        try:
            async with httpx.AsyncClient(timeout=_CONNECT_S) as http:
                if self._session is None:
                    headers["Content-Type"] = "application/sdp"
                    reply = await http.post(url, content=offer, headers=headers)
                else:
                    session = json.dumps(self._session)
                    parts = {"sdp": (None, offer, "application/sdp"), "session": (None, session, "application/json")}
                    reply = await http.post(url, files=parts, headers=headers)
        except httpx.HTTPError as error:
            raise CallError("unreachable", f"{url} does not answer ({error or type(error).__name__})") from error
        if reply.is_success:
            self.call_id = reply.headers.get("Location", "").rpartition("/")[2]
            return reply.text
        try:
            refused = reply.json()["error"]
            raise CallError(str(refused.get("code") or refused.get("type")), str(refused.get("message")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CallError(f"http_{reply.status_code}", f"{url} answered {reply.status_code}") from None

    def _on_track(self, track: MediaStreamTrack) -> None:
        receiver = next(r for r in self._pc.getReceivers() if r.track is track)
        seams.tap_audio(receiver, self._on_packet)

    def _on_packet(self, packet: RtpPacket) -> None:
        now = time.perf_counter()
        for sound in self.dejitter.push(
            packet.ssrc, packet.sequence_number, packet.timestamp, packet.payload, now * 1000
        ):
            self._arrived = (sound.rtp, now)
            if self._on_audio is not None:
                self._on_audio(Arrival(now, sound.rtp, sound.pcm, sound.concealed))

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["type"] == "output_audio_buffer.cleared":
            self._report_arrived(silenced=True)
        self.events.put_nowait(event)

    def _report_arrived(self, *, silenced: bool = False) -> None:
        """Without a loudspeaker of its own, a sound counts as heard when it arrives."""
        if self._reports and self._arrived is not None:
            rtp, at = self._arrived
            self.report_playout(rtp, age_ms=(time.perf_counter() - at) * 1000, silenced=silenced)

    def _on_state(self) -> None:
        if self._pc.connectionState in ("failed", "closed"):
            self._hung_up()

    def _hung_up(self) -> None:
        if not self._gone.is_set():
            self._gone.set()
            self.microphone.drop(_over())
            self.events.put_nowait(None)

    async def _tick(self) -> None:
        seen, alive = 0, time.perf_counter()
        while not self._gone.is_set():
            await asyncio.sleep(_REPORT_S)
            now = time.perf_counter()
            self._report_arrived()
            if (packets := seams.packets_received(self._pc)) != seen:
                seen, alive = packets, now
            elif now - alive > _SILENT_S:
                self._hung_up()


def _over() -> CallError:
    return CallError("closed", "the call is over")
