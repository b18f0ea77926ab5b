"""The session: what it tells client and engine, turn by turn."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from omni_rt.engine.api import CallDelta, EngineLost, Transcript
from omni_rt.session.moments import Moments
from tests.support.stage import Stage, open_stage

TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "conversation.item.input_audio_transcription.completed",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio_transcript.delta",
    "response.output_audio_transcript.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
    "output_audio_buffer.started",
    "output_audio_buffer.stopped",
]


async def test_one_turn_in_the_protocols_order(stage: Stage) -> None:
    await stage.turn()
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    assert stage.transport.kinds() == ["session.created", *TURN]
    assert stage.texts() == [("user", "hello there"), ("assistant", "one two three ")]
    assert stage.model.names() == ["commit", "respond"]


async def test_what_the_engine_is_fed_is_the_utterance_with_its_pre_roll(stage: Stage) -> None:
    stage.hear(2000, False)
    await stage.turn()
    fed = sum(call[1] for call in stage.model.calls if call[0] == "append_audio") / 16
    started = stage.last("input_audio_buffer.speech_started")["audio_start_ms"]
    assert 1600 < started <= 2000 - 280
    assert fed == pytest.approx(stage.session.now_ms - started, abs=140)


async def test_interruption_keeps_what_was_heard(stage: Stage) -> None:
    await stage.turn()
    stage.transport.play(2)
    stage.hear(500, True)
    await stage.settle()
    truncated = await stage.until("conversation.item.truncated")
    assert truncated["transcript"] in ("one", "one two")
    assert stage.texts()[1] == ("assistant", truncated["transcript"])
    kinds = stage.transport.kinds()
    assert kinds.index("output_audio_buffer.cleared") < kinds.index("conversation.item.truncated")
    assert not stage.transport.queue
    assert 0 < stage.transport.gains[0] < 1
    assert stage.transport.gains[-1] == 1


@pytest.mark.parametrize(("late_report_ms", "silenced_ms", "words"), [(0, 400, "one two"), (600, 200, "one")])
async def test_what_was_heard_is_what_sounded_until_the_client_fell_silent(
    stage: Stage, late_report_ms: float, silenced_ms: float, words: str
) -> None:
    """The last report tells of nothing heard, or of all; the loudspeaker's own word counts."""
    await stage.turn()
    stage.transport.play(3)
    stage.session.on_heard(late_report_ms)
    stage.hear(500, True)
    await stage.settle()
    assert "conversation.item.truncated" not in stage.transport.kinds()
    stage.session.on_silenced(silenced_ms)
    truncated = await stage.until("conversation.item.truncated")
    assert (truncated["transcript"], truncated["audio_end_ms"]) == (words, silenced_ms)
    assert stage.texts()[1] == ("assistant", words)
    asked = [call for call in stage.model.calls if call[0] == "keep_heard"]
    assert asked[-1] == ("keep_heard", 1, silenced_ms)
    stage.session.on_silenced(600)
    await stage.settle()
    assert stage.texts()[1] == ("assistant", words)


async def test_a_silence_before_the_reply_tells_nothing_of_it(stage: Stage) -> None:
    stage.transport.stream_ms = 1000
    await stage.turn()
    stage.transport.play(2)
    stage.hear(500, True)
    await stage.settle()
    stage.session.on_silenced(999)
    truncated = await stage.until("conversation.item.truncated")
    assert truncated["transcript"] == "one two"


async def test_interruption_before_the_first_sound_leaves_no_reply(stage: Stage) -> None:
    await stage.turn()
    stage.hear(500, True)
    await stage.until("conversation.item.deleted")
    assert stage.texts()[:2] == [("user", "hello there")]


async def test_a_reply_that_is_gone_as_nobody_heard_it_can_be_truncated(stage: Stage) -> None:
    await stage.turn()
    stage.hear(500, True)
    gone = await stage.until("conversation.item.deleted")
    await stage.tell(type="conversation.item.truncate", item_id=gone["item_id"], content_index=0, audio_end_ms=40)
    assert "error" not in stage.transport.kinds()
    assert "conversation.item.truncated" not in stage.transport.kinds()


async def test_backchannel_only_ducks(stage: Stage) -> None:
    await stage.turn()
    stage.transport.play(1)
    stage.model.overheard = ["Mm-hm."]
    stage.hear(160, True)
    stage.hear(160, False)
    assert stage.transport.held
    stage.hear(640, False)
    await stage.settle()
    assert not stage.transport.held
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    assert stage.transport.gains == [pytest.approx(0.2), pytest.approx(0.2), 1.0]
    assert stage.texts()[1] == ("assistant", "one two three ")
    assert len([k for k in stage.transport.kinds() if k.endswith("speech_started")]) == 1


async def test_what_is_said_over_a_reply_is_listened_to_from_before_its_onset(stage: Stage) -> None:
    await stage.turn()
    stage.transport.play(1)
    stage.hear(640, False)
    stage.hear(416, True)
    await stage.settle()
    assert next(call for call in stage.model.calls if call[0] == "overhear") == ("overhear", (240 + 384) * 16)


@pytest.mark.parametrize(
    ("said", "sent", "goes_on"), [("Two three.", 1, True), ("Two more.", 1, False), ("Two three.", 26, False)]
)
async def test_the_first_words_of_a_call_do_not_interrupt_themselves(
    said: str, sent: int, goes_on: bool, stage: Stage
) -> None:
    """Until five seconds were sent, an echo may be heard that nothing is known of yet."""
    stage.model.words = ["one", "two", "three", *["four"] * 24]
    await stage.turn()
    stage.transport.play(sent)
    stage.model.overheard = [said]
    stage.hear(160, True)
    stage.hear(800, False)
    await stage.settle()
    assert ("output_audio_buffer.cleared" not in stage.transport.kinds()) is goes_on


async def test_who_says_stop_is_obeyed_though_the_assistant_has_just_said_it(stage: Stage) -> None:
    stage.model.words = ["please", "stop", "there"]
    await stage.turn()
    stage.transport.play(2)
    stage.model.overheard = ["Stop."]
    stage.hear(400, True)
    await stage.settle()
    assert "output_audio_buffer.cleared" in stage.transport.kinds()


async def test_what_is_told_early_only_ducks(stage: Stage) -> None:
    await stage.turn()
    stage.transport.play(1)
    stage.ears[0].tell_early(0.9)
    assert stage.transport.gains == [pytest.approx(0.2)]
    assert not stage.transport.held
    stage.hear(32, False)
    assert stage.transport.gains == [pytest.approx(0.2), 1.0]


async def test_speculation_is_heard_only_after_the_decision() -> None:
    stage = await open_stage(speculate_ms=96, complete_score=0.95)
    stage.ears[0].score = 0.1
    stage.hear(1000, True)
    stage.hear(400, False)
    await stage.settle()
    assert "response.created" not in stage.transport.kinds()
    assert stage.model.names() == ["mark", "commit", "respond"]
    stage.hear(500, True)
    await stage.settle()
    assert stage.model.names() == ["mark", "commit", "respond", "cancel", "rollback"]
    stage.ears[0].score, stage.model.ending = 0.99, 0.9
    stage.hear(600, False)
    await stage.until("response.done")
    assert stage.model.names()[5:] == ["mark", "commit", "respond"]
    assert stage.texts() == [("user", "hello there"), ("assistant", "one two three ")]
    assert stage.transport.kinds().count("conversation.item.input_audio_transcription.completed") == 1
    await stage.session.close("test over")


async def test_a_reply_that_is_given_up_before_it_was_asked_for_is_not_asked_for() -> None:
    """Hearing that was behind reports the pause and what follows it at once."""
    stage = await open_stage(speculate_ms=96, complete_score=0.95)
    stage.ears[0].score = 0.1
    stage.hear(1000, True)
    stage.hear(200, False)
    stage.hear(500, True)
    await stage.settle()
    assert stage.model.names() == ["mark", "commit", "cancel", "rollback"]
    await stage.session.close("test over")


@pytest.mark.parametrize(("ending", "after_ms"), [(0.6, 96), (0.02, 1024), (0.00001, 1000), (None, 500)])
async def test_words_that_may_go_on_keep_the_turn_open(ending: float | None, after_ms: int) -> None:
    """However complete they sound; words that are not judged in time do not."""
    stage = await open_stage(speculate_ms=96)
    stage.ears[0].score, stage.model.ending = 0.9, ending
    stage.model.understood = "would you tell me more"
    stage.hear(1000, True)
    await stage.listen(after_ms - 32, False)
    assert "input_audio_buffer.committed" not in stage.transport.kinds()
    await stage.listen(540, False)
    assert "input_audio_buffer.committed" in stage.transport.kinds()
    await stage.until("response.done")
    (asked,) = (call[1] for call in stage.model.calls if call[0] == "respond")
    assert asked.judge_ending
    await stage.session.close("test over")


async def test_what_is_no_guess_is_not_judged(stage: Stage) -> None:
    await stage.turn()
    (asked,) = (call[1] for call in stage.model.calls if call[0] == "respond")
    assert not asked.judge_ending


async def test_tool_call_and_its_result(stage: Stage) -> None:
    stage.model.words = []
    stage.model.tool = CallDelta(0, "call_1", "lamp", '{"on":true}')
    await stage.turn()
    done = await stage.until("response.done")
    assert done["response"]["output"][0]["name"] == "lamp"
    await stage.until("response.function_call_arguments.done")
    await stage.tell(
        type="conversation.item.create", item={"type": "function_call_output", "call_id": "call_1", "output": "ok"}
    )
    assert ("append_tool_result", "call_1", "ok") in stage.model.calls


async def test_text_turn_while_silent(stage: Stage) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    await stage.tell(type="conversation.item.create", item=item)
    await stage.tell(type="response.create", response={"output_modalities": ["text"]})
    await stage.until("response.done")
    assert stage.last("response.output_text.done")["text"] == "one two three "
    assert ("append_text", "hi", "user") in stage.model.calls


async def test_second_response_is_refused_while_one_is_made(stage: Stage) -> None:
    stage.model.go.clear()
    await stage.tell(type="response.create")
    await stage.tell(type="response.create", event_id="mine")
    error = stage.last("error")["error"]
    assert error["code"] == "conversation_already_has_active_response"
    assert error["event_id"] == "mine"
    await stage.tell(type="response.cancel")
    assert stage.last("response.done")["response"]["status"] == "cancelled"
    await stage.tell(type="response.cancel")
    error = stage.last("error")["error"]
    assert error["code"] == "response_cancel_not_active"
    assert error["message"].startswith("Cancellation failed"), "else livekit takes it for a failure"


async def test_an_item_whose_id_is_taken_is_refused_as_openai_does(stage: Stage) -> None:
    item = {"id": "item_mine", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    await stage.tell(type="conversation.item.create", item=item)
    await stage.tell(type="conversation.item.create", item=item, event_id="again")
    error = stage.last("error")["error"]
    assert (error["code"], error["param"], error["event_id"]) == ("item_create_duplicate_item_id", "item.id", "again")


async def test_engine_lost_while_speaking_and_back(stage: Stage) -> None:
    await stage.turn()
    stage.model.go.clear()
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    await stage.tell(type="response.create")
    stage.session.on_lost(EngineLost("the worker died"))
    await stage.settle()
    assert stage.last("response.done")["response"]["status"] == "failed"
    assert len(stage.engine.sessions) == 2
    assert stage.model.names() == ["restore"]
    await stage.tell(type="response.create")
    assert stage.last("response.done")["response"]["status"] == "completed"


async def test_engine_failure_ends_the_reply_and_nothing_else(stage: Stage) -> None:
    stage.model.fail = "out of memory"
    await stage.turn()
    await stage.until("response.done")
    assert stage.last("error")["error"]["message"] == "out of memory"
    stage.model.fail = ""
    await stage.settle()
    await stage.turn()
    assert stage.last("response.done")["response"]["status"] == "completed"


async def test_push_to_talk(stage: Stage) -> None:
    await stage.tell(type="session.update", session={"audio": {"input": {"turn_detection": None}}})
    assert stage.last("session.updated")["session"]["audio"]["input"]["turn_detection"] is None
    await stage.tell(type="input_audio_buffer.commit")
    assert stage.last("error")["error"]["code"] == "input_audio_buffer_commit_empty"
    stage.hear(1000, True)
    stage.hear(3000, False)
    assert "input_audio_buffer.speech_started" not in stage.transport.kinds()
    await stage.tell(type="input_audio_buffer.commit")
    await stage.tell(type="response.create")
    await stage.until("response.done")
    assert stage.texts()[0] == ("user", "hello there")
    stage.hear(1000, True)
    await stage.tell(type="input_audio_buffer.clear")
    assert "discard" in stage.model.names()


async def test_speech_that_was_told_of_stops_also_when_the_client_commits_it(stage: Stage) -> None:
    stage.hear(600, True)
    await stage.until("input_audio_buffer.speech_started")
    await stage.tell(type="session.update", session={"audio": {"input": {"turn_detection": None}}})
    await stage.tell(type="input_audio_buffer.commit")
    stopped = await stage.until("input_audio_buffer.speech_stopped")
    assert stopped["item_id"] == stage.last("input_audio_buffer.committed")["item_id"]


@pytest.mark.parametrize("wanted", [True, False])
async def test_what_cannot_be_understood_is_told_with_its_item(stage: Stage, wanted: bool) -> None:
    """To a client that wants no transcripts, as an error."""
    if not wanted:
        await stage.tell(type="session.update", session={"audio": {"input": {"transcription": None}}})
    stage.model.commit = lambda item_id: None  # type: ignore[method-assign]
    await stage.turn()
    item = stage.last("input_audio_buffer.committed")["item_id"]
    stage.session.on_transcript(Transcript(item, "", True, "the recogniser failed"))
    failed = stage.last("conversation.item.input_audio_transcription.failed" if wanted else "error")
    assert (failed["error"]["code"], failed["error"]["message"]) == ("transcription_failed", "the recogniser failed")
    assert failed.get("item_id") == (item if wanted else None)
    assert "conversation.item.input_audio_transcription.completed" not in stage.transport.kinds()
    assert stage.texts()[0] == ("user", "")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"type":"nonsense"}', "unknown_event"),
        ('{"type":"session.update"}', "missing_required_parameter"),
        ('{"type":"session.update","session":{"colour":"red"}}', "unknown_parameter"),
        ('{"type":"session.update","session":{"max_output_tokens":0}}', "invalid_value"),
        ('{"type":"session.update","session":{"audio":{"output":{"voice":"nobody"}}}}', "invalid_value"),
        ('{"type":"input_audio_buffer.append","audio":"%%%"}', "invalid_base64"),
        ('{"type":"input_audio_buffer.append","audio":"AAA="}', None),
        ('{"type":"input_audio_buffer.append","audio":""}', None),
        ('{"type":"input_audio_buffer.append","audio":"AA=="}', "invalid_audio"),
        ('{"type":"conversation.item.retrieve","item_id":"x"}', "item_retrieve_invalid_item_id"),
        ('{"type":"conversation.item.delete","item_id":"x"}', "item_not_found"),
        ('{"type":"conversation.item.truncate","item_id":"x","audio_end_ms":5}', "item_not_found"),
        ('{"type":"input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
        (
            '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":'
            '[{"type":"input_image","image_url":"data:image/png;base64,AAAA"}]}}',
            "invalid_image",
        ),
        (
            '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":'
            '[{"type":"input_image","image_url":"http://127.0.0.1/x.png"}]}}',
            "invalid_image",
        ),
        ('{"type":"session.update","session":' + "[" * 100_000 + "}", "invalid_json"),
        ('{"type":"input_audio_buffer.append","audio":"' + "A" * 20 * 2**20 + '"}', "event_too_large"),
    ],
)
async def test_bad_event_gets_a_named_error_and_the_session_lives(
    socket_stage: Stage, raw: str, code: str | None
) -> None:
    stage = socket_stage
    stage.session.on_event(raw)
    await stage.settle()
    for _ in range(20):
        await asyncio.sleep(0.005)
    errors = [e["error"]["code"] for e in stage.transport.events if e["type"] == "error"]
    assert errors == ([code] if code else [])
    await stage.turn()
    assert (await stage.until("response.done"))["response"]["status"] == "completed"


async def test_one_response_is_asked_for_at_a_time(stage: Stage) -> None:
    """It waits for the end of what is being said; a second one would take its place unseen."""
    stage.hear(600, True)
    await stage.tell(type="response.create", response={"metadata": {"which": "first"}})
    await stage.tell(type="response.create", response={"metadata": {"which": "second"}}, event_id="mine")
    error = stage.last("error")["error"]
    assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "mine")
    stage.hear(500, False)
    assert (await stage.until("response.done"))["response"]["metadata"] == {"which": "first"}


async def test_an_item_may_be_changed_by_making_it_again(stage: Stage) -> None:
    """The spoken reply of that id is no more: only what the client made can be truncated, and that it cannot."""
    await stage.turn()
    stage.transport.play()
    await stage.until("output_audio_buffer.stopped")
    item_id = stage.last("response.output_item.done")["item"]["id"]
    await stage.tell(type="conversation.item.delete", item_id=item_id)
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "other"}]}
    await stage.tell(type="conversation.item.create", item=item | {"id": item_id})
    await stage.tell(type="conversation.item.truncate", item_id=item_id, audio_end_ms=200)
    assert stage.last("error")["error"]["code"] == "invalid_value"
    assert stage.texts()[-1] == ("assistant", "other")


async def test_camera_frames_reach_the_engine_with_their_time(stage: Stage) -> None:
    stage.hear(200, False)
    stage.session.on_frame(np.zeros((48, 64, 3), np.uint8))
    assert stage.model.calls[-1] == ("append_image", (48, 64, 3), 200)


async def test_transport_lost_ends_the_session(stage: Stage) -> None:
    await stage.turn()
    stage.session.on_closed("gone")
    await asyncio.wait_for(stage.session.ended.wait(), 5)
    await stage.settle()
    assert stage.transport.closed
    assert stage.model.names()[-1] == "close"


def test_each_span_of_a_turn_is_told_once() -> None:
    moments = Moments()
    moments.mark("user_speech_end", 1000.0)
    assert not moments.new_spans()
    assert moments.mark("turn_end_decided", 1250.0)
    assert not moments.mark("turn_end_decided", 1500.0)
    assert moments.new_spans() == {"speech_end_to_turn_decided": 250.0}
    moments.mark("first_text", 1400.0)
    assert moments.new_spans() == {"speech_end_to_first_text": 400.0}


@pytest.mark.parametrize("side", ["input", "output"])
async def test_audio_formats_cannot_be_changed_where_audio_has_a_track(stage: Stage, side: str) -> None:
    await stage.tell(type="session.update", session={"audio": {side: {"format": {"type": "audio/pcma"}}}})
    error = stage.last("error")["error"]
    assert (error["code"], error["param"]) == ("unsupported", f"session.audio.{side}.format")
