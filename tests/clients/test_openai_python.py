"""The `openai` package, as it comes: one dialogue over its WebSocket, and a call through its `calls`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeFunctionToolParam, RealtimeServerEvent
from PIL import Image

from omni_rt.transport.caller import Caller
from tests.clients.speech import human, question, words
from tests.support.local import photo, spoken
from tests.support.server import RunningServer

pytestmark = pytest.mark.models

PATIENCE_S = 120.0
STEP_S = 0.1
STEP_BYTES = round(24_000 * STEP_S) * 2
WEATHER: RealtimeFunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Talk:
    """What came over a connection, and the steps that every part of the dialogue takes."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.connection = connection
        self.seen: list[Any] = []
        self._read = 0
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        async for event in self.connection:
            async with self._news:
                self.seen.append(event)
                self._news.notify_all()

    async def until(self, kind: str) -> Any:
        """The next event of this type that no earlier call has returned or passed over."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            while True:
                while self._read < len(self.seen):
                    event: RealtimeServerEvent = self.seen[self._read]
                    self._read += 1
                    if event.type == kind:
                        return event
                await self._news.wait()

    async def reply(self) -> Any:
        """The next response, at its end."""
        return (await self.until("response.done")).response

    def sound(self, response_id: str) -> bytes:
        deltas = [e for e in self.seen if e.type == "response.output_audio.delta" and e.response_id == response_id]
        return b"".join(base64.b64decode(delta.delta) for delta in deltas)

    async def speak(self, sound: bytes) -> None:
        """As a microphone does, in real time."""
        for start in range(0, len(sound), STEP_BYTES):
            audio = base64.b64encode(sound[start : start + STEP_BYTES]).decode()
            await self.connection.input_audio_buffer.append(audio=audio)
            await asyncio.sleep(STEP_S)

    async def write(self, text: str, image_url: str = "") -> None:
        content: list[Any] = [{"type": "input_text", "text": text}]
        if image_url:
            content.insert(0, {"type": "input_image", "image_url": image_url})
        await self.connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})

    async def ask(self, modality: Literal["text", "audio"] = "text", **response: Any) -> Any:
        await self.connection.response.create(response={"output_modalities": [modality], **response})
        return await self.reply()


def text_of(response: Any) -> str:
    assert response.status == "completed", response
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    return " ".join(part.text or part.transcript for part in parts)


@asynccontextmanager
async def talking(server: RunningServer) -> AsyncIterator[Talk]:
    websocket = server.url.replace("http", "ws", 1) + "/v1"
    client = AsyncOpenAI(base_url=f"{server.url}/v1", websocket_base_url=websocket, api_key="unused")
    async with client, client.realtime.connect(model="local") as connection:
        talk = Talk(connection)
        listening = asyncio.create_task(talk.listen())
        try:
            yield talk
        finally:
            listening.cancel()


async def test_a_dialogue(server: RunningServer) -> None:
    async with talking(server) as talk:
        await talk.until("session.created")
        await talk.connection.session.update(
            session={"type": "realtime", "instructions": "Answer briefly.", "tools": [WEATHER], "tool_choice": "none"}
        )
        session = (await talk.until("session.updated")).session
        assert [tool.name for tool in session.tools] == ["get_weather"]

        await _a_spoken_question(talk)
        await _a_tool_and_its_result(talk)
        await _a_picture(talk)
        await _an_interruption(talk)
        await _an_error_on_purpose(talk)
        await _a_text_turn(talk)
        assert [event.error.event_id for event in talk.seen if event.type == "error"] == ["on_purpose"]


async def _a_spoken_question(talk: Talk) -> None:
    await talk.speak(question("What is the capital of France?"))
    understood = await talk.until("conversation.item.input_audio_transcription.completed")
    assert "france" in understood.transcript.lower()
    response = await talk.reply()
    assert "Paris" in text_of(response)
    assert "paris" in words(talk.sound(response.id))
    assert response.usage.output_tokens > 0


async def _a_tool_and_its_result(talk: Talk) -> None:
    await talk.write("What is the weather in Paris?")
    (call,) = (await talk.ask(tool_choice="required")).output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Paris"})
    await talk.connection.conversation.item.create(
        item={
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": '{"sky": "heavy snow", "celsius": -7}',
        }
    )
    await talk.write("Does it snow in Paris?")
    response = await talk.ask("audio")
    assert "snow" in text_of(response).lower()
    assert "snow" in " ".join(words(talk.sound(response.id)))


async def _a_picture(talk: Talk) -> None:
    file = io.BytesIO()
    Image.fromarray(photo("cat")).save(file, "JPEG")
    await talk.write(
        "Which animal is in this picture?", "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    )
    assert "cat" in text_of(await talk.ask()).lower()


async def _an_interruption(talk: Talk) -> None:
    """The client stops its loudspeaker when it hears of the speech, and tells how far it got."""
    await talk.write("Name the twelve months of the year in order, one after the other.")
    await talk.connection.response.create(response={"output_modalities": ["audio"]})
    item_id = (await talk.until("response.output_audio.delta")).item_id
    began = time.monotonic()
    await asyncio.sleep(1.5)
    speaking = asyncio.create_task(talk.speak(human("something")))
    await talk.until("input_audio_buffer.speech_started")
    heard_ms = min(round((time.monotonic() - began) * 1000), _length_ms(talk, item_id))
    await talk.connection.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=heard_ms)
    truncated = await talk.until("conversation.item.truncated")
    assert (truncated.item_id, truncated.audio_end_ms) == (item_id, heard_ms)
    await talk.connection.conversation.item.retrieve(item_id=item_id)
    item = (await talk.until("conversation.item.retrieved")).item
    kept = item.content[0].transcript
    told = "".join(
        e.delta for e in talk.seen if e.type == "response.output_audio_transcript.delta" and e.item_id == item_id
    )
    assert 0 < len(kept) < len(told)
    assert told.startswith(kept)
    assert kept == truncated.transcript
    assert [event.type for event in talk.seen].count("conversation.item.truncated") == 1
    understood = await talk.until("conversation.item.input_audio_transcription.completed")
    assert "somewhere" in understood.transcript.lower()
    assert (await talk.reply()).output
    await speaking


def _length_ms(talk: Talk, item_id: str) -> int:
    deltas = [e.delta for e in talk.seen if e.type == "response.output_audio.delta" and e.item_id == item_id]
    return sum(len(base64.b64decode(delta)) for delta in deltas) // 48


async def _an_error_on_purpose(talk: Talk) -> None:
    await talk.connection.conversation.item.delete(item_id="nowhere", event_id="on_purpose")
    error = (await talk.until("error")).error
    assert (error.code, error.param, error.event_id) == ("item_not_found", "item_id", "on_purpose")


async def _a_text_turn(talk: Talk) -> None:
    await talk.write("What is the capital of Italy?")
    assert "Rome" in text_of(await talk.ask())


async def test_a_call(server: RunningServer) -> None:
    client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused")
    calls: list[str] = []

    async def exchange(offer: str) -> str:
        answer = await client.realtime.calls.create(sdp=offer, session={"type": "realtime", "instructions": "Be kind."})
        calls.append(answer.response.headers["location"].rsplit("/", 1)[-1])
        return answer.text

    async with client, Caller(exchange=exchange) as caller:
        caller.speak(spoken("What is the capital of France?"))
        async with asyncio.timeout(PATIENCE_S):
            event = await _next(caller, "session.created")
            assert event["session"]["instructions"] == "Be kind."
            done = await _next(caller, "response.done")
            assert "Paris" in done["response"]["output"][0]["content"][0]["transcript"]
            await client.realtime.calls.hangup(calls[0])
            while await caller.events.get() is not None:
                pass


async def _next(caller: Caller, kind: str) -> dict[str, Any]:
    while (event := await caller.events.get()) is not None:
        if event["type"] == kind:
            return event
    raise AssertionError(f"the call ended before {kind}")
