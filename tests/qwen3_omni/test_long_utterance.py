"""Half an hour of speech in one utterance: everything is prefilled while it is spoken, at a steady cost per second."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni_rt.engine.api import SessionSettings
from omni_rt.engine.qwen3_omni.conversation import Conversation
from tests.qwen3_omni.small_engine import Told, all_free, parts, tiny

SECONDS = 1800
CHUNK_S = 10
TOKENS = 13 * SECONDS

pytestmark = pytest.mark.models


@torch.inference_mode()
def test_half_an_hour_in_one_utterance() -> None:
    room = TOKENS + 512
    shared = parts(tiny(), tokens=room, context_tokens=room, audio_window_s=1, transcripts=False)
    told = Told()
    talk = Conversation(shared, SessionSettings(), told, seed=0)
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(SECONDS // CHUNK_S):
        talk.append_audio(rng.integers(-3000, 3000, CHUNK_S * 16_000, dtype=np.int16))
        before = talk.context.computed
        while talk.deadline(0.0) is not None:
            talk.step()
        steps.append(talk.context.computed - before)
        assert talk.context.missing == 0
    # Each ten seconds cost their own rows, and those of the window that was open before them.
    assert max(steps[1:]) <= 13 * (CHUNK_S + 1) + 1
    before = talk.context.computed
    talk.commit("long")
    while talk.deadline(0.0) is not None:
        talk.step()
    closing = 1 + len(shared.prompt.user_close)
    assert talk.context.computed - before <= 13 + closing
    assert talk.context.rows == TOKENS + len(shared.prompt.user_open) + 1 + closing
    assert talk.context.cache.length == talk.context.rows
    assert not told.errors
    talk.close()
    assert all_free(shared)
