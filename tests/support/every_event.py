"""A dialogue in which every event of the protocol passes, over either transport: a real server with real connections,
an engine that does what is written to it, ears that take what is loud for speech."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from PIL import Image

from omni_rt.config import Settings
from omni_rt.engine.api import (
    CallDelta,
    Chunk,
    EngineListener,
    Pcm,
    ReplyEnd,
    RespondOptions,
    Role,
    SessionSettings,
    Transcript,
)
from tests.support.clients import CallPeer, Peer, SocketPeer, call_peer, socket_peer
from tests.support.scripted import ScriptedEars, ScriptedEngine, ScriptedEngineSession
from tests.support.scripted_server import ScriptedServer, scripted_server

IDLE_MS = 5000
SILENCE_MS = 200


class ObedientSession(ScriptedEngineSession):
    """Does what the last text says: "call" a tool, "hold" the reply until it is cancelled, "mumble" so that nobody
    understands; else says a word for each of the text."""

    text = "one two three"

    def append_audio(self, pcm: Pcm) -> None:
        super().append_audio(pcm)
        self.listener.on_transcript(Transcript("", self.understood, False))

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        super().append_text(text, role, item_id)
        self.text = text
        self.words = text.split()

    def commit(self, item_id: str) -> None:
        if self.text == "mumble":
            self.calls.append(("commit", item_id))
            failed = Transcript(item_id, "", True, "nobody understands it")
            asyncio.get_running_loop().call_soon(self.listener.on_transcript, failed)
        else:
            super().commit(item_id)

    async def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        generation = options.generation
        if self.text == "call":
            yield CallDelta(generation, f"call_{generation}", "lamp", '{"on":true}')
            yield ReplyEnd(generation, "completed")
            return
        while self.text == "hold" and generation not in self.cancelled:
            await asyncio.sleep(0.01)
        async for chunk in super().respond(options):
            yield chunk


class ObedientEngine(ScriptedEngine):
    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> ObedientSession:
        self.sessions.append(session := ObedientSession(listener))
        return session


async def every_event() -> None:
    """The dialogue over both transports at once."""
    with scripted_server(Settings(), ObedientEngine(), ScriptedEars) as server:
        await asyncio.gather(_over_webrtc(server), _over_websocket(server))


async def _over_webrtc(server: ScriptedServer) -> None:
    async with call_peer(server) as peer:
        await _Talk(peer).all()


async def _over_websocket(server: ScriptedServer) -> None:
    async with socket_peer(server) as peer:
        await _Talk(peer).all()


class _Talk:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    @property
    def calls(self) -> bool:
        return isinstance(self.peer, CallPeer)

    async def all(self) -> None:
        await self.peer.wait("session.created")
        await self.turn_detection({"type": "server_vad", "silence_duration_ms": SILENCE_MS})
        await self.a_spoken_turn()
        await self.a_written_turn()
        await self.a_tool()
        await self.an_interruption()
        await self.replies_that_end_early()
        await self.push_to_talk()
        await self.a_picture()
        await self.items()
        await self.a_silence()

    # -- what the client does

    async def turn_detection(self, settings: dict[str, Any] | None) -> None:
        await self.peer.send("session.update", session={"audio": {"input": {"turn_detection": settings}}})
        await self.peer.wait("session.updated")

    async def speak(self, ms: int, *, loud: bool = True) -> None:
        """A tone or silence at the microphone."""
        if isinstance(self.peer, CallPeer):
            await self.peer.caller.speak(_sound(ms, 16_000, loud))
            return
        sound = base64.b64encode(_sound(ms, 24_000, loud).tobytes()).decode()
        await self.peer.send("input_audio_buffer.append", audio=sound)

    async def pause(self) -> None:
        """The silence that ends a turn; in a call it comes by itself."""
        if isinstance(self.peer, SocketPeer):
            await self.speak(2 * SILENCE_MS, loud=False)

    async def write(self, text: str) -> str:
        content = [{"type": "input_text", "text": text}]
        await self.peer.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        item: str = (await self.peer.wait("conversation.item.done"))["item"]["id"]
        return item

    async def respond(self, *modalities: str) -> None:
        await self.peer.send("response.create", response={"output_modalities": modalities} if modalities else {})

    async def played(self) -> None:
        """Until the reply that is being heard was heard."""
        if self.calls:
            await self.peer.wait("output_audio_buffer.stopped")

    # -- the dialogue

    async def a_spoken_turn(self) -> None:
        await self.speak(600)
        await self.pause()
        await self.peer.wait("response.done")
        await self.played()

    async def a_written_turn(self) -> None:
        await self.write("yes")
        await self.respond("text")
        await self.peer.wait("response.done")

    async def a_tool(self) -> None:
        await self.write("call")
        await self.respond()
        call = (await self.peer.wait("response.function_call_arguments.done"))["call_id"]
        await self.peer.wait("response.done")
        output = {"type": "function_call_output", "call_id": call, "output": "on"}
        await self.peer.send("conversation.item.create", item=output)
        await self.peer.wait("conversation.item.done")

    async def an_interruption(self) -> None:
        """Over WebRTC the server tells what was heard; the client may have its say too."""
        await self.write("one two three four five six seven eight nine ten")
        await self.respond("audio")
        item = (await self.peer.wait("response.output_item.added"))["item"]["id"]
        await self.peer.wait("output_audio_buffer.started" if self.calls else "response.done")
        if self.calls:
            await asyncio.sleep(0.8)
        await self.speak(600)
        await self.peer.wait("input_audio_buffer.speech_started")
        if self.calls:
            await self.peer.wait("conversation.item.truncated")
        await self.peer.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=200)
        await self.peer.wait("conversation.item.truncated")
        await self.pause()
        await self.peer.wait("response.created")
        if self.calls:
            await self.peer.wait("output_audio_buffer.started")
        await self.peer.send("output_audio_buffer.clear")
        await self.peer.wait("output_audio_buffer.cleared" if self.calls else "error")

    async def replies_that_end_early(self) -> None:
        await self.write("hold")
        await self.respond()
        await self.peer.wait("response.created")
        await self.peer.send("response.cancel")
        await self.peer.wait("response.done")

    async def push_to_talk(self) -> None:
        await self.turn_detection(None)
        await self.speak(300)
        await self.peer.send("input_audio_buffer.clear")
        await self.peer.wait("input_audio_buffer.cleared")
        await self.write("mumble")
        await self.speak(300)
        await self.peer.send("input_audio_buffer.commit")
        await self.peer.wait("conversation.item.input_audio_transcription.failed")

    async def a_picture(self) -> None:
        file = io.BytesIO()
        Image.new("RGB", (32, 32)).save(file, "PNG")
        image = base64.b64encode(file.getvalue()).decode()
        await self.peer.send("input_image_buffer.append", image=image)
        if self.calls:
            await self.peer.wait("error")
            await self.peer.send("input_audio_buffer.append", audio="")
            await self.peer.wait("error")

    async def items(self) -> None:
        item = await self.write("yes")
        await self.peer.send("conversation.item.retrieve", item_id=item)
        await self.peer.wait("conversation.item.retrieved")
        await self.peer.send("conversation.item.delete", item_id=item)
        await self.peer.wait("conversation.item.deleted")
        await self.peer.send("conversation.item.delete", item_id=item)
        await self.peer.wait("error")

    async def a_silence(self) -> None:
        await self.turn_detection({"type": "server_vad", "idle_timeout_ms": IDLE_MS})
        await self.write("yes")
        await self.respond("audio")
        await self.peer.wait("response.done")
        await self.played()
        if not self.calls:
            await asyncio.sleep(1.0)  # as long as the server thinks the client plays
            await self.speak(IDLE_MS + 200, loud=False)
        await self.peer.wait("input_audio_buffer.timeout_triggered")
        await self.peer.wait("response.done")


def _sound(ms: int, rate: int, loud: bool) -> Pcm:
    t = np.arange(ms * rate // 1000) / rate
    return (8000 * loud * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
