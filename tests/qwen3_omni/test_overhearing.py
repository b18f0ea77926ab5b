"""A clip beside the conversation: its words come at once, everything else stays as it is, and its pages come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from omni_rt.engine.api import AudioDelta, EngineError, Pcm, SessionSettings, TextDelta
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.overhearing import Overhearing
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.requests import Read, Request, Result
from omni_rt.engine.qwen3_omni.scheduler import Scheduler
from tests.qwen3_omni.small_engine import Answer, Told, all_free, answer, held, ids, parts, sound, tiny

pytestmark = pytest.mark.usefixtures("brief")

AUDIO_PAD = 151675


class Stage:
    """Parts whose scheduler works when told to, in virtual time; `passes` keeps what the machine was asked."""

    def __init__(self, **settings: int) -> None:
        self.now = 0.0
        self.passes: list[list[Request]] = []
        self.parts: Parts = parts(tiny(), **settings)
        self.parts = replace(self.parts, scheduler=Scheduler(self._run, lambda: self.now))
        self.heard: list[str | EngineError] = []

    def conversation(self) -> Conversation:
        conversation = Conversation(self.parts, SessionSettings("Be brief."), Told(), 7)
        self.parts.scheduler.add(conversation)
        return conversation

    def overhear(self, clip: Pcm, prior: float | None = None) -> Overhearing:
        overhearing = Overhearing(self.parts, clip, self.heard.append)
        overhearing.begin(prior)
        return overhearing

    @torch.inference_mode()
    def work(self, most: int = 10_000) -> int:
        """Up to so many steps; how many there were."""
        for done in range(most):
            wait = self.parts.scheduler.turn()
            if wait is None:
                return done
            self.now += wait
        return most

    @property
    def free(self) -> tuple[int, int]:
        assert self.parts.talker_pool is not None
        return self.parts.pool.free_tokens, self.parts.talker_pool.free_tokens

    def _run(self, requests: Sequence[Request]) -> list[Result]:
        self.passes.append(list(requests))
        return self.parts.machine.run(requests)


def said(reply: Answer) -> tuple[str, Pcm]:
    """All text and all sound."""
    text = "".join(chunk.text for chunk in reply.chunks if isinstance(chunk, TextDelta))
    return text, np.concatenate([chunk.pcm for chunk in reply.chunks if isinstance(chunk, AudioDelta)])


@pytest.mark.parametrize("seconds", [0.1, 0.6, 3.0])
def test_a_conversation_at_rest_stays_as_it_is(seconds: float) -> None:
    stage = Stage()
    conversation = stage.conversation()
    conversation.append_text("Hello", "user", "a")
    conversation.append_audio(sound(0.7))
    conversation.commit("said")
    stage.work()
    free, rows = stage.free, ids(conversation.context)
    cache, talker_cache = conversation.context.cache, conversation.context.talker_cache
    assert talker_cache is not None
    with torch.inference_mode():
        before = [held(cache), held(talker_cache), conversation.context.last_hidden()]
    pages, computed = (cache.pages, talker_cache.pages), conversation.context.computed
    stage.overhear(sound(seconds, 3), conversation.prior)
    stage.work()
    (heard,) = stage.heard
    assert isinstance(heard, str)
    with torch.inference_mode():
        after = [held(cache), held(talker_cache), conversation.context.last_hidden()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (cache.pages, talker_cache.pages, conversation.context.computed) == (*pages, computed)
    assert (stage.free, ids(conversation.context)) == (free, rows)


def test_a_reply_in_the_making_is_the_same_with_clips_overheard_beside_it() -> None:
    replies = []
    for clips in (False, True):
        stage = Stage()
        conversation = stage.conversation()
        conversation.append_audio(sound(0.7))
        conversation.commit("said")
        reply = answer(conversation, 1, max_tokens=8)
        asked = 0
        while stage.work(3) == 3:
            if clips and asked < 4:
                asked += 1
                stage.overhear(sound(0.3 * asked, 5), conversation.prior)
        assert len(stage.heard) == asked == (4 if clips else 0)
        beside = [len(each) for each in stage.passes if any(_of_clip(r, conversation) for r in each)]
        assert (max(beside, default=1) > 1) is clips, "they share passes"
        context = conversation.context
        replies.append((*said(reply), ids(context), held(context.cache), stage.free))
        conversation.close()
        assert all_free(stage.parts)
    (text, pcm, rows, kept, free), (text_beside, pcm_beside, rows_beside, kept_beside, free_beside) = replies
    assert text == text_beside
    assert rows == rows_beside
    assert free == free_beside
    # passes of several sequences round otherwise
    torch.testing.assert_close(kept, kept_beside, rtol=0, atol=1e-4)
    assert len(pcm) == len(pcm_beside)
    assert np.abs(pcm.astype(int) - pcm_beside).max() <= 2


def test_it_goes_before_a_first_packet_and_ends_after_twelve_tokens() -> None:
    stage = Stage()
    conversation = stage.conversation()
    conversation.append_text("Hello", "user", "a")
    stage.work()
    answer(conversation, 1, max_tokens=8)
    stage.now += 0.01
    stage.passes.clear()
    stage.overhear(sound(0.6))
    stage.work()
    own = [n for n, each in enumerate(stage.passes) for request in each if _of_clip(request, conversation)]
    assert own == list(range(12))
    first = stage.passes[0][0]
    assert isinstance(first, Read)
    assert first.chunk is not None
    assert first.chunk.ids.count(AUDIO_PAD) == 13
    assert first.rows <= 64


def _of_clip(request: Request, conversation: Conversation) -> bool:
    chunk = request.chunk if isinstance(request, Read) else None
    return chunk is not None and chunk.cache is not conversation.context.cache


def test_closed_at_any_step_it_tells_nothing_and_keeps_nothing() -> None:
    stage = Stage()
    stage.overhear(sound(0.6))
    steps = stage.work()
    assert len(stage.heard) == 1
    for done in range(steps):
        overhearing = stage.overhear(sound(0.6))
        stage.work(done)
        assert all_free(stage.parts) is (done < 2)
        overhearing.close()
        overhearing.close()
        assert all_free(stage.parts)
        assert stage.work() == 0
    unbegun = Overhearing(stage.parts, sound(0.6), stage.heard.append)
    unbegun.close()
    assert len(stage.heard) == 1


def test_without_room_it_fails_alone() -> None:
    stage = Stage(tokens=256)
    conversation = stage.conversation()
    conversation.append_text("word " * 120, "user", "a")
    stage.work()
    taken = [stage.parts.pool.take() for _ in range(stage.parts.pool.free_tokens // stage.parts.pool.page)]
    stage.overhear(sound(3.0))
    stage.work()
    (error,) = stage.heard
    assert isinstance(error, EngineError)
    assert error.code == "busy"
    for page in taken:
        stage.parts.pool.give(page)
    assert not conversation._tells.errors  # type: ignore[attr-defined]
    conversation.close()
    assert all_free(stage.parts)
