"""The items of a conversation: their order, their words, and what an engine is given of them."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.core.conversation import Conversation, Item, Picture, Speech, Text, UnknownItem
from omni_rt.engine.api import ContextItem, ToolCall

PCM = np.arange(160, dtype=np.int16)
RGB = np.zeros((2, 3, 3), np.uint8)


def conversation(*ids: str) -> Conversation:
    made = Conversation()
    for name in ids:
        made.add(Item(name, parts=(Text(name),)))
    return made


def ids(of: Conversation) -> list[str]:
    return [item.id for item in of]


def test_items_are_kept_in_order() -> None:
    made = conversation("a", "b")
    assert made.add(Item("c")) == "b"
    assert ids(made) == ["a", "b", "c"]
    assert len(made) == 3
    assert "b" in made
    assert "d" not in made
    assert made.last_id() == "c"
    assert [made.previous_id(name) for name in "abc"] == [None, "a", "b"]


def test_an_item_goes_where_it_is_put() -> None:
    made = conversation("a", "b")
    assert made.add(Item("first"), "root") is None
    assert made.add(Item("middle"), "a") == "a"
    assert made.add(Item("last"), "b") == "b"
    assert ids(made) == ["first", "a", "middle", "b", "last"]


def test_the_first_item_has_none_before_it() -> None:
    assert Conversation().add(Item("a")) is None
    assert Conversation().add(Item("a"), "root") is None
    assert Conversation().last_id() is None


def test_ids_are_unique_and_must_be_known() -> None:
    made = conversation("a")
    with pytest.raises(ValueError, match="'a'"):
        made.add(Item("a"))
    for deed in (
        lambda: made.add(Item("b"), "nobody"),
        lambda: made.get("nobody"),
        lambda: made.put(Item("nobody")),
        lambda: made.remove("nobody"),
        lambda: made.set_transcript("nobody", "x"),
        lambda: made.previous_id("nobody"),
    ):
        with pytest.raises(UnknownItem):
            deed()
    assert ids(made) == ["a"]


def test_replaced_and_removed() -> None:
    made = conversation("a", "b")
    made.put(Item("a", parts=(Text("new"),)))
    assert made.get("a").text == "new"
    assert made.remove("a").text == "new"
    assert ids(made) == ["b"]


def test_a_transcript_is_written_into_speech_and_nothing_else() -> None:
    made = Conversation()
    made.add(Item("a", parts=(Text("look"), Speech(None, PCM, 10), Picture(RGB))))
    assert made.get("a").text == "look"
    item = made.set_transcript("a", "at this")
    assert item.text == "look at this"
    assert made.get("a") == item
    assert item.parts == (Text("look"), Speech("at this", PCM, 10), Picture(RGB))


def test_an_engine_gets_words_sound_and_pictures() -> None:
    item = Item("a", parts=(Speech("hello", PCM, 10), Picture(RGB), Picture(RGB)))
    context = item.context()
    assert context.text == "hello"
    assert context.audio is PCM
    assert len(context.images) == 2
    assert Item("b", role="assistant", parts=(Speech("hi"),)).context() == ContextItem("b", "assistant", "hi")


def test_an_engine_gets_calls_and_their_results() -> None:
    call = ToolCall("c1", "lamp", "{}")
    assert Item("a", "function_call", "assistant", call=call).context() == ContextItem("a", "assistant", call=call)
    result = Item("b", "function_call_output", result_of="c1", output="on")
    assert result.context() == ContextItem("b", "user", "on", result_of="c1")


def test_what_is_still_being_said_is_no_context() -> None:
    made = conversation("a")
    made.add(Item("b", role="assistant", parts=(Speech("half"),), status="in_progress"))
    made.add(Item("c", role="assistant", parts=(Speech("cut"),), status="incomplete"))
    assert [item.id for item in made.context()] == ["a", "c"]
