"""Which items leave a context that is too long: the oldest exchanges, whole, and never the last."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.core.conversation import Conversation, Item, Picture, Speech, Text
from omni_rt.core.window import FULL, ITEM, ContextWindow, weigh
from omni_rt.engine.api import ToolCall


def _said(number: int, role: str, characters: int = 376) -> Item:
    """With the default length it is estimated at 100 tokens."""
    return Item(f"{role}{number}", "message", role, (Text("x" * characters),))  # type: ignore[arg-type]


def _exchanges(count: int) -> list[Item]:
    return [_said(n, role) for n in range(count) for role in ("user", "assistant")]


def test_what_is_estimated() -> None:
    assert weigh(_said(0, "user")) == 100
    assert weigh(Item("a", parts=(Speech(None, None, 8000),))) == ITEM + 100
    assert weigh(Item("a", parts=(Speech("x" * 800, None, 8000),))) == ITEM + 200
    assert weigh(Item("a", parts=(Picture(np.zeros((1, 1, 3), np.uint8)),))) == ITEM + 300
    assert weigh(Item("a", "function_call", call=ToolCall("c", "lamp", "x" * 36))) == ITEM + 10
    assert weigh(Item("a", "function_call_output", output="x" * 40)) == ITEM + 10


def test_the_engines_count_sets_the_scale() -> None:
    window, items = ContextWindow(4000), _exchanges(2)
    assert window.tokens(100, items) == 500
    window.counted(1000, 100, items)
    assert window.tokens(100, items) == pytest.approx(1000)
    assert window.tokens(100, items[:2]) == pytest.approx(600)
    window.counted(0, 100, items)
    assert window.tokens(100, items) == pytest.approx(1000)


def test_nothing_leaves_while_all_fits() -> None:
    window = ContextWindow(4000)
    assert window.limit == FULL * 4000
    assert not window.excess(_exchanges(5), 100, 0.5, None)
    assert not window.excess(_exchanges(5), 100, 0.5, 1000)


@pytest.mark.parametrize(
    ("ratio", "limit", "exchanges_gone"),
    [(1.0, 900, 1), (0.8, 900, 2), (0.5, 900, 3), (0.0, 900, 4), (0.0, 0, 4), (1.0, 999, 1), (0.5, None, 0)],
)
def test_as_much_leaves_as_the_ratio_says(ratio: float, limit: int | None, exchanges_gone: int) -> None:
    items = _exchanges(5)
    gone = ContextWindow(4000).excess(items, 100, ratio, limit)
    assert gone == [item.id for item in items[: 2 * exchanges_gone]]


def test_without_a_limit_instructions_take_their_part_of_the_context() -> None:
    window = ContextWindow(1600)  # of which 1200 may be taken
    assert not window.excess(_exchanges(5), 200, 0.5, None)
    assert len(window.excess(_exchanges(5), 400, 0.5, None)) == 6


def test_calls_leave_with_their_results() -> None:
    items = [
        _said(0, "user"),
        Item("call", "function_call", "assistant", call=ToolCall("c", "lamp", "{}")),
        Item("result", "function_call_output", result_of="c", output="x" * 400),
        _said(0, "assistant"),
        *_exchanges(3)[2:],
    ]
    gone = ContextWindow(4000).excess(items, 0, 0.9, 600)
    assert gone == [item.id for item in items[:4]]


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.integers(0, 4000)), max_size=20),
    st.floats(0, 1),
    st.integers(0, 3000) | st.none(),
)
def test_what_stays_fits_or_is_the_last_exchange(lines: list[tuple[str, int]], ratio: float, limit: int | None) -> None:
    items = [_said(n, role, length) for n, (role, length) in enumerate(lines)]
    window = ContextWindow(2000)
    gone = window.excess(items, 50, ratio, limit)
    assert gone == [item.id for item in items[: len(gone)]]
    stays = items[len(gone) :]
    if gone:
        most = window.limit - 50 if limit is None else min(limit, window.limit - 50)
        assert stays[0].role == "user"
        others = [item for item in stays[1:] if item.role == "user"]
        assert sum(map(weigh, stays)) <= ratio * most + 1e-6 or not others


def test_what_is_forgotten_stays_in_the_list() -> None:
    conversation = Conversation()
    for item in _exchanges(2):
        conversation.add(item)
    conversation.forget(["user0", "assistant0"])
    assert [item.id for item in conversation.context()] == ["user1", "assistant1"]
    assert len(conversation) == 4
    conversation.remove("user0")
    conversation.add(_said(0, "user"))
    assert [item.id for item in conversation.context()] == ["user1", "assistant1", "user0"]
