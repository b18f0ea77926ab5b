"""The table of events in docs/protocol.md is what a run gives, and cannot be otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.event_notes import Note, noting, read_notes
from tests.support.every_event import every_event


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("matrix") / "notes"
    file.touch()
    return file


async def test_the_table_is_what_a_run_gives(notes: Path) -> None:
    with noting(notes):
        await every_event()
    assert matrix.written() == matrix.table(read_notes(notes)), "python -m tests.support.matrix --write"


def everything() -> set[Note]:
    """What the page says passes, as notes."""
    found = set[Note]()
    for (kind, transport), cell in matrix.cells().items():
        side = "client" if kind in matrix.client_kinds() else "server"
        if cell == "tested":
            found.add(Note(side, transport, kind))
        elif cell.startswith("refused: "):
            found.add(Note(side, transport, kind, cell.removeprefix("refused: ")))
    return found


def test_the_table_has_every_event() -> None:
    assert len(matrix.client_kinds()) == 12
    assert len(matrix.server_kinds()) == 46
    assert matrix.table(everything()) == matrix.written()


GONE = Note("server", "WebRTC", "conversation.item.truncated")
UNSENT = Note("client", "WebSocket", "response.cancel")
NEVER = Note("server", "WebRTC", "response.output_audio.delta")
OWN = Note("server", "WebSocket", "omni.moments")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (everything() - {GONE}, "conversation.item.truncated over WebRTC: it was not sent"),
        (everything() - {UNSENT}, "response.cancel over WebSocket: no client sent it"),
        (
            everything() | {NEVER},
            "response.output_audio.delta over WebRTC: it was sent, although audio is on the track",
        ),
        (
            everything() | {replace(UNSENT, refused="why not")},
            "response.cancel over WebSocket: it was taken and refused",
        ),
        (everything() | {OWN}, "omni.moments is no event of the protocol's server"),
    ],
)
def test_what_does_not_pass_is_no_table(wrong: set[Note], message: str) -> None:
    with pytest.raises(matrix.MatrixError, match=message):
        matrix.table(wrong)


def test_a_table_by_hand_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "protocol.md"
    row = "| `response.output_audio.delta` | never: audio is on the track | tested |"
    text = matrix.PAGE.read_text(encoding="utf-8")
    assert row in text
    page.write_text(text.replace(row, row.replace("never: audio is on the track", "tested")), encoding="utf-8")
    monkeypatch.setattr(matrix, "PAGE", page)
    assert matrix.written() != matrix.table(everything() - {NEVER})
    page.write_text(text.replace("| `response.cancel` | tested | tested |", ""), encoding="utf-8")
    assert matrix.contradictions({UNSENT}) == [
        "docs/protocol.md: response.cancel over WebSocket is not 'tested', but it passed"
    ]


def test_what_passes_in_any_test_is_in_the_table() -> None:
    assert matrix.contradictions(everything()) == []
    (against,) = matrix.contradictions({NEVER, GONE})
    assert "response.output_audio.delta over WebRTC" in against
