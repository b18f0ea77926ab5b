"""The check of server events itself: it finds what is wrong, and it sees what a session and a server really send."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import WireSession
from omni_rt.realtime.writer import EventWriter
from tests.support.strict_events import FAULTS, faults


@pytest.fixture
def error() -> dict[str, Any]:
    sent: list[dict[str, Any]] = []
    EventWriter(sent.append).error(WireError("busy", "Later."))
    return sent[0]


def test_our_events_have_no_fault(error: dict[str, Any]) -> None:
    sent: list[dict[str, Any]] = []
    events = EventWriter(sent.append)
    events.session("session.created", WireSession(id="sess_1", model="local"))
    events.speech_started(300, "item_1")
    assert [faults(event) for event in (*sent, error)] == [[], [], []]


def test_wrong_events_are_found(error: dict[str, Any]) -> None:
    assert faults({"type": "response.cancelled"}) == ["there is no event of type 'response.cancelled'"]
    assert faults(error | {"colour": "red"}) == ["colour: not a field of the protocol"]
    assert faults(error | {"error": error["error"] | {"colour": "red"}}) == [
        "error.colour: not a field of the protocol"
    ]
    assert faults({"type": "input_audio_buffer.cleared"}) == ["event_id: Field required"]
    started = {"type": "input_audio_buffer.speech_started", "event_id": "e", "item_id": "i", "audio_start_ms": "12"}
    assert faults(started) == ["audio_start_ms: Input should be a valid integer"]


def test_an_event_made_in_a_test_is_seen(event_faults: Path) -> None:
    before = event_faults.read_text()
    EventWriter(lambda _: None).emit("response.cancelled")
    added = event_faults.read_text().removeprefix(before)
    event_faults.write_text(before)
    assert "there is no event of type 'response.cancelled'" in added


def test_an_event_made_in_a_process_of_its_own_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "faults"
    code = (
        "from tests.support.strict_events import install_in_server; install_in_server();"
        "from omni_rt.realtime.writer import EventWriter; EventWriter(print).emit('nonsense')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {FAULTS: str(file)})
    assert "there is no event of type 'nonsense'" in file.read_text()
