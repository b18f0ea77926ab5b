"""A pytest plugin: every server event of every test is checked against openai's own types and against the grammar of a
turn, in the test's process and in the servers it starts. A wrong event fails the test that caused it. What becomes of
these events in the DashScope dialect is checked against the types of that dialect. Which events passed over which
transport is noted, and compared with the table of docs/protocol.md when the run ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args
from weakref import WeakKeyDictionary

import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter, ValidationError

from omni_rt.realtime.dashscope.server_events import ServerEvents
from omni_rt.realtime.writer import EventWriter
from tests.support import dashscope_events
from tests.support.event_notes import NOTES, note_in_server, noting, read_notes
from tests.support.matrix import contradictions
from tests.support.turn_grammar import TurnGrammar

FAULTS = "OMNI_RT_TEST_FAULTS"
"""Environment variable: the file to which processes add what was wrong, a line each."""

ADDITIONS: dict[str, frozenset[str]] = {
    "session.created": frozenset({"session.id", "session.object"}),
    "session.updated": frozenset({"session.id", "session.object"}),
    "conversation.item.truncated": frozenset({"transcript"}),
}
"""What our events have beside the standard's fields. The session's `id` and `object` are sent by OpenAI too; its
package has no types for them. `transcript` is the text that was heard."""


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    kinds = get_args(get_args(RealtimeServerEvent)[0])
    return {get_args(kind.model_fields["type"].annotation)[0]: TypeAdapter(kind) for kind in kinds}


def kinds() -> set[str]:
    """The types of server events that there are."""
    return set(_adapters())


def faults(event: dict[str, Any]) -> list[str]:
    """What is wrong with a server event: wrong or missing fields, and fields that nobody has written down."""
    adapter = _adapters().get(str(event.get("type")))
    if adapter is None:
        return [f"there is no event of type {event.get('type')!r}"]
    try:
        parsed = adapter.validate_json(json.dumps(event), strict=True)
    except ValidationError as error:
        return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False)]
    known = ADDITIONS.get(event["type"], frozenset())
    return [f"{path}: not a field of the protocol" for path in _unknown(parsed, "") if path not in known]


def _unknown(value: Any, path: str) -> Iterator[str]:
    """Paths of fields that a parsed event has beside those of its types."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or ():
            yield f"{path}.{name}".lstrip(".")
        for name in value.model_fields_set & type(value).model_fields.keys():
            yield from _unknown(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for member in value:
            yield from _unknown(member, path)


def install(file: Path) -> None:
    """From now on each event that is made in this process is checked, and its place among those of its session; what is
    wrong is added to `file`."""
    make = EventWriter.event
    grammars: WeakKeyDictionary[EventWriter, TurnGrammar] = WeakKeyDictionary()

    def checked(self: EventWriter, kind: str, **fields: Any) -> dict[str, Any]:
        event = make(self, kind, **fields)
        wrong = faults(event) or grammars.setdefault(self, TurnGrammar()).step(event)
        for fault in wrong:
            _note(file, f"{kind}: {fault}; it was {json.dumps(event)[:2000]}")
        return event

    EventWriter.event = checked  # type: ignore[method-assign]
    _install_for_dialect(file)


def _install_for_dialect(file: Path) -> None:
    translate = ServerEvents.translate

    def checked(self: ServerEvents, event: dict[str, Any]) -> list[dict[str, Any]]:
        told = translate(self, event)
        for one in told:
            for fault in dashscope_events.faults(one):
                _note(file, f"{one['type']} of the dialect: {fault}; it was {json.dumps(one)[:2000]}")
        return told

    ServerEvents.translate = checked  # type: ignore[method-assign]


def install_in_server() -> None:
    """The same in a process that a test has started, where the test runs under this plugin."""
    if file := os.environ.get(FAULTS):
        install(Path(file))
    note_in_server()


def _note(file: Path, fault: str) -> None:
    with file.open("a", encoding="utf-8") as log:
        log.write(fault + "\n")


@pytest.fixture(scope="session", autouse=True)
def event_faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of what was wrong with events, filled by all processes of the test run."""
    folder = tmp_path_factory.mktemp("events")
    file, notes = folder / "faults", folder / "notes"
    file.touch()
    notes.touch()
    make, translate = EventWriter.event, ServerEvents.translate
    os.environ |= {FAULTS: str(file), NOTES: str(notes)}
    install(file)
    with noting(notes):
        yield file
    del os.environ[FAULTS], os.environ[NOTES]
    EventWriter.event = make  # type: ignore[method-assign]
    ServerEvents.translate = translate  # type: ignore[method-assign]
    against = contradictions(read_notes(notes))
    assert not against, "\n".join(against)


@pytest.fixture(autouse=True)
def only_valid_events(event_faults: Path) -> Iterator[None]:
    """Fails a test during which a server event was wrong."""
    before = event_faults.stat().st_size
    yield
    with event_faults.open(encoding="utf-8") as log:
        log.seek(before)
        found = log.read().splitlines()
    assert not found, "\n".join(found)
