"""`turn_detection`, field by field: what the client is told, when on the session's own clock, and what comes of it.

The clock is the audio: windows of 32 ms, fed in blocks of 20 ms, so what is due at a place is told within 52 ms of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from omni_rt.core.conversation import Speech
from omni_rt.session.moments import monotonic_ms
from tests.support.stage import Stage, open_stage

LATE_MS = 52
ONSET_MS = 96


async def _detect(stage: Stage, **settings: Any) -> dict[str, Any]:
    """Set `turn_detection`; gives it as the server has it."""
    await stage.tell(type="session.update", session={"audio": {"input": {"turn_detection": settings}}})
    assert "error" not in stage.transport.kinds()
    detection: dict[str, Any] = stage.last("session.updated")["session"]["audio"]["input"]["turn_detection"]
    return detection


async def _server_vad(stage: Stage, **settings: Any) -> None:
    echoed = await _detect(stage, type="server_vad", **settings)
    assert {name: echoed[name] for name in settings} == settings


def _since(stage: Stage, kind: str) -> list[str]:
    """The events from the last of this type on."""
    kinds = stage.transport.kinds()
    return kinds[len(kinds) - 1 - kinds[::-1].index(kind) :]


def _user_ms(stage: Stage) -> list[int]:
    """How much audio each of the user's items has."""
    return [
        part.audio_ms
        for item in stage.session.conversation
        if item.role == "user"
        for part in item.parts
        if isinstance(part, Speech)
    ]


async def _heard(stage: Stage) -> None:
    """Play the reply to its end."""
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")


@pytest.mark.parametrize("padding_ms", [0, 300, 1000])
async def test_prefix_padding(stage: Stage, padding_ms: int) -> None:
    await _server_vad(stage, prefix_padding_ms=padding_ms)
    await stage.listen(2000, False)
    await stage.listen(1000, True)
    started = stage.last("input_audio_buffer.speech_started")["audio_start_ms"]
    assert 2000 - LATE_MS <= started + padding_ms <= 2000 + LATE_MS
    await stage.listen(600, False)
    stopped = stage.last("input_audio_buffer.speech_stopped")["audio_end_ms"]
    (length,) = _user_ms(stage)
    assert stopped - started <= length <= stopped - started + LATE_MS


async def test_padding_is_not_what_an_earlier_turn_had(stage: Stage) -> None:
    await _server_vad(stage, prefix_padding_ms=1000, silence_duration_ms=200, create_response=False)
    await stage.listen(1280, True)
    await stage.listen(320, False)
    await stage.listen(500, True)
    assert stage.transport.kinds().count("input_audio_buffer.speech_started") == 2
    assert stage.last("input_audio_buffer.speech_started")["audio_start_ms"] == 1280


@pytest.mark.parametrize("silence_ms", [0, 200, 500, 1200])
async def test_silence_duration(stage: Stage, silence_ms: int) -> None:
    """Whatever the end-of-turn score says. The audio that the model is given has the silence."""
    await _server_vad(stage, silence_duration_ms=silence_ms)
    stage.ears[0].score = 1.0
    await stage.listen(1280, True)
    await stage.listen(silence_ms, False)
    assert "input_audio_buffer.speech_stopped" not in stage.transport.kinds()
    await stage.listen(60, False)
    stopped = stage.last("input_audio_buffer.speech_stopped")["audio_end_ms"]
    assert 1280 + silence_ms <= stopped <= 1280 + silence_ms + LATE_MS
    assert _since(stage, "input_audio_buffer.speech_stopped")[1:4] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]


async def test_a_pause_shorter_than_the_silence_is_none(stage: Stage) -> None:
    await _server_vad(stage, silence_duration_ms=800)
    for _ in range(3):
        await stage.listen(400, True)
        await stage.listen(700, False)
    assert "input_audio_buffer.speech_stopped" not in stage.transport.kinds()
    assert stage.transport.kinds().count("input_audio_buffer.speech_started") == 1


@pytest.mark.parametrize(("speech", "threshold", "found"), [(0.6, 0.5, True), (0.6, 0.7, False), (0.9, 0.8, True)])
async def test_threshold(stage: Stage, speech: float, threshold: float, found: bool) -> None:
    await _server_vad(stage, threshold=threshold)
    stage.ears[0].speech = speech
    await stage.listen(1000, True)
    assert ("input_audio_buffer.speech_started" in stage.transport.kinds()) == found
    await stage.listen(600, False)
    assert ("input_audio_buffer.committed" in stage.transport.kinds()) == found


@pytest.mark.parametrize("threshold", [0.0, 1.0])
async def test_the_ends_of_threshold(stage: Stage, threshold: float) -> None:
    """At 0 all is speech, and yet a turn ends where certainly nobody speaks; at 1 only what is certain counts."""
    await _server_vad(stage, threshold=threshold)
    stage.ears[0].speech = 0.2 if threshold == 0.0 else 1.0
    await stage.listen(1000, True)
    assert stage.transport.kinds().count("input_audio_buffer.speech_started") == 1
    stage.ears[0].speech = 0.0
    await stage.listen(600, True)
    assert "input_audio_buffer.committed" in stage.transport.kinds()


@pytest.mark.parametrize("kind", ["server_vad", "semantic_vad"])
async def test_create_response_false(stage: Stage, kind: str) -> None:
    """Turns are found and committed; the client asks for the reply."""
    await _detect(stage, type=kind, create_response=False)
    for _ in range(2):
        await stage.listen(1000, True)
        await stage.listen(1000, False)
        await stage.settle()
    assert len(_user_ms(stage)) == 2
    assert stage.transport.kinds().count("input_audio_buffer.speech_stopped") == 2
    assert "response.created" not in stage.transport.kinds()
    assert "respond" not in stage.model.names()
    await stage.tell(type="response.create")
    await _heard(stage)
    assert stage.last("response.done")["response"]["status"] == "completed"


async def test_a_reply_tells_the_moments_of_the_latest_turn(stage: Stage) -> None:
    await _detect(stage, type="semantic_vad", create_response=False)
    for _ in range(2):
        before = monotonic_ms()
        await stage.listen(1000, True)
        await stage.listen(1000, False)
        await stage.settle()
    await stage.tell(type="response.create")
    await _heard(stage)
    assert stage.transport.notes[-1]["moments"]["turn_end_decided"] > before


@pytest.mark.parametrize("kind", ["server_vad", "semantic_vad"])
async def test_interrupt_response_false(stage: Stage, kind: str) -> None:
    """The reply goes on at its loudness; who spoke over it is answered after it."""
    await _detect(stage, type=kind, interrupt_response=False)
    await stage.listen(1000, True)
    await stage.listen(1000, False)
    await stage.until("response.done")
    stage.transport.play(1)
    await stage.listen(ONSET_MS + LATE_MS, True)
    assert stage.transport.kinds().count("input_audio_buffer.speech_started") == 2
    await stage.listen(1000, True)
    await stage.listen(1000, False)
    assert stage.transport.kinds().count("input_audio_buffer.committed") == 2
    assert stage.transport.kinds().count("response.created") == 1
    assert stage.transport.gains == []
    await _heard(stage)
    await stage.settle()
    assert "output_audio_buffer.cleared" not in stage.transport.kinds()
    assert stage.transport.kinds().count("response.created") == 2
    done = [e["response"]["status"] for e in stage.transport.events if e["type"] == "response.done"]
    assert done == ["completed", "completed"]


async def test_neither_created_nor_interrupted_is_but_told(stage: Stage) -> None:
    """Nor does silence make the model speak."""
    await _server_vad(stage, create_response=False, interrupt_response=False, idle_timeout_ms=5000)
    await stage.tell(type="response.create")
    stage.transport.play(1)
    await stage.listen(1000, True)
    await stage.listen(600, False)
    await _heard(stage)
    await stage.listen(6000, False)
    kinds = stage.transport.kinds()
    assert kinds.count("input_audio_buffer.speech_stopped") == kinds.count("response.created") == 1
    assert "output_audio_buffer.cleared" not in kinds


async def _wait_ms(score: float, eagerness: str, **turn: Any) -> int:
    """How long after the speech a turn is over that has this end-of-turn score."""
    stage = await open_stage(**turn)
    await _detect(stage, type="semantic_vad", eagerness=eagerness)
    stage.ears[0].score = score
    await stage.listen(1024, True)
    while "input_audio_buffer.committed" not in stage.transport.kinds():
        await stage.listen(20, False)
    stopped: int = stage.last("input_audio_buffer.speech_stopped")["audio_end_ms"]
    await stage.session.close("test over")
    return stopped - 1024


@pytest.mark.parametrize(("transcribes", "at_once"), [(True, False), (False, True)])
async def test_words_that_nobody_writes_down_are_no_reason_to_wait(transcribes: bool, at_once: bool) -> None:
    """An empty transcript of an engine that writes some is of a turn that has hardly begun."""
    stage = await open_stage(speculate_ms=64)
    stage.session.capabilities = replace(stage.session.capabilities, judges_endings=False, transcribes=transcribes)
    stage.model.understood = ""
    stage.ears[0].score = 0.99
    await stage.listen(1024, True)
    await stage.listen(300, False)
    assert ("input_audio_buffer.committed" in stage.transport.kinds()) is at_once
    await stage.session.close("test over")


async def test_eagerness() -> None:
    """The surer the score that the user has finished, and the eagerer, the shorter the wait; sure is sure for all."""
    waits = {eager: [await _wait_ms(score, eager) for score in (0.0, 0.2, 0.34, 0.95)] for eager in ("low", "medium")}
    waits["high"] = [await _wait_ms(score, "high") for score in (0.0, 0.2, 0.34, 0.95)]
    for unsure in range(3):
        assert waits["low"][unsure] > waits["medium"][unsure] + 2 * LATE_MS
        assert waits["medium"][unsure] > waits["high"][unsure] + 2 * LATE_MS
    for eager in waits.values():
        assert sorted(eager, reverse=True) == eager
        assert eager[3] <= 160 + LATE_MS
    assert waits["high"][1] <= waits["low"][2] / 3
    assert [await _wait_ms(score, "auto") for score in (0.0, 0.34)] == [waits["medium"][0], waits["medium"][2]]


@pytest.mark.parametrize(("eagerness", "most_ms"), [("low", 8000), ("medium", 4000), ("auto", 4000), ("high", 2000)])
async def test_no_eagerness_waits_longer_than_openais(eagerness: str, most_ms: int) -> None:
    """However patient the server is set."""
    wait = await _wait_ms(0.0, eagerness, silence_limit_ms=10_000)
    assert most_ms - LATE_MS <= wait <= most_ms + LATE_MS


TIMED_OUT = [
    "input_audio_buffer.timeout_triggered",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "conversation.item.input_audio_transcription.completed",
    "response.output_item.added",
]


async def test_idle_timeout(stage: Stage) -> None:
    """The silence since the reply was heard is committed, and the model speaks."""
    await _server_vad(stage, idle_timeout_ms=6000)
    await stage.tell(type="session.update", session={"instructions": "Be kind."})
    await stage.listen(8000, False)
    assert "input_audio_buffer.timeout_triggered" not in stage.transport.kinds()
    await stage.listen(1000, True)
    await stage.listen(600, False)
    await _heard(stage)
    heard_ms = stage.session.now_ms
    stage.model.understood = ""
    stage.model.calls.clear()
    await stage.listen(6000 - 2 * LATE_MS, False)
    assert "input_audio_buffer.timeout_triggered" not in stage.transport.kinds()
    await stage.listen(4 * LATE_MS, False)
    await stage.settle()
    timeout = stage.last("input_audio_buffer.timeout_triggered")
    assert heard_ms <= timeout["audio_start_ms"] <= heard_ms + LATE_MS
    assert 6000 <= timeout["audio_end_ms"] - timeout["audio_start_ms"] <= 6000 + LATE_MS
    assert _since(stage, "input_audio_buffer.timeout_triggered")[: len(TIMED_OUT)] == TIMED_OUT
    assert stage.last("input_audio_buffer.committed")["item_id"] == timeout["item_id"]
    assert _user_ms(stage)[-1] == timeout["audio_end_ms"] - timeout["audio_start_ms"]
    assert "input_audio_buffer.speech_started" not in _since(stage, "input_audio_buffer.timeout_triggered")
    fed, commit, respond = stage.model.calls
    assert fed == ("append_audio", _user_ms(stage)[-1] * 16)
    assert commit == ("commit", timeout["item_id"])
    assert respond[1].instructions.startswith("Be kind.\n\nThe user has said nothing")
    assert stage.texts()[-2:] == [("user", ""), ("assistant", "one two three ")]


async def test_after_a_timeout_all_is_as_ever(stage: Stage) -> None:
    await _server_vad(stage, idle_timeout_ms=5000)
    await stage.listen(1000, True)
    await stage.listen(600, False)
    await _heard(stage)
    for _ in range(2):
        stage.transport.events.clear()
        await stage.listen(5200, False)
        assert stage.transport.kinds().count("input_audio_buffer.timeout_triggered") == 1
        await _heard(stage)
    await stage.listen(1000, True)
    await stage.listen(600, False)
    await stage.settle()
    assert stage.model.calls[-1][1].instructions is None
    assert stage.last("response.done")["response"]["status"] == "completed"


async def test_over_websocket_a_timeout_counts_from_the_end_of_the_clients_playing(socket_stage: Stage) -> None:
    stage = socket_stage
    await _server_vad(stage, idle_timeout_ms=5000)
    await stage.listen(1000, True)
    await stage.listen(600, False)
    assert stage.session.duplex.reply_active
    await stage.listen(6000, False)
    assert "input_audio_buffer.timeout_triggered" not in stage.transport.kinds()
    stage.transport.play()
    while stage.session.duplex.reply_active:
        await stage.listen(20, False)
    await stage.listen(5200, False)
    assert "input_audio_buffer.timeout_triggered" in stage.transport.kinds()


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"type": "semantic_vad", "idle_timeout_ms": 5000}, "idle_timeout_ms"),
        ({"type": "semantic_vad", "threshold": 0.5}, "threshold"),
        ({"type": "semantic_vad", "eagerness": "very"}, "eagerness"),
        ({"type": "server_vad", "eagerness": "low"}, "eagerness"),
        ({"type": "server_vad", "idle_timeout_ms": 4999}, "idle_timeout_ms"),
        ({"type": "server_vad", "threshold": 1.1}, "threshold"),
        ({"type": "server_vad", "silence_duration_ms": -1}, "silence_duration_ms"),
        ({"type": "server_vad", "create_response": "perhaps"}, "create_response"),
        ({"type": "energy"}, ""),
    ],
)
async def test_refused_by_name(stage: Stage, settings: dict[str, Any], param: str) -> None:
    await stage.tell(type="session.update", session={"audio": {"input": {"turn_detection": settings}}})
    error = stage.last("error")["error"]
    assert error["param"] == ".".join(part for part in ("session.audio.input.turn_detection", param) if part)
