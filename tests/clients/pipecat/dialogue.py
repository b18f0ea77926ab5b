"""A dialogue by pipecat's OpenAIRealtimeLLMService, as it comes. Run by its own environment: dialogue.py JOB RESULT.

JOB is JSON: `url` (the server's WebSocket), `human` and `questions` (files of PCM, 24 kHz), `picture` (a JPEG file).
RESULT becomes JSON: what the pipeline was told, and in `sound` the spoken answers as base64.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InputImageRawFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

PATIENCE_S = 120.0
STEP_S = 0.1
STEP_BYTES = round(24_000 * STEP_S) * 2
WEATHER = FunctionSchema("get_weather", "Tells the weather of a city", {"city": {"type": "string"}}, ["city"])


class Ear(FrameProcessor):
    """Keeps what the service says, answer by answer."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.sound = "", b""
        self.answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self.sounding = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self.text += frame.text
        elif isinstance(frame, TTSAudioRawFrame):
            self.sound += frame.audio
            self.sounding.set()
        elif isinstance(frame, LLMFullResponseEndFrame):
            if self.text:
                sound = base64.b64encode(self.sound).decode()
                self.answers.put_nowait({"text": self.text, "sound": sound})
            self.text, self.sound = "", b""
        await self.push_frame(frame, direction)

    async def answer(self) -> dict[str, str]:
        """The next answer that says something."""
        return await asyncio.wait_for(self.answers.get(), PATIENCE_S)


async def dialogue(job: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"errors": []}
    items: list[str] = []
    context = LLMContext([{"role": "user", "content": "What is the capital of Italy?"}], ToolsSchema([WEATHER]))
    llm = OpenAIRealtimeLLMService(
        api_key="unused",
        base_url=job["url"],
        settings=OpenAIRealtimeLLMService.Settings(model="local", system_instruction="Answer briefly."),
    )
    aggregators, ear = LLMContextAggregatorPair(context), Ear()
    worker = PipelineWorker(
        Pipeline([aggregators.user(), llm, ear, aggregators.assistant()]), cancel_on_idle_timeout=False
    )

    @llm.event_handler("on_conversation_item_created")
    async def added(_: Any, item_id: str, item: events.ConversationItem) -> None:
        if item.role == "assistant":
            items.append(item_id)

    @llm.event_handler("on_error")
    async def failed(_: Any, frame: ErrorFrame) -> None:
        result["errors"].append(frame.error)

    async def choose(choice: Any) -> None:
        await llm.send_client_event(events.SessionUpdateEvent(session=events.SessionProperties(tool_choice=choice)))

    async def get_weather(params: FunctionCallParams) -> None:
        result["tool"] = {"name": params.function_name, "arguments": dict(params.arguments)}
        await choose("none")
        await params.result_callback({"sky": "heavy snow", "celsius": -7})

    async def speak(file: str) -> None:
        sound = Path(file).read_bytes()
        for start in range(0, len(sound), STEP_BYTES):
            audio = sound[start : start + STEP_BYTES]
            await worker.queue_frame(InputAudioRawFrame(audio=audio, sample_rate=24_000, num_channels=1))
            await asyncio.sleep(STEP_S)

    async def talk() -> None:
        await worker.queue_frame(LLMRunFrame())
        result["text"] = await ear.answer()
        await choose("none")

        await speak(job["questions"]["capital"])
        result["question"] = await ear.answer()

        await choose("required")
        await speak(job["questions"]["weather"])
        result["told_of_tool"] = await ear.answer()

        with Image.open(job["picture"]) as picture:
            rgb = picture.convert("RGB")
        await worker.queue_frame(InputImageRawFrame(image=rgb.tobytes(), size=rgb.size, format="RGB"))
        await speak(job["questions"]["animal"])
        result["picture"] = await ear.answer()

        ear.sounding.clear()
        await speak(job["questions"]["months"])
        await asyncio.wait_for(ear.sounding.wait(), PATIENCE_S)
        cut = items[-1]
        await asyncio.sleep(1.5)
        await speak(job["human"])
        result["cut_answer"] = await ear.answer()
        result["after_interruption"] = await ear.answer()
        kept = await asyncio.wait_for(llm.retrieve_conversation_item(cut), PATIENCE_S)
        result["heard"] = kept.content[0].transcript

        try:
            await asyncio.wait_for(llm.retrieve_conversation_item("nowhere"), PATIENCE_S)
        except Exception as error:
            result["error"] = str(error)
        await worker.queue_frame(EndFrame())

    async def talk_and_end() -> None:
        try:
            await talk()
        finally:
            await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    llm.register_function("get_weather", get_weather)
    talking = asyncio.create_task(talk_and_end())
    await runner.run()
    await talking
    result["conversation"] = [m for m in context.get_messages() if isinstance(m.get("content"), str)]
    return result


if __name__ == "__main__":
    made = asyncio.run(dialogue(json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps(made, indent=1))
