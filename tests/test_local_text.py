from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.engine.api import EngineError, Tool, ToolCall
from omni_rt.engine.local.clauses import ClauseCutter
from omni_rt.engine.local.prompt import user_text
from omni_rt.engine.local.spoken import spoken_words
from omni_rt.engine.local.tools import CallReader, call_text, called, grammar

WEATHER = Tool("get_weather", "Weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
TIMER = Tool("set_timer", "Start a timer", {"type": "object", "properties": {"minutes": {"type": "integer"}}})


def tokens(text: str) -> list[str]:
    """Text in pieces like those of a model: words with the space before them, marks on their own."""
    return re.findall(r" ?\w+| ?[^\w\s]|\s", text)


def clauses(text: str) -> list[str]:
    cutter = ClauseCutter()
    return [clause for token in tokens(text) for clause in cutter.feed(token)] + cutter.flush()


def said(text: str) -> str:
    return " ".join(word.text for word in spoken_words(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The capital of France is Paris.", ["The capital of France", " is Paris."]),
        ("Sure, I can help. What is it?", ["Sure,", " I can help.", " What is it?"]),
        ("Yes! It is.", ["Yes!", " It is."]),
        ("Dr. Smith paid $3.50 at 7:30 p.m. on Jan. 5th. Fine.", None),
        ("It is 3.5 degrees, about 1,000 people came.", ["It is 3.5 degrees,", " about 1,000 people came."]),
        ("See https://www.example.com/a.html now.", ["See https://www.example.com/a.html now."]),
        ("Read this:\nOne line\nTwo lines", ["Read this:", "\nOne line\n", "Two lines"]),
    ],
)
def test_clauses_end_where_a_speaker_would_pause(text: str, expected: list[str] | None) -> None:
    found = clauses(text)
    if expected is None:
        assert all(clause.strip()[:1] not in "0123456789" for clause in found)
        assert found[-2:] == [" at 7:30 p.m. on Jan. 5th.", " Fine."]
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("said", "told"),
    [("Go on.", "Go on"), ("Please,", "Please"), ("What?", "What?"), ("Well...", "Well..."), ("", ""), (".", "")],
)
def test_a_full_stop_at_the_end_is_not_told(said: str, told: str) -> None:
    assert user_text("", said) == told
    assert user_text("a cat", said) == f"[a cat]\n{told}"


def test_the_first_clause_is_short_and_the_later_ones_grow() -> None:
    text = (
        "A car engine turns the chemical energy that is stored in gasoline into mechanical energy by burning it in "
        "cylinders and pushing the pistons down and that turns a shaft which is linked to the wheels by gears"
    )
    lengths = [len(clause.split()) for clause in clauses(text)]
    assert lengths[0] <= 8
    assert lengths[1] <= 2 * lengths[0] + 10
    assert max(lengths) <= 24


def test_a_code_block_is_a_clause_of_its_own_and_not_spoken() -> None:
    found = clauses("Here it is: ```python\nprint('a. b')\n``` Run it.")
    assert [said(clause) for clause in found] == ["Here it is:", "", "Run it."]


@given(st.text(st.sampled_from("ab. ,!?\n`*-3’é😀:"), max_size=80), st.integers(1, 7))
def test_clauses_joined_are_the_text_however_it_comes(text: str, size: int) -> None:
    cutter = ClauseCutter()
    found = [clause for at in range(0, len(text), size) for clause in cutter.feed(text[at : at + size])]
    assert "".join(found + cutter.flush()) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**Very** *nice*, `really`", "Very nice, really"),
        ("Hi 😀👍🏽 there", "Hi there"),
        ("- one\n- two", "one two"),
        ("# Title\ntext", "Title text"),
        ("See [the page](https://a.example/b).", "See the page."),
        ("Go to https://www.example.com/some/path now", "Go to example dot com now"),
        ("salt & pepper → soup", "salt and pepper to soup"),
        ("snake_case stays, 5 * 3 is odd", "snake_case stays, 5 3 is odd"),
        ("<b>bold</b>", "bold"),
        ("It's 25°C — don't", "It's 25°C don't"),
    ],
)
def test_only_words_are_spoken(text: str, expected: str) -> None:
    assert said(text) == expected


@given(st.text(max_size=60))
def test_words_keep_their_places(text: str) -> None:
    words = spoken_words(text)
    ends = [word.end for word in words]
    assert ends == sorted(ends)
    assert all(0 < end <= len(text) for end in ends)


def read(text: str, tools: tuple[Tool, ...] = (WEATHER, TIMER)) -> tuple[str, CallReader]:
    reader = CallReader(tools)
    speech = "".join(reader.feed(token) for token in tokens(text))
    return speech + (reader.flush() if not reader.explained else ""), reader


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        '```json\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n```',
        '{"name": "get_weather", "arguments": {"city": "Rome"}}',
        call_text(ToolCall("id", "get_weather", '{"city": "Rome"}')),
    ],
)
def test_calls_are_read_in_every_form_and_not_spoken(text: str) -> None:
    speech, reader = read(text)
    assert speech == ""
    assert [(name, json.loads(arguments)) for name, arguments in reader.calls] == [("get_weather", {"city": "Rome"})]
    assert not reader.unfinished


def test_two_calls_and_one_cut_off() -> None:
    one = '{"name": "set_timer", "arguments": {"minutes": 5}}'
    _, reader = read(f"{one}\n{one.replace('5', '6')}\n")
    assert reader.calls == [("set_timer", '{"minutes": 5}'), ("set_timer", '{"minutes": 6}')]
    _, reader = read(one[:-4])
    assert reader.calls == []
    assert reader.unfinished


def test_a_call_is_made_once() -> None:
    one, two = (f'{{"name": "set_timer", "arguments": {{"minutes": {minutes}}}}}' for minutes in (5, 6))
    _, reader = read(f"{one}\n{one}\n{two}")
    assert reader.calls == [("set_timer", '{"minutes": 5}'), ("set_timer", '{"minutes": 6}')]
    assert not reader.repeated
    reader = CallReader((TIMER,), answered=[called(ToolCall("id", "set_timer", '{"minutes":5}'))])
    reader.feed(one)
    assert reader.repeated
    assert reader.calls == []


def test_speech_is_told_as_it_is() -> None:
    assert read("The capital of France is Paris.")[0] == "The capital of France is Paris."
    assert read("To be or not to be. That is it.")[0] == "To be or not to be. That is it."
    assert read('{"not": "a call"}', tools=())[0] == '{"not": "a call"}'


def test_a_tool_talked_about_is_noticed_before_anything_is_told() -> None:
    speech, reader = read("To get the weather in Rome, you can call the get_weather function with Rome.")
    assert reader.explained == "get_weather"
    assert speech == ""


def test_grammar_says_what_is_wrong() -> None:
    assert grammar((), "auto") == ""
    with pytest.raises(EngineError, match="needs tools"):
        grammar((), "required")
    with pytest.raises(EngineError, match="get_weather, set_timer"):
        grammar((WEATHER, TIMER), "get_wether")
    with pytest.raises(EngineError, match="JSON schema"):
        grammar((Tool("odd", "", {"type": {1, 2}}),), "auto")
