"""A dialogue by livekit's AgentSession with its RealtimeModel, as they come. Run by its own environment's Python:
dialogue.py JOB RESULT.

JOB is JSON: `url` (the server's WebSocket), `human` and `questions` (files of PCM, 24 kHz), `picture` (a JPEG file).
RESULT becomes JSON: what the client was told, and in `sound` what it played of its answers as base64.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.llm import ImageContent
from livekit.agents.voice import SpeechHandle, io
from livekit.plugins.openai.realtime import RealtimeModel

PATIENCE_S = 120.0
CONNECTION_S = 8.0
RATE = 24_000
STEP = RATE // 10


class Microphone(io.AudioInput):
    """Hears what it is told to, as it is said, and else silence."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._speech = b""
        self._next = time.monotonic()

    async def speak(self, file: str) -> None:
        """Returns when it was said."""
        self._speech = Path(file).read_bytes()
        while self._speech:
            await asyncio.sleep(STEP / RATE)

    async def __anext__(self) -> rtc.AudioFrame:
        self._next += STEP / RATE
        await asyncio.sleep(self._next - time.monotonic())
        step, self._speech = self._speech[: 2 * STEP], self._speech[2 * STEP :]
        return rtc.AudioFrame(step.ljust(2 * STEP, b"\0"), RATE, 1, STEP)


class Loudspeaker(io.AudioOutput):
    """Takes as long for an answer as it lasts, and keeps what was played of each."""

    def __init__(self) -> None:
        super().__init__(label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.sounding = asyncio.Event()
        self.played: deque[bytes] = deque()
        self._sound = b""
        self._began = 0.0
        self._end: asyncio.Task[None] | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._sound:
            self._began = time.monotonic()
            self.on_playback_started(created_at=time.time())
            self.sounding.set()
        self._sound += bytes(frame.data)

    def flush(self) -> None:
        super().flush()
        if self._sound:
            self._end = asyncio.create_task(self._play_to_the_end())

    async def _play_to_the_end(self) -> None:
        await asyncio.sleep(self._began + len(self._sound) / (2 * RATE) - time.monotonic())
        self._finish(len(self._sound), interrupted=False)

    def clear_buffer(self) -> None:
        if self._end is not None:
            self._end.cancel()
        if self._sound:
            self._finish(
                2 * min(round((time.monotonic() - self._began) * RATE), len(self._sound) // 2), interrupted=True
            )

    def _finish(self, played: int, *, interrupted: bool) -> None:
        self.played.append(self._sound[:played])
        self._sound, self._end = b"", None
        self.sounding.clear()
        self.on_playback_finished(playback_position=played / (2 * RATE), interrupted=interrupted)


class Talk:
    """A session with a microphone and a loudspeaker, and what came over its connection."""

    def __init__(self, session: AgentSession[None], agent: Agent) -> None:
        self.session, self.agent = session, agent
        self.microphone, self.loudspeaker = Microphone(), Loudspeaker()
        self.events: list[dict[str, Any]] = []
        self.errors: list[Any] = []
        self.connected_anew = asyncio.Event()
        self._speeches: asyncio.Queue[SpeechHandle] = asyncio.Queue()
        session.input.audio, session.output.audio = self.microphone, self.loudspeaker
        session.on("speech_created", lambda event: self._speeches.put_nowait(event.speech_handle))
        session.on("error", lambda event: self.errors.append(event.error.error.body))

    async def start(self) -> None:
        await self.session.start(self.agent)
        connection = self.agent.realtime_llm_session
        connection.on("openai_server_event_received", self.events.append)
        connection.on("session_reconnected", lambda _: self.connected_anew.set())

    def ask(self, text: str, **options: Any) -> None:
        self.session.generate_reply(user_input=text, **options)

    async def show(self, picture: bytes, text: str) -> None:
        url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        context = self.agent.chat_ctx.copy()
        context.add_message(role="user", content=[ImageContent(image=url), text])
        await self.agent.update_chat_ctx(context)
        self.session.generate_reply()

    async def answer(self) -> dict[str, Any]:
        """The next answer, once it was played or cut."""
        async with asyncio.timeout(PATIENCE_S):
            speech = await self._speeches.get()
            await speech
        messages = [item for item in speech.chat_items if item.type == "message" and item.role == "assistant"]
        sound = self.loudspeaker.played.popleft() if self.session.output.audio else b""
        return {
            "text": " ".join(message.text_content or "" for message in messages),
            "sound": base64.b64encode(sound).decode(),
            "interrupted": speech.interrupted,
        }

    async def until(self, happened: Callable[[], Any]) -> Any:
        """What `happened` gives, once it gives something."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := happened()):
                await asyncio.sleep(0.05)
        return found

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The server events of this type so far."""
        return [event for event in self.events if event["type"] == kind]


class Complaints(logging.Handler):
    """What the client warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@asynccontextmanager
async def talking(
    job: dict[str, Any], modality: Literal["text", "audio"], *tools: Any, connection_s: float | None = None
) -> AsyncIterator[Talk]:
    """After `connection_s` the client connects anew, and tells the server what was said."""
    agent = Agent(instructions="Answer briefly.", tools=list(tools))
    model = RealtimeModel(
        model="local",
        base_url=job["http"],
        api_key="unused",
        modalities=[modality],
        max_session_duration=connection_s,
    )
    session = AgentSession[None](
        llm=model,
        vad=None,
        turn_handling={"turn_detection": "realtime_llm", "interruption": {"resume_false_interruption": False}},
        aec_warmup_duration=None,
    )
    talk = Talk(session, agent)
    if modality == "text":
        session.output.audio = None
    await talk.start()
    try:
        yield talk
    finally:
        await session.aclose()
        await model.aclose()


async def dialogue(job: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}

    @function_tool
    async def get_weather(city: str) -> dict[str, Any]:
        """Tells the weather of a city."""
        result["tool"] = {"city": city}
        return {"city": city, "sky": "heavy snow", "celsius": -7}

    async with talking(job, "audio", get_weather) as talk:
        settings = (await talk.until(lambda: talk.of("session.updated")))[-1]["session"]
        result["session"] = {key: settings[key] for key in ("instructions", "tools", "audio")}
        await talk.microphone.speak(job["questions"]["capital"])
        result["question"] = await talk.answer()

        talk.ask("What is the weather in Paris?", tool_choice="required")
        result["told_of_tool"] = await talk.answer()

        await talk.show(Path(job["picture"]).read_bytes(), "Which animal is in this picture?")
        result["picture"] = await talk.answer()

        talk.ask("Name the twelve months of the year in order, one after the other.")
        await asyncio.wait_for(talk.loudspeaker.sounding.wait(), PATIENCE_S)
        await asyncio.sleep(1.5)
        await talk.microphone.speak(job["human"])
        cut = await talk.answer()
        result["after_interruption"] = await talk.answer()
        result["interruption"] = {**cut, **talk.of("conversation.item.truncated")[-1]}

        session = talk.agent.realtime_llm_session
        session.send_event({"type": "conversation.item.delete", "item_id": "nowhere", "event_id": "on_purpose"})
        await talk.until(lambda: talk.errors)
        result["errors"] = [{"code": error.code, "event_id": error.event_id} for error in talk.errors]
        result["history"] = [
            f"{item.role}: {item.text_content}" for item in talk.session.history.items if item.type == "message"
        ]

    async with talking(job, "text", connection_s=CONNECTION_S) as talk:
        talk.ask("What is the capital of Italy?")
        result["text"] = await talk.answer()
        await asyncio.wait_for(talk.connected_anew.wait(), PATIENCE_S)
        talk.ask("Which country did I ask about?")
        result["after_connection"] = await talk.answer()
    return result


if __name__ == "__main__":
    complaints = Complaints()
    logging.getLogger("livekit").addHandler(complaints)
    made = asyncio.run(dialogue(json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps({**made, "complaints": complaints.lines}, indent=1))
