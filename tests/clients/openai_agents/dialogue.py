"""A dialogue by openai-agents, as it comes. Run by its own environment's Python: dialogue.py JOB RESULT.

JOB is JSON: `url` (the server's WebSocket), `human` and `questions` (files of PCM, 24 kHz), `picture` (a JPEG file).
RESULT becomes JSON: what the client was told, and in `sound` its spoken answers as base64.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner, RealtimeSession
from agents.realtime.model_inputs import RealtimeModelSendRawMessage

PATIENCE_S = 120.0
STEP_S = 0.1
STEP_BYTES = round(24_000 * STEP_S) * 2


class Talk:
    """The events of a session, and the answers' sound by item."""

    def __init__(self, session: RealtimeSession) -> None:
        self.session = session
        self.seen: list[Any] = []
        self.sound: dict[str, bytes] = {}
        self._read = 0
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        async for event in self.session:
            if event.type == "audio":
                self.sound[event.item_id] = self.sound.get(event.item_id, b"") + event.audio.data
            async with self._news:
                self.seen.append(event)
                self._news.notify_all()

    async def until(self, kind: str) -> Any:
        """The next event of this type that no earlier call has returned or passed over; `raw.` leads to the model's."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            while True:
                while self._read < len(self.seen):
                    event = self.seen[self._read]
                    self._read += 1
                    if event.type == kind:
                        return event
                    if event.type == "raw_model_event" and f"raw.{event.data.type}" == kind:
                        return event.data
                await self._news.wait()

    async def server_event(self, kind: str) -> dict[str, Any]:
        while (event := (await self.until("raw.raw_server_event")).data)["type"] != kind:
            pass
        return event

    async def answer(self) -> dict[str, Any]:
        """The next response that says something, once it is done: its text and sound."""
        while True:
            response = (await self.server_event("response.done"))["response"]
            for item in response["output"]:
                if item["type"] == "message":
                    text = " ".join(part.get("text") or part.get("transcript") or "" for part in item["content"])
                    sound = self.sound.get(item["id"], b"")
                    return {"text": text, "sound": base64.b64encode(sound).decode(), "status": response["status"]}

    async def send(self, kind: str, **fields: Any) -> None:
        """An event for which the package has no call of its own."""
        message: Any = {"type": kind, "other_data": fields}
        await self.session.model.send_event(RealtimeModelSendRawMessage(message=message))

    async def speak(self, file: str) -> None:
        sound = Path(file).read_bytes()
        for start in range(0, len(sound), STEP_BYTES):
            await self.session.send_audio(sound[start : start + STEP_BYTES])
            await asyncio.sleep(STEP_S)

    def texts(self) -> list[str]:
        """The conversation as the client has it."""
        found = []
        for item in self.session._history:
            for part in getattr(item, "content", []):
                found.append(f"{item.role}: {getattr(part, 'text', None) or getattr(part, 'transcript', None)}")
        return found


async def dialogue(job: dict[str, str]) -> dict[str, Any]:
    @function_tool
    async def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        await talk.send("session.update", session={"type": "realtime", "tool_choice": "none"})
        return json.dumps({"city": city, "sky": "heavy snow", "celsius": -7})

    agent = RealtimeAgent(name="assistant", instructions="Answer briefly.", tools=[get_weather])
    session = await RealtimeRunner(agent).run(model_config={"url": job["url"] + "?model=local", "api_key": "unused"})
    result: dict[str, Any] = {}
    async with session:
        talk = Talk(session)
        listening = asyncio.create_task(talk.listen())
        settings = (await talk.server_event("session.updated"))["session"]
        result["session"] = {key: settings[key] for key in ("instructions", "tools", "audio")}

        await talk.speak(job["questions"]["capital"])
        result["question"] = await talk.answer()

        await talk.send("session.update", session={"type": "realtime", "tool_choice": "required"})
        await session.send_message("What is the weather in Paris?")
        ended = await talk.until("tool_end")
        result["tool"] = {"name": ended.tool.name, "arguments": ended.arguments, "output": ended.output}
        result["told_of_tool"] = await talk.answer()

        url = "data:image/jpeg;base64," + base64.b64encode(Path(job["picture"]).read_bytes()).decode()
        content: Any = [
            {"type": "input_image", "image_url": url},
            {"type": "input_text", "text": "Which animal is in this picture?"},
        ]
        await session.send_message({"type": "message", "role": "user", "content": content})
        result["picture"] = await talk.answer()

        await session.send_message("Name the twelve months of the year in order, one after the other.")
        item_id = (await talk.until("audio")).item_id
        await asyncio.sleep(1.5)
        speaking = asyncio.create_task(talk.speak(job["human"]))
        interrupted = await talk.until("audio_interrupted")
        truncated = await talk.server_event("conversation.item.truncated")
        result["after_interruption"] = await talk.answer()
        await speaking
        result["interruption"] = {
            "same": interrupted.item_id == item_id == truncated["item_id"],
            "heard": truncated["transcript"],
            "heard_ms": truncated["audio_end_ms"],
            "sent_ms": len(talk.sound[item_id]) // 48,
        }

        await talk.send("conversation.item.delete", item_id="nowhere", event_id="on_purpose")
        error = (await talk.until("error")).error
        result["error"] = {"code": error.code, "event_id": error.event_id}

        await talk.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
        await session.send_message("What is the capital of Italy?")
        result["text"] = await talk.answer()
        result["errors"] = [str(event.error) for event in talk.seen if event.type == "error"]
        result["history"] = talk.texts()
        listening.cancel()
    return result


if __name__ == "__main__":
    made = asyncio.run(dialogue(json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps(made, indent=1))
