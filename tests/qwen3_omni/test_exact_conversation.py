"""Conversations on drawn models: what was undone, interrupted or done beside leaves nothing behind."""

from __future__ import annotations

import pytest

from tools.exact import after_speech, conversation, sessions
from tools.exact.lines import failures


@pytest.mark.parametrize("seed", [2, 9])
def test_five_turns_with_rollback_barge_in_and_forks_equal_a_fresh_prefill(seed: int) -> None:
    assert not failures(conversation.lines(seed))


def test_two_sessions_step_by_step_equal_each_alone() -> None:
    assert not failures(sessions.lines(2))


@pytest.mark.parametrize("seed", [2, 5])
def test_only_the_open_window_and_the_suffix_are_left_after_speech(seed: int) -> None:
    assert not failures(after_speech.lines(seed))
