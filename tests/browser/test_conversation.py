"""What the page makes of server events: the lines of both sides, and whose turn it is. No server needed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import Open

_APPLY = """async (events) => {
    const { Conversation } = await import("./js/conversation.js");
    const talk = new Conversation();
    const phases = events.map((event) => (talk.apply(event), talk.phase));
    return { lines: talk.entries.map(({ role, text, state }) => [role, text, state]), phases };
}"""

Apply = Any


@pytest.fixture
def apply(open_page: Open, page_files: str) -> Apply:
    """Gives the lines (role, text, state) and the phase after each event."""
    page = open_page(page_files).page
    return lambda *events: page.evaluate(_APPLY, list(events))


def started(item: str) -> dict[str, Any]:
    return {"type": "input_audio_buffer.speech_started", "item_id": item}


def stopped(item: str) -> dict[str, Any]:
    return {"type": "input_audio_buffer.speech_stopped", "item_id": item}


def committed(item: str) -> dict[str, Any]:
    return {"type": "input_audio_buffer.committed", "item_id": item}


def partial(item: str, delta: str) -> dict[str, Any]:
    return {"type": "conversation.item.input_audio_transcription.delta", "item_id": item, "delta": delta}


def understood(item: str, transcript: str) -> dict[str, Any]:
    return {"type": "conversation.item.input_audio_transcription.completed", "item_id": item, "transcript": transcript}


def added(item: str, role: str, after: str | None = None) -> dict[str, Any]:
    body = {"id": item, "type": "message", "role": role, "status": "in_progress", "content": []}
    return {"type": "conversation.item.added", "item": body, "previous_item_id": after}


def spoken(item: str, delta: str) -> dict[str, Any]:
    return {"type": "response.output_audio_transcript.delta", "item_id": item, "delta": delta}


def whole(item: str, transcript: str) -> dict[str, Any]:
    return {"type": "response.output_audio_transcript.done", "item_id": item, "transcript": transcript}


def truncated(item: str, transcript: str | None) -> dict[str, Any]:
    event = {"type": "conversation.item.truncated", "item_id": item, "audio_end_ms": 900}
    return event if transcript is None else {**event, "transcript": transcript}


def response(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": {"id": "r1", **fields}}


def buffer(what: str) -> dict[str, Any]:
    return {"type": f"output_audio_buffer.{what}", "response_id": "r1"}


def test_a_turn_and_its_answer(apply: Apply) -> None:
    seen = apply(
        *(started("u"), partial("u", "what is "), partial("u", "the time"), stopped("u"), committed("u")),
        *(added("u", "user"), understood("u", "What is the time?"), response("created"), added("a", "assistant", "u")),
        *(buffer("started"), spoken("a", "Just "), whole("a", "Just past nine."), response("done"), buffer("stopped")),
    )
    assert seen["lines"] == [["user", "What is the time?", "final"], ["assistant", "Just past nine.", "final"]]
    assert seen["phases"] == 3 * ["hearing"] + ["listening"] + 5 * ["thinking"] + 4 * ["speaking"] + ["listening"]


def test_words_are_partial_until_they_are_whole(apply: Apply) -> None:
    lines = apply(started("u"), partial("u", "what"), added("a", "assistant"), spoken("a", "It"))["lines"]
    assert lines == [["user", "what", "partial"], ["assistant", "It", "partial"]]


def test_an_interrupted_answer_keeps_what_was_heard_whatever_comes_late(apply: Apply) -> None:
    lines = apply(
        *(added("a", "assistant"), spoken("a", "One two three four"), truncated("a", "One two")),
        *(spoken("a", " five"), whole("a", "One two three four five"), response("done", output=[{"id": "a"}])),
    )["lines"]
    assert lines == [["assistant", "One two", "cut"]]


def test_a_cut_without_words_is_corrected_by_the_servers_memory(apply: Apply) -> None:
    item = {"id": "a", "type": "message", "content": [{"type": "output_audio", "transcript": "One"}]}
    remembered = {"type": "conversation.item.retrieved", "item": item}
    lines = apply(added("a", "assistant"), whole("a", "One two"), truncated("a", None), remembered)["lines"]
    assert lines == [["assistant", "One", "cut"]]


def test_an_answer_nobody_heard_leaves_no_line(apply: Apply) -> None:
    gone = {"type": "conversation.item.deleted", "item_id": "a"}
    assert apply(added("a", "assistant"), spoken("a", "One"), gone)["lines"] == []


def test_a_murmur_that_was_no_turn_leaves_no_line(apply: Apply) -> None:
    seen = apply(
        *(added("a", "assistant"), buffer("started"), spoken("a", "One"), started("m"), partial("m", "mm-hm")),
        *(stopped("m"), started("u"), partial("u", "wait")),
    )
    assert seen["lines"] == [["assistant", "One", "partial"], ["user", "wait", "partial"]]
    assert seen["phases"][-1] == "speaking"


def test_a_line_stands_where_the_server_puts_it(apply: Apply) -> None:
    lines = apply(
        *(added("one", "user"), understood("one", "First."), added("three", "assistant"), whole("three", "Third.")),
        *(added("two", "user", after="one"), understood("two", "Second.")),
    )["lines"]
    assert [text for _, text, _ in lines] == ["First.", "Second.", "Third."]


def test_a_refused_request_does_not_leave_it_thinking(apply: Apply) -> None:
    assert apply(committed("u"), {"type": "error", "error": {"message": "no"}})["phases"] == ["thinking", "listening"]
