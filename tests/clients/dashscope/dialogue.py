"""A dialogue by dashscope's OmniRealtimeConversation, as it comes. Run by its own environment: dialogue.py JOB RESULT.

JOB is JSON: `url` (the server's WebSocket), `human` and `questions` (files of PCM, 16 kHz), `picture` (a JPEG file).
RESULT becomes JSON: what the client was told, and in `sound` its spoken answers as base64.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dashscope.audio.qwen_omni import MultiModality, OmniRealtimeCallback, OmniRealtimeConversation

PATIENCE_S = 120.0
STEP_S = 0.1
STEP_BYTES = round(16_000 * STEP_S) * 2
SPOKEN, WRITTEN = [MultiModality.TEXT, MultiModality.AUDIO], [MultiModality.TEXT]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Ear(OmniRealtimeCallback):
    """Keeps what the client is told, in its own thread."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.closed: list[Any] = []
        self._read = 0
        self._news = threading.Condition()

    def on_event(self, message: Any) -> None:
        with self._news:
            self.seen.append(message)
            self._news.notify_all()

    def on_close(self, close_status_code: Any, close_msg: Any) -> None:
        with self._news:
            self.closed.append(close_status_code)
            self._news.notify_all()

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of this type that no earlier call has returned or passed over."""
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            while True:
                while self._read < len(self.seen):
                    event = self.seen[self._read]
                    self._read += 1
                    if event["type"] == kind:
                        return event
                assert not self.closed, f"it was closed before {kind}"
                assert self._news.wait(deadline - time.monotonic()), f"no {kind}; last came {self.seen[-1]}"

    def close(self) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.closed, PATIENCE_S)

    def answer(self) -> dict[str, Any]:
        """The next response, once it is done: its text, and its sound as it came."""
        response = self.until("response.done")["response"]
        parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
        calls = [item for item in response["output"] if item["type"] == "function_call"]
        return {
            "id": response["id"],
            "status": response["status"],
            "text": " ".join(part["text"] for part in parts),
            "deltas": self._joined(("response.text.delta", "response.audio_transcript.delta"), response["id"]),
            "sound": base64.b64encode(self.sound(response["id"])).decode(),
            "calls": [{name: call[name] for name in ("name", "arguments", "call_id")} for call in calls],
            "output_tokens": response["usage"]["output_tokens"],
        }

    def sound(self, response_id: str) -> bytes:
        deltas = [e for e in self.seen if e["type"] == "response.audio.delta" and e["response_id"] == response_id]
        return b"".join(base64.b64decode(event["delta"]) for event in deltas)

    def _joined(self, kinds: tuple[str, ...], response_id: str) -> str:
        return "".join(e["delta"] for e in self.seen if e["type"] in kinds and e["response_id"] == response_id)


class Talk:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.ear = Ear()
        self.client = OmniRealtimeConversation(
            model="qwen3-omni-flash-realtime", callback=self.ear, url=job["url"], api_key="unused"
        )

    def update(self, **settings: Any) -> dict[str, Any]:
        """As an application does: it sends all its settings each time."""
        self.client.update_session(
            **{"output_modalities": SPOKEN, "voice": "Cherry", "instructions": "Answer briefly.", **settings}
        )
        session: dict[str, Any] = self.ear.until("session.updated")["session"]
        return session

    def append(self, piece: bytes) -> None:
        self.client.append_audio(base64.b64encode(piece).decode())

    def speak(self, file: str) -> None:
        """As a microphone does, in real time."""
        sound = Path(file).read_bytes()
        for start in range(0, len(sound), STEP_BYTES):
            self.append(sound[start : start + STEP_BYTES])
            time.sleep(STEP_S)

    def write(self, text: str) -> None:
        self.client.create_item({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})


def dialogue(job: dict[str, Any]) -> dict[str, Any]:
    talk = Talk(job)
    result: dict[str, Any] = {}
    talk.client.connect()
    talk.ear.until("session.created")
    try:
        result["session"] = talk.update(smooth_output=True)
        _found_by_the_server(talk, result)
        _an_interruption(talk, result)
        _push_to_talk(talk, result)
        _a_tool_and_its_result(talk, result)
        _a_cancellation_and_errors_on_purpose(talk, result)
        result["session_id"] = talk.client.get_session_id()
        talk.write("What is the capital of Italy?")
        talk.client.create_response(output_modalities=WRITTEN)
        talk.client.end_session()
        result["last"] = talk.ear.answer()
        talk.ear.close()
        result["closed"] = talk.ear.closed
    finally:
        talk.client.close()
    result["errors"] = [event["error"] for event in talk.ear.seen if event["type"] == "error"]
    result["kinds"] = sorted({event["type"] for event in talk.ear.seen})
    return result


def _found_by_the_server(talk: Talk, result: dict[str, Any]) -> None:
    talk.speak(talk.job["questions"]["capital"])
    heard = talk.ear.until("conversation.item.input_audio_transcription.completed")
    result["understood"] = heard["transcript"]
    result["question"] = talk.ear.answer()
    result["first_text_ms"] = talk.client.get_last_first_text_delay()
    result["first_audio_ms"] = talk.client.get_last_first_audio_delay()


def _an_interruption(talk: Talk, result: dict[str, Any]) -> None:
    """Over what is still being heard: the client stops its loudspeaker when it hears of the speech."""
    talk.speak(talk.job["questions"]["months"])
    response_id = talk.ear.until("response.audio.delta")["response_id"]
    began = time.monotonic()
    time.sleep(1.5)
    speaking = threading.Thread(target=talk.speak, args=(talk.job["human"],))
    speaking.start()
    talk.ear.until("input_audio_buffer.speech_started")
    result["heard_ms"] = round((time.monotonic() - began) * 1000)
    result["sent_ms"] = len(talk.ear.sound(response_id)) // 48
    after = talk.ear.answer()
    if after["id"] == response_id:
        result["cut"], after = after, talk.ear.answer()
    result["after_interruption"] = after
    speaking.join()


def _push_to_talk(talk: Talk, result: dict[str, Any]) -> None:
    result["push_to_talk"] = talk.update(enable_turn_detection=False)["turn_detection"]
    sound = Path(talk.job["questions"]["italy"]).read_bytes()
    for start in range(0, len(sound), STEP_BYTES):
        talk.append(sound[start : start + STEP_BYTES])
    talk.client.commit()
    talk.client.create_response(output_modalities=WRITTEN)
    result["pushed"] = talk.ear.answer()

    picture = base64.b64encode(Path(talk.job["picture"]).read_bytes()).decode()
    sound = Path(talk.job["questions"]["animal"]).read_bytes()
    for number, start in enumerate(range(0, len(sound), STEP_BYTES)):
        talk.append(sound[start : start + STEP_BYTES])
        if number == 5:
            talk.client.append_video(picture)
    talk.client.commit()
    talk.client.create_response()
    result["picture"] = talk.ear.answer()

    talk.append(sound)
    talk.client.clear_appended_audio()
    talk.ear.until("input_audio_buffer.cleared")


def _a_tool_and_its_result(talk: Talk, result: dict[str, Any]) -> None:
    written = {"output_modalities": WRITTEN, "enable_turn_detection": False, "tools": [WEATHER]}
    result["tools"] = talk.update(**written, tool_choice="required")["tools"]
    talk.write("What is the weather in Paris?")
    talk.client.create_response()
    (call,) = talk.ear.answer()["calls"]
    result["tool"] = call
    output = json.dumps({"city": "Paris", "sky": "heavy snow", "celsius": -7})
    talk.client.create_item({"type": "function_call_output", "call_id": call["call_id"], "output": output})
    talk.update(**written, tool_choice="none")
    talk.write("Does it snow in Paris?")
    talk.client.create_response()
    result["told_of_tool"] = talk.ear.answer()


def _a_cancellation_and_errors_on_purpose(talk: Talk, result: dict[str, Any]) -> None:
    talk.write("Name the twelve months of the year in order, one after the other.")
    talk.client.create_response()
    talk.ear.until("response.text.delta")
    talk.client.cancel_response()
    result["cancelled"] = talk.ear.answer()["status"]
    talk.client.cancel_response()
    talk.ear.until("error")
    talk.client.update_session(output_modalities=[MultiModality.AUDIO])
    talk.ear.until("error")
    talk.client.send_raw('{"type": "conversation.item.truncate", "event_id": "on_purpose"}')
    talk.ear.until("error")


if __name__ == "__main__":
    made = dialogue(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(made, indent=1))
