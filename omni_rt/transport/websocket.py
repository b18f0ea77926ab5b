"""WebSocket transport: JSON text frames only; audio travels inside events and the client plays it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from omni_rt.transport.base import SentAudio

AudioEvent = Callable[[int, Pcm | None], dict[str, Any] | None]


class WebSocketListener(Protocol):
    """The part of a TransportListener that a WebSocket tells."""

    def on_open(self) -> None: ...

    def on_event(self, raw: str | bytes) -> None: ...

    async def until_taken(self) -> None: ...

    def on_sent(self, sent: SentAudio) -> None: ...

    def on_closed(self, reason: str) -> None: ...


class WebSocketTransport:
    """Serves one accepted WebSocket; `run` returns when it is over.

    `audio_event` wraps a reply's audio into the event that carries it, and what is left of it at its end (None for the
    audio); it gives None when there is nothing to carry.
    """

    server_plays = False

    def __init__(self, socket: WebSocket, listener: WebSocketListener, audio_event: AudioEvent, max_queue: int) -> None:
        self._socket = socket
        self._listener = listener
        self._audio_event = audio_event
        self._out: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._max_queue = max_queue
        self._sent_ms: dict[int, float] = {}
        self._stream_ms = 0.0
        self._closed = False

    async def run(self) -> None:
        """Carry events until either side ends; tells the listener once. Reads on when the listener has taken what came,
        so that a client that sends faster waits."""
        writer = asyncio.get_running_loop().create_task(self._write())
        reason = "the client closed the WebSocket"
        try:
            self._listener.on_open()
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                self._listener.on_event(message.get("text") or message.get("bytes") or b"")
                await self._listener.until_taken()
        except (WebSocketDisconnect, RuntimeError) as error:
            reason = f"the WebSocket failed: {error or 'disconnected'}"
        finally:
            self._closed = True
            writer.cancel()
            await asyncio.wait((writer,))
            self._listener.on_closed(reason)

    def send_audio(self, generation: int, pcm: Pcm) -> None:
        event = self._audio_event(generation, pcm)
        if event is not None:
            self.send_event(event)
        length = len(pcm) * 1000 / OUTPUT_RATE
        at = self._sent_ms.get(generation, 0.0)
        self._sent_ms = {generation: at + length}
        self._listener.on_sent(SentAudio(generation, at, self._stream_ms, length, pcm))
        self._stream_ms += length

    def end_audio(self, generation: int) -> None:
        event = self._audio_event(generation, None)
        if event is not None:
            self.send_event(event)

    def set_gain(self, gain: float) -> None:
        """The client plays; it has its own volume."""

    def hold(self, on: bool) -> None:
        """What is sent is not played yet: the client stops itself when it hears of an interruption."""

    def clear(self) -> None:
        """What was sent is the client's; it clears its queue when it hears of the interruption."""

    def send_event(self, event: dict[str, Any]) -> None:
        if self._closed:
            return
        if self._out.qsize() >= self._max_queue:
            self._closed = True
            self._out.put_nowait(None)
            return
        self._out.put_nowait(event)

    def send_note(self, note: dict[str, Any]) -> None:
        """There is no side channel on a WebSocket."""

    async def close(self) -> None:
        self._closed = True
        self._out.put_nowait(None)

    async def _write(self) -> None:
        """Ends when the client is gone, which `run` hears of by itself."""
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            while (event := await self._out.get()) is not None:
                await self._socket.send_text(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
            await self._socket.close()
