"""Stock clients that live in environments of their own: each holds its scripted dialogue with the server."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from omni_rt.client.words import normalise
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE
from tests.clients.speech import human, question, words
from tests.support import dashscope_events
from tests.support.local import PHOTOS
from tests.support.server import RunningServer

pytestmark = [pytest.mark.models, pytest.mark.timeout(420)]

HERE = Path(__file__).parent
PATIENCE_S = 360
QUESTIONS = {
    "capital": "What is the capital of France?",
    "italy": "What is the capital of Italy?",
    "weather": "What is the weather in Paris?",
    "animal": "Which animal is in the picture?",
    "months": "Name the twelve months of the year.",
}


def dialogue(
    name: str, server: RunningServer, folder: Path, path: str = "/v1/realtime", rate: int = OUTPUT_RATE
) -> dict[str, Any]:
    """What a client's `dialogue.py` says of its dialogue; it speaks at `rate`."""
    python = Path(os.environ["OMNI_RT_CLIENTS"]) / name / "bin" / "python"
    job, result = folder / "job.json", folder / "result.json"
    for what, text in QUESTIONS.items():
        (folder / f"{what}.pcm").write_bytes(question(text, rate))
    (folder / "human.pcm").write_bytes(human("something", rate))
    wanted = {
        "http": server.url + "/v1",
        "url": server.url.replace("http", "ws", 1) + path,
        "questions": {what: str(folder / f"{what}.pcm") for what in QUESTIONS},
        "human": str(folder / "human.pcm"),
        "picture": str(PHOTOS / "cat.jpg"),
    }
    job.write_text(json.dumps(wanted))
    done = subprocess.run(
        [python, HERE / name / "dialogue.py", job, result], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-6000:]
    told: dict[str, Any] = json.loads(result.read_text())
    return told


def sounds(answer: dict[str, Any]) -> list[str]:
    """The words that a client's loudspeaker would have said."""
    return words(base64.b64decode(answer["sound"]))


def test_openai_agents(server: RunningServer, tmp_path: Path) -> None:
    told = dialogue("openai_agents", server, tmp_path)
    session = told["session"]
    assert session["instructions"] == "Answer briefly."
    assert [tool["name"] for tool in session["tools"]] == ["get_weather"]
    assert session["audio"]["input"]["turn_detection"]["interrupt_response"] is True, "else it cancels by itself"

    assert "Paris" in told["question"]["text"]
    assert "paris" in sounds(told["question"])
    assert json.loads(told["tool"]["arguments"]) == {"city": "Paris"}
    assert "snow" in told["told_of_tool"]["text"]
    assert "snow" in sounds(told["told_of_tool"])
    assert "cat" in told["picture"]["text"]

    cut = told["interruption"]
    assert cut["same"]
    assert 0 < cut["heard_ms"] <= cut["sent_ms"] + 1
    assert cut["heard"]
    assert f"assistant: {cut['heard']}" in told["history"]
    assert told["after_interruption"]["text"]

    assert told["error"] == {"code": "item_not_found", "event_id": "on_purpose"}
    assert len(told["errors"]) == 1, told["errors"]
    assert "Rome" in told["text"]["text"]
    assert told["text"]["sound"] == ""
    assert "user: What is the capital of France?" in told["history"]


def test_pipecat(server: RunningServer, tmp_path: Path) -> None:
    told = dialogue("pipecat", server, tmp_path)
    assert "Rome" in told["text"]["text"]
    assert "Paris" in told["question"]["text"]
    assert "paris" in sounds(told["question"])
    assert told["tool"] == {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert "snow" in told["told_of_tool"]["text"]
    assert "cat" in told["picture"]["text"]

    assert told["heard"]
    assert told["cut_answer"]["text"].startswith(told["heard"])
    assert len(told["heard"]) < len(told["cut_answer"]["text"])
    assert told["after_interruption"]["text"]
    assert {"role": "user", "content": "What is the capital of France?"} in told["conversation"]

    assert "nowhere" in told["error"]
    assert told["errors"] == [], "any other error would have ended its session"


def test_dashscope(server: RunningServer, tmp_path: Path) -> None:
    told = dialogue("dashscope", server, tmp_path, "/api-ws/v1/realtime", INPUT_RATE)
    assert told["session"]["modalities"] == ["text", "audio"]
    assert told["session"]["turn_detection"]["threshold"] == 0.2
    assert told["session_id"].startswith("sess_")

    assert "france" in told["understood"].lower()
    assert "Paris" in told["question"]["text"]
    assert told["question"]["deltas"] == told["question"]["text"]
    assert "paris" in sounds(told["question"])
    assert told["question"]["output_tokens"] > 0
    assert 0 < told["first_text_ms"] <= told["first_audio_ms"]

    cut = told.get("cut")  # else all of it was made already, and the client had more of it than it had played
    assert cut["status"] == "cancelled" if cut else told["heard_ms"] < told["sent_ms"]
    assert told["after_interruption"]["text"]
    assert told["push_to_talk"] is None
    assert "Rome" in told["pushed"]["text"]
    assert told["pushed"]["sound"] == ""
    assert "cat" in told["picture"]["text"]
    assert "cat" in sounds(told["picture"])

    assert told["tools"][0]["function"]["name"] == "get_weather"
    assert (told["tool"]["name"], json.loads(told["tool"]["arguments"])) == ("get_weather", {"city": "Paris"})
    assert "snow" in told["told_of_tool"]["text"]
    assert told["cancelled"] == "cancelled"
    assert [(error["code"], error["param"]) for error in told["errors"]] == [
        ("response_cancel_not_active", "response_id"),
        ("invalid_value", "session.modalities"),
        ("unknown_event", "type"),
    ]
    assert told["errors"][2]["event_id"] == "on_purpose"
    assert "Rome" in told["last"]["text"]
    assert told["closed"]
    assert set(told["kinds"]) <= set(dashscope_events.KINDS)
    assert len(told["kinds"]) > 20


def test_livekit(server: RunningServer, tmp_path: Path) -> None:
    told = dialogue("livekit", server, tmp_path)
    session = told["session"]
    assert session["instructions"] == "Answer briefly."
    assert [tool["name"] for tool in session["tools"]] == ["get_weather"]

    assert "Paris" in told["question"]["text"]
    assert "paris" in sounds(told["question"])
    assert told["tool"] == {"city": "Paris"}
    assert "snow" in told["told_of_tool"]["text"]
    assert "snow" in sounds(told["told_of_tool"])
    assert "cat" in told["picture"]["text"]
    assert "cat" in sounds(told["picture"])

    cut = told["interruption"]
    assert cut["interrupted"]
    assert 0 < cut["audio_end_ms"] <= len(base64.b64decode(cut["sound"])) // 48 + 1
    assert sounds(cut)[0] == normalise(cut["transcript"])[0]
    assert cut["text"].startswith(cut["transcript"])
    assert "December" not in cut["transcript"]
    assert not told["after_interruption"]["interrupted"]
    assert told["after_interruption"]["text"]
    assert "user: What is the capital of France?" in told["history"]

    assert told["errors"] == [{"code": "item_not_found", "event_id": "on_purpose"}]
    assert len(told["complaints"]) == 1, told["complaints"]
    assert "Rome" in told["text"]["text"]
    assert "Italy" in told["after_connection"]["text"], "it was told anew what had been said"
