"""The table of events in docs/protocol.md, made of what passed in a run.

`python -m tests.support.matrix` says where the table differs from a run, with `--write` writes it.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent

from omni_rt.realtime import client_events
from tests.support.event_notes import TRANSPORTS, Note, Transport, noting, read_notes

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
BEGIN = "<!-- events: written by python -m tests.support.matrix --write -->"
END = "<!-- end of events -->"

_MCP = "remote MCP tools are refused"
_BETA = "of the beta; since then it is `conversation.item.added`"
_CLIENT_PLAYS = "the client plays"
NEVER: dict[str, str] = {
    "conversation.created": "of the beta; a session has one conversation",
    "conversation.item.created": _BETA,
    "conversation.item.input_audio_transcription.segment": "the engines do not tell speakers apart",
    "input_audio_buffer.dtmf_event_received": "no telephone calls",
    "rate_limits.updated": "no rates are limited, but sessions and sizes",
    "mcp_list_tools.in_progress": _MCP,
    "mcp_list_tools.completed": _MCP,
    "mcp_list_tools.failed": _MCP,
    "response.mcp_call.in_progress": _MCP,
    "response.mcp_call.completed": _MCP,
    "response.mcp_call.failed": _MCP,
    "response.mcp_call_arguments.delta": _MCP,
    "response.mcp_call_arguments.done": _MCP,
}
"""Server events that are not sent over any transport, and why."""

NEVER_OVER: dict[tuple[str, Transport], str] = {
    ("response.output_audio.delta", "WebRTC"): "audio is on the track",
    ("output_audio_buffer.started", "WebSocket"): _CLIENT_PLAYS,
    ("output_audio_buffer.stopped", "WebSocket"): _CLIENT_PLAYS,
    ("output_audio_buffer.cleared", "WebSocket"): _CLIENT_PLAYS,
}
"""Those that are not sent over one of them."""


class MatrixError(Exception):
    """What passed is not what must pass."""


def _kinds(union: Any) -> list[str]:
    return sorted(get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(union)[0]))


def client_kinds() -> list[str]:
    """OpenAI's, then our own."""
    theirs = _kinds(RealtimeClientEvent)
    return [*theirs, *sorted(client_events._EVENTS.keys() - set(theirs))]


def server_kinds() -> list[str]:
    return _kinds(RealtimeServerEvent)


def table(notes: Iterable[Note]) -> str:
    """The lines of the table. Raises MatrixError for an event that did not pass and nobody says why, for one that did
    although it never should, and for one that openai's package does not know."""
    notes, faults = set(notes), list[str]()
    rows = {(side, kind): ["", ""] for side, kinds in _SIDES.items() for kind in kinds}
    for note in notes:
        if (note.side, note.kind) not in rows:
            faults.append(f"{note.kind} is no event of the protocol's {note.side}")
    for (side, kind), row in rows.items():
        for place, transport in enumerate(TRANSPORTS):
            row[place], fault = _cell(side, kind, transport, notes)
            faults += [f"{kind} over {transport}: {fault}"] if fault else []
    if faults:
        raise MatrixError("\n".join(sorted(faults)))
    lines = []
    for side, kinds in _SIDES.items():
        head = f"| {side} event | {' | '.join(TRANSPORTS)} |\n|---|---|---|"
        lines += [head, *(f"| `{kind}` | {' | '.join(rows[side, kind])} |" for kind in kinds), ""]
    return "\n".join(lines).strip()


_SIDES = {"client": client_kinds(), "server": server_kinds()}


def _cell(side: str, kind: str, transport: Transport, notes: set[Note]) -> tuple[str, str]:
    """What stands in a cell, and what is wrong with it."""
    found = [note for note in notes if (note.side, note.kind, note.transport) == (side, kind, transport)]
    passed, refused = any(not note.refused for note in found), sorted(note.refused for note in found if note.refused)
    if side == "client":
        if passed == bool(refused):
            return "", "it was taken and refused" if passed else "no client sent it"
        return ("tested" if passed else f"refused: {refused[0]}"), ""
    why = NEVER.get(kind) or NEVER_OVER.get((kind, transport))
    if passed == bool(why):
        return "", f"it was sent, although {why}" if passed else "it was not sent"
    return ("tested" if passed else f"never: {why}"), ""


def cells() -> dict[tuple[str, Transport], str]:
    """What the page says of each event over each transport."""
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in written().splitlines()]
    return {
        (row[0], transport): cell
        for row in rows
        if (len(row) == 3 and "." in row[0]) or row[:1] == ["error"]
        for transport, cell in zip(TRANSPORTS, row[1:], strict=True)
    }


def contradictions(notes: Iterable[Note]) -> list[str]:
    """What passed in any tests although the page says that it does not. Another dialect's events are not its matter."""
    said = cells()
    wrong = [
        note
        for note in notes
        if not note.refused and note.kind in _SIDES[note.side] and said.get((note.kind, note.transport)) != "tested"
    ]
    return [f"docs/protocol.md: {note.kind} over {note.transport} is not 'tested', but it passed" for note in wrong]


def written() -> str:
    """The table that stands in the page."""
    page = PAGE.read_text(encoding="utf-8")
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip()


def run() -> str:
    """Let every event pass; the table of what did."""
    from tests.support.every_event import every_event  # a server, which those who only compare do not need

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "notes"
        file.touch()
        with noting(file):
            asyncio.run(every_event())
        return table(read_notes(file))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="The table of events in docs/protocol.md.")
    parser.add_argument("--write", action="store_true", help="write it")
    wanted, found = parser.parse_args(arguments), run()
    if wanted.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text(f"{before}\n{found}\n{after}", encoding="utf-8")
        return 0
    difference = list(
        difflib.unified_diff(written().splitlines(), found.splitlines(), "the page", "a run", lineterm="")
    )
    print("\n".join(difference) or "the page says what a run gives")
    return bool(difference)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
