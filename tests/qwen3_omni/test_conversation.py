"""One conversation at its limits, a step at a time: no room, no memory, a talker that ends early or is not there."""

from __future__ import annotations

import pytest
import torch

from omni_rt.engine.api import (
    AudioDelta,
    SessionSettings,
    TextDelta,
)
from omni_rt.engine.qwen3_omni import reply as replies
from omni_rt.engine.qwen3_omni.conversation import Conversation
from tests.qwen3_omni import small_engine
from tests.qwen3_omni.small_engine import Told, all_free, answer, mute, parts, settle, sound, tiny

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("brief")]


@torch.inference_mode()
def test_what_leaves_a_full_context_is_told_as_not_understood() -> None:
    shared = parts(tiny(), context_tokens=256, max_reply_tokens=8)
    told = Told()
    conversation = Conversation(shared, SessionSettings("Be brief."), told, 0)
    for number in range(8):
        conversation.append_audio(sound(3.0, number))
        conversation.commit(f"said {number}")
        while conversation._pending or conversation._behind:  # no time for transcripts
            conversation.step()
    gone = [f"said {number}" for number in range(8)][: len(told.items)]
    assert told.items == gone
    assert len(gone) > 2
    settle(conversation)
    assert sorted(told.items) == [f"said {number}" for number in range(8)]
    assert not told.errors
    assert conversation.context.rows <= 256
    conversation.close()
    assert all_free(shared)


@torch.inference_mode()
@pytest.mark.parametrize("pool", ["pool", "talker_pool"])
def test_a_session_without_memory_fails_by_name_and_lives(pool: str) -> None:
    """Another session holds nearly all pages of one cache."""
    shared = parts(tiny(), tokens=1024, max_reply_tokens=8)
    full = getattr(shared, pool)
    pages = [full.take() for _ in range(full.pages - 2)]
    told = Told()
    conversation = Conversation(shared, SessionSettings(), told, 0)
    conversation.append_text("words " * 100, "user", "a")
    conversation.append_audio(sound(5.0))
    conversation.commit("said")
    settle(conversation)
    reply = answer(conversation, 1, max_tokens=2)
    settle(conversation)
    assert reply.ends
    codes = {error.code for error in told.errors} | {end.error.partition(":")[0] for end in reply.ends} - {""}
    assert codes == {"busy"}
    assert len(told.errors) < 5
    assert told.items == ["said"]
    for page in pages:
        full.give(page)
    conversation.append_text("Once more", "user", "b")
    again = answer(conversation, 2, max_tokens=2)
    settle(conversation)
    assert again.reason in ("completed", "max_tokens")
    small_engine.assert_as_fresh(conversation)
    conversation.close()
    assert all_free(shared)


@torch.inference_mode()
def test_a_reply_that_cannot_be_begun_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = parts(tiny())
    conversation = Conversation(shared, SessionSettings(), Told(), 0)
    monkeypatch.setattr(replies.Reply, "begin", lambda *_: 1 / 0)
    reply = answer(conversation, 1)
    assert reply.reason == "failed"
    assert "ZeroDivisionError" in reply.ends[0].error
    assert conversation.keep_heard(1, 100) == ""
    conversation.close()


@torch.inference_mode()
def test_a_talker_that_ends_early_does_not_end_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = parts(tiny())
    conversation = Conversation(shared, SessionSettings(), Told(), 0)
    conversation.append_text("Hello", "user", "a")
    frames = iter([False, False, False])
    monkeypatch.setattr(type(tiny().talker), "ended", lambda *_: next(frames, True))
    reply = answer(conversation, 1, max_tokens=20)
    settle(conversation)
    assert reply.reason == "max_tokens"
    assert reply.ends[0].usage.output_tokens == 20
    assert reply.ends[0].usage.output_audio_ms == 240
    written = "".join(chunk.text for chunk in reply.chunks if isinstance(chunk, TextDelta))
    assert "".join(chunk.text for chunk in reply.chunks if isinstance(chunk, AudioDelta)) == written
    assert sum(len(chunk.pcm) for chunk in reply.chunks if isinstance(chunk, AudioDelta)) == 3 * 1920
    conversation.close()
    assert all_free(shared)


@torch.inference_mode()
def test_a_transcript_need_not_wait_for_a_reply_that_is_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, told = parts(tiny()), Told()
    conversation = Conversation(shared, SessionSettings(), told, 0)
    conversation.append_audio(sound(0.5))
    conversation.commit("said")
    reply = answer(conversation, 1, max_tokens=4)
    while not any(isinstance(chunk, AudioDelta) for chunk in reply.chunks):
        conversation.deadline(0.0)
        conversation.step()
    monkeypatch.setattr(reply.reply, "deadline", lambda now: now + 100)
    for _ in range(500):
        deadline = conversation.deadline(0.0)
        assert deadline is not None
        if deadline >= 100:
            break
        conversation.step()
    assert told.items == ["said"]
    assert not reply.ends
    conversation.close()
    assert reply.reason == "cancelled"
    assert all_free(shared)


@torch.inference_mode()
def test_a_model_without_a_talker_writes() -> None:
    shared, told = parts(mute()), Told()
    assert shared.voices == ()
    conversation = Conversation(shared, SessionSettings(voice="anybody"), told, 0)
    conversation.append_audio(sound(0.8))
    conversation.commit("said")
    reply = answer(conversation, 1, max_tokens=4)
    settle(conversation)
    assert reply.reason in ("completed", "max_tokens")
    assert any(isinstance(chunk, TextDelta) for chunk in reply.chunks)
    assert not any(isinstance(chunk, AudioDelta) for chunk in reply.chunks)
    assert told.items == ["said"]
    assert conversation.keep_heard(1, 0) == ""
    small_engine.assert_as_fresh(conversation)
    conversation.close()
    assert all_free(shared)
