"""@openai/agents-realtime in a Chromium, over WebRTC and over WebSocket: each holds its scripted dialogue."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Route

from omni_rt.client.words import normalise
from omni_rt.engine.api import OUTPUT_RATE
from tests.browser.conftest import Open
from tests.browser.visit import write_wav
from tests.clients.speech import human, question, words
from tests.support.local import PHOTOS
from tests.support.server import RunningServer

pytestmark = [pytest.mark.models, pytest.mark.browser, pytest.mark.timeout(420)]

HERE = Path(__file__).parent / "agents_realtime"
PATH = "/agents_realtime/"
# Of the client secret's own settings, which the client leaves as they are.
MOST_TOKENS = 300


def serve_client(page: Page, origin: str) -> None:
    """Give the page the package's own bundle for browsers and the dialogue, as files of the server's origin."""
    package = Path(os.environ["OMNI_RT_CLIENTS"]) / "agents_realtime" / "node_modules" / "@openai" / "agents-realtime"

    def fulfill(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        file = HERE / name if name == "dialogue.js" else package / "dist" / "bundle" / name
        route.fulfill(path=file, content_type="text/javascript")

    page.route(f"{origin}{PATH}*", fulfill)


def client_secret(server: RunningServer) -> str:
    """What an application's own server asks for, for each browser: the client takes no other key in a browser."""
    body = json.dumps({"session": {"type": "realtime", "max_output_tokens": MOST_TOKENS}}).encode()
    with urllib.request.urlopen(f"{server.url}/v1/realtime/client_secrets", body) as answer:
        value: str = json.load(answer)["value"]
    return value


def wav(sound: bytes, file: Path) -> str:
    write_wav(file, np.frombuffer(sound, np.int16), OUTPUT_RATE)
    return base64.b64encode(file.read_bytes()).decode()


def sounds(answer: dict[str, Any]) -> list[str]:
    """The words that came out of the loudspeaker, or would have."""
    return words(base64.b64decode(answer["sound"]))


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
def test_agents_realtime(server: RunningServer, open_page: Open, tmp_path: Path, transport: str) -> None:
    page = open_page(f"{server.url}/healthz").page
    serve_client(page, server.url)
    picture = base64.b64encode((PHOTOS / "cat.jpg").read_bytes()).decode()
    job = {
        "transport": transport,
        "host": server.url.removeprefix("http://"),
        "key": client_secret(server),
        "questions": {"capital": wav(question("What is the capital of France?"), tmp_path / "capital.wav")},
        "human": wav(human("something"), tmp_path / "human.wav"),
        "picture": f"data:image/jpeg;base64,{picture}",
    }
    told = page.evaluate(f"async (job) => (await import('{PATH}dialogue.js')).dialogue(job)", job)
    (tmp_path / "told.json").write_text(json.dumps(told, indent=1))

    session = told["session"]
    assert session["instructions"] == "Answer briefly."
    assert session["max_output_tokens"] == MOST_TOKENS
    assert [tool["name"] for tool in session["tools"]] == ["get_weather"]
    assert session["audio"]["input"]["turn_detection"]["interrupt_response"] is True

    assert "Paris" in told["question"]["text"]
    assert "paris" in sounds(told["question"])
    assert told["tool"] == {"city": "Paris"}
    assert "snow" in told["told_of_tool"]["text"]
    assert "snow" in sounds(told["told_of_tool"])
    assert "cat" in told["picture"]["text"]
    assert "cat" in sounds(told["picture"])

    cut = told["interruption"]
    assert 0 < cut["heard_ms"] <= len(base64.b64decode(cut["sound"])) / 48 + 1
    assert f"assistant: {cut['heard']}" in told["history"]
    assert sounds(cut)[0] == normalise(cut["heard"])[0]
    assert transport == "websocket" or "december" not in sounds(cut), "the loudspeaker fell silent"
    assert told["after_interruption"]["text"]
    assert f"assistant: {told['stopped']['heard']}" in told["history"]

    assert [(error["code"], error["event_id"]) for error in told["errors"]] == [("item_not_found", "on_purpose")]
    assert "Rome" in told["text"]["text"]
    assert "user: What is the capital of France?" in told["history"]
    assert [line for line in told["history"] if line.startswith("user: ") and "somewhere" in line]
    assert all("input_image" in event for event in told["refused"]), "its schemas know no pictures, but all else"
    assert len(told["refused"]) == 2
