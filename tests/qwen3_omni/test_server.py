"""The engine with tiny random weights behind the real server, over its WebSocket: turns, calls, and all that is wrong
with what clients send. What is said is random; lengths, order, states and errors are not."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni_rt.engine.api import Pcm
from omni_rt.engine.qwen3_omni.prompt import Prompt
from omni_rt.media.resample import resample
from omni_rt.realtime.settings import PcmFormat
from omni_rt.realtime.wire_audio import AudioEncoder
from tests.qwen3_omni.qwen_tokenizer import tokenizer
from tests.support.clients import SocketPeer, empty, socket_peer
from tests.support.qwen import CONTEXT, SCRIPTED, TINY, WRITE, tokens
from tests.support.server import RunningServer, running_server
from tests.support.speech import clip, silence

FRAME = 1920
"""Samples of 80 ms at 24 kHz."""
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("qwen"), *TINY, factory=SCRIPTED) as running:
        yield running


@pytest.fixture(autouse=True)
def clean_log(server: RunningServer) -> Iterator[None]:
    """Whatever happens, nothing fails unforeseen."""
    yield
    assert "Traceback" not in server.log.read_text(errors="replace")


class Talk:
    """A session whose replies are short."""

    def __init__(self, peer: SocketPeer) -> None:
        self.peer = peer

    async def update(self, **session: Any) -> dict[str, Any]:
        await self.peer.send("session.update", session={"type": "realtime", **session})
        return await self.peer.wait("session.updated", "error")

    async def show(self, *content: dict[str, Any]) -> dict[str, Any]:
        await self.peer.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        return await self.peer.wait("conversation.item.added", "error")

    async def write(self, text: str) -> dict[str, Any]:
        return await self.show({"type": "input_text", "text": text})

    async def respond(self, **response: Any) -> Answer:
        await self.peer.send("response.create", response=response)
        return await self.answer()

    async def answer(self) -> Answer:
        done = (await self.peer.wait("response.done"))["response"]
        events = [e for e in self.peer.seen if e.get("response_id") == done["id"]]
        return Answer(done, events)

    async def lives(self) -> None:
        """The session answers, as if nothing had been."""
        await self.write(f"{WRITE}Yes.")
        answer = await self.respond()
        assert (answer.status, answer.text) == ("completed", "Yes.")
        assert answer.frames > 0

    def messages(self) -> list[str]:
        """Of all errors so far, what they say."""
        return [event["error"]["message"] for event in self.peer.seen if event["type"] == "error"]

    async def speak(self, pcm: Pcm) -> None:
        """Say something at 16 kHz, faster than anybody can."""
        sound = resample(pcm, 16_000, 24_000)
        for start in range(0, len(sound), 24_000):
            await self.peer.send(
                "input_audio_buffer.append", audio=AudioEncoder(PcmFormat()).feed(sound[start : start + 24_000])
            )


class Answer:
    def __init__(self, body: dict[str, Any], events: list[dict[str, Any]]) -> None:
        self.status = body["status"]
        self.reason = (body["status_details"] or {}).get("reason")
        self.output = body["output"]
        self.usage = body["usage"]
        written = ("response.output_text.delta", "response.output_audio_transcript.delta")
        self.text = "".join(e["delta"] for e in events if e["type"] in written)
        self.samples = sum(
            len(base64.b64decode(e["delta"])) // 2 for e in events if e["type"] == "response.output_audio.delta"
        )
        self.calls = [e for e in events if e["type"] == "response.function_call_arguments.done"]

    @property
    def frames(self) -> int:
        """How many frames its sound has; a part of a frame is an error."""
        assert self.samples % FRAME == 0
        return self.samples // FRAME

    def is_whole(self) -> bool:
        return (self.status, self.reason) in (("incomplete", "max_output_tokens"), ("completed", None))


@pytest.fixture
async def talk(server: RunningServer) -> AsyncIterator[Talk]:
    await empty(server)
    async with socket_peer(server) as peer:
        created = await peer.wait("session.created")
        assert created["session"]["model"] == "qwen3_omni"
        talk = Talk(peer)
        await talk.update(max_output_tokens=4)
        yield talk


# -- turns


async def test_turns_by_text(talk: Talk) -> None:
    await talk.write("Good morning")
    first = await talk.respond()
    assert first.is_whole()
    assert first.frames > 0
    assert first.usage["output_tokens"] == 4
    await talk.write("And again")
    second = await talk.respond()
    assert second.frames > 0
    assert second.usage["input_tokens"] > first.usage["input_tokens"] + first.usage["output_tokens"]
    silent = await talk.respond(output_modalities=["text"], max_output_tokens=8)
    assert silent.is_whole()
    assert silent.samples == 0
    assert silent.text
    assert silent.usage["output_tokens"] == 8
    assert talk.peer.errors() == []


async def test_turns_by_voice_and_one_that_interrupts(talk: Talk) -> None:
    await talk.update(max_output_tokens=8)
    await talk.speak(np.concatenate([silence(0.5), clip("goforward").pcm, silence(2.5)]))
    said = (await talk.peer.wait("input_audio_buffer.committed"))["item_id"]
    await talk.peer.wait("response.output_audio.delta")
    await talk.speak(clip("something").pcm)
    interrupted = await talk.answer()
    assert (interrupted.status, interrupted.reason) == ("cancelled", "turn_detected")
    cut = interrupted.output[0]["id"]
    await talk.peer.send("conversation.item.truncate", item_id=cut, content_index=0, audio_end_ms=240)
    truncated = await talk.peer.wait("conversation.item.truncated")
    assert truncated["item_id"] == cut
    assert 0 < truncated["audio_end_ms"] <= 240
    assert interrupted.text.strip().startswith(truncated["transcript"])
    await talk.update(max_output_tokens=4)
    await talk.speak(silence(2.5))
    again = await talk.answer()
    assert again.is_whole()
    assert again.frames > 0

    def understood() -> list[str]:
        return [e["item_id"] for e in talk.peer.seen if e["type"].endswith("input_audio_transcription.completed")]

    while len(understood()) < 2:
        await talk.peer.wait("conversation.item.input_audio_transcription.completed")
    heard = [e["item_id"] for e in talk.peer.seen if e["type"] == "input_audio_buffer.committed"]
    assert heard[0] == said
    assert sorted(understood()) == sorted(heard)
    assert talk.peer.errors() == []


async def test_a_picture_costs_its_tokens(talk: Talk) -> None:
    await talk.write("Look")
    before = (await talk.respond(output_modalities=["text"])).usage
    await talk.show({"type": "input_image", "image_url": _png(Image.new("RGB", (640, 480), (9, 9, 99)))})
    after = (await talk.respond(output_modalities=["text"])).usage
    # 640 x 480 pixels are 300 squares of 32 x 32; the rest are the markers of two turns and of the picture
    assert 300 < after["input_tokens"] - before["input_tokens"] - before["output_tokens"] < 320


# -- thoughts and calls


async def test_thoughts_and_calls_are_not_spoken_and_the_result_comes_back(talk: Talk) -> None:
    await talk.update(max_output_tokens="inf", tools=[WEATHER])
    call = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>'
    await talk.write(f"{WRITE}<think>Where does she live?</think>Let me look.{call}")
    answer = await talk.respond()
    assert (answer.status, answer.text) == ("completed", "Let me look.")
    assert [item["type"] for item in answer.output] == ["message", "function_call"]
    assert answer.output[0]["content"][0]["transcript"] == "Let me look."
    # the talker is given eight frames a token, and two seconds
    assert 0 < answer.frames <= 25 + 8 * len(tokenizer().encode("Let me look."))
    [made] = answer.calls
    assert (made["name"], json.loads(made["arguments"])) == ("weather", {"place": "Oslo"})

    output = {"type": "function_call_output", "call_id": made["call_id"], "output": "rain all day"}
    await talk.peer.send("conversation.item.create", item=output)
    after = await talk.respond(output_modalities=["text"])
    assert after.is_whole()
    prompt = Prompt(tokenizer())
    remembered = [*tokens(tokenizer(), f"Let me look.{call}"), *prompt.assistant_close]
    added = len(remembered) + len(prompt.tool_result("rain all day")) + len(prompt.assistant_open)
    assert after.usage["input_tokens"] == answer.usage["input_tokens"] + added
    assert talk.peer.errors() == []


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}], ids=["required", "named"])
async def test_a_forced_call_that_is_none_ends_the_reply_and_nothing_else(talk: Talk, choice: Any) -> None:
    """The beginning of a call is forced, what random weights make of it is no call."""
    await talk.write("Hello")
    answer = await talk.respond(tools=[WEATHER], tool_choice=choice, max_output_tokens=24)
    assert answer.is_whole()
    assert (answer.text, answer.samples, answer.calls, answer.output) == ("", 0, [], [])
    await talk.lives()
    assert talk.peer.errors() == []


async def test_a_block_that_is_no_call_is_left_out(talk: Talk, server: RunningServer) -> None:
    await talk.update(max_output_tokens="inf", tools=[WEATHER])
    await talk.write(f'{WRITE}Well.<tool_call>\n{{"name": "weather", "arguments": [1}}\n</tool_call>')
    answer = await talk.respond()
    assert (answer.status, answer.text, answer.calls) == ("completed", "Well.", [])
    assert "bad_call" in server.log.read_text()


# -- what is wrong


async def test_pictures_that_are_none(talk: Talk) -> None:
    bomb = _png(Image.new("RGB", (10_000, 10_000)))
    for url in (bomb, "data:image/png;base64,", _png(Image.new("RGB", (64, 64)))[:82], "data:image/gif;base64,R0lG"):
        told = await talk.show({"type": "input_image", "image_url": url})
        assert told["type"] == "error"
        assert told["error"]["code"] == "invalid_image"
    await talk.lives()


async def test_audio_of_one_sample(talk: Talk) -> None:
    await talk.peer.send("input_audio_buffer.append", audio=AudioEncoder(PcmFormat()).feed(np.ones(1, np.int16)))
    await talk.peer.send("input_audio_buffer.commit")
    assert (await talk.peer.wait("error"))["error"]["code"] == "input_audio_buffer_commit_empty"
    await talk.show({"type": "input_audio", "audio": AudioEncoder(PcmFormat()).feed(np.ones(1, np.int16))})
    await talk.lives()


async def test_an_unknown_voice(talk: Talk) -> None:
    told = await talk.update(audio={"output": {"voice": "Marvin"}})
    assert told["error"]["code"] == "invalid_value"
    assert "Ethan, Chelsie, Aiden" in told["error"]["message"]
    await talk.lives()


@pytest.mark.parametrize(
    "parameters", [{"type": "banana"}, {"type": "object", "properties": [1]}, {"type": "object", "required": "all"}]
)
async def test_a_tool_schema_that_is_none(talk: Talk, parameters: dict[str, Any]) -> None:
    bad = {**WEATHER, "parameters": parameters}
    told = await talk.update(tools=[bad])
    assert told["error"]["code"] == "tool_schema"
    assert "'weather'" in told["error"]["message"]
    await talk.peer.send("response.create", response={"tools": [bad]})
    refused = (await talk.peer.wait("error", "response.created"))["error"]
    assert (refused["code"], refused["param"]) == ("tool_schema", "response.tools")
    # nothing of it stays: later settings are taken, and the next reply is made
    assert (await talk.update(tools=[WEATHER]))["type"] == "session.updated"
    await talk.lives()


async def test_a_choice_of_a_tool_that_is_not_there(talk: Talk) -> None:
    refused = await talk.respond(tools=[WEATHER], tool_choice={"type": "function", "name": "tide"})
    assert refused.status == "failed"
    assert "unknown_tool" in talk.messages()[-1]
    await talk.lives()


@pytest.mark.parametrize("words", [CONTEXT + 1, 9 * CONTEXT])
async def test_an_item_larger_than_the_context_is_left_out(talk: Talk, words: int) -> None:
    await talk.write("Good morning")
    before = await talk.respond(output_modalities=["text"])
    await talk.write("word " * words)
    after = await talk.respond(output_modalities=["text"])
    assert talk.peer.errors() == ["context_full"]
    # what was said before is still there
    assert CONTEXT / 2 > after.usage["input_tokens"] > before.usage["input_tokens"]
    await talk.lives()


async def test_instructions_larger_than_the_context(talk: Talk) -> None:
    told = await talk.update(instructions="word " * CONTEXT)
    assert "context_full" in {told.get("error", {}).get("code"), (await talk.peer.wait("error"))["error"]["code"]}
    await talk.lives()


async def test_the_oldest_turns_leave_a_full_context(talk: Talk) -> None:
    sizes = []
    for _ in range(12):
        await talk.write("word " * (CONTEXT // 6))
        answer = await talk.respond(output_modalities=["text"])
        assert answer.is_whole()
        sizes.append(answer.usage["input_tokens"])
    assert max(sizes) <= CONTEXT
    assert any(later < earlier for earlier, later in pairwise(sizes))
    assert talk.peer.errors() == []


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
