"""The reader tells speech, thoughts and calls apart, whatever the tokens are cut into."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rt.engine.qwen3_omni.reading import Call, End, Event, Problem, ReplyReader, Speak, Thought
from omni_rt.engine.qwen3_omni.tokenizer import MARKERS
from tests.qwen3_omni.qwen_tokenizer import tokenizer

pytestmark = pytest.mark.models

END = MARKERS["<|im_end|>"]
PADDING = 152_000
CALL = '{"name": "get_weather", "arguments": {"city": "Ulm"}}'
WEATHER = Call("get_weather", '{"city": "Ulm"}')
# how a marker can come: as its id, or spelled out, cut anywhere
Part = str | int


def ids(*parts: Part) -> list[int]:
    out: list[int] = []
    for part in parts:
        out += [part] if isinstance(part, int) else tokenizer().encode(part)
    return out


def marked(text: str) -> list[int]:
    """Text whose block markers are their own ids."""
    for marker in ("<tool_call>", "</tool_call>", "<think>", "</think>"):
        text = text.replace(marker, f"\0{marker}\0")
    return ids(*(MARKERS.get(part, part) for part in text.split("\0") if part))


def cut(text: str, places: Iterable[int]) -> list[int]:
    """Tokens of `text` cut at `places`, each piece encoded by itself."""
    bounds = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [token for a, b in pairwise(bounds) for token in tokenizer().encode(text[a:b])]


def read(tokens: Sequence[int], **options: object) -> list[Event]:
    reader = ReplyReader(tokenizer(), **options)  # type: ignore[arg-type]
    return [*(event for token in tokens for event in reader.feed(token)), *reader.finish()]


def speech(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Speak))


def spoken(events: Iterable[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Speak) for token in event.ids]


def thoughts(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Thought))


def calls(events: Iterable[Event]) -> list[Call]:
    return [event for event in events if isinstance(event, Call)]


def codes(events: Iterable[Event]) -> list[str]:
    return [event.code for event in events if isinstance(event, Problem)]


def test_speech_goes_through_at_once() -> None:
    reader = ReplyReader(tokenizer())
    tokens = ids("Hello,世界!")
    assert [reader.feed(token) for token in tokens] == [
        [Speak(tokenizer().decode((token,)), (token,))] for token in tokens
    ]
    assert reader.feed(END) == [End()]
    assert reader.ended
    assert reader.feed(tokens[0]) == reader.finish() == []


@given(st.lists(st.integers(0, 151_642), max_size=30))
@settings(max_examples=80)
def test_without_markers_everything_is_spoken(tokens: list[int]) -> None:
    if any(mark in tokenizer().decode(tokens) for mark in MARKERS):
        return
    stream = tokenizer().stream()
    whole = "".join(map(stream.push, tokens))
    events = read(tokens)
    assert speech(events) == whole
    if not stream.pending:
        assert spoken(events) == tokens
    assert not codes(events)


def test_a_token_of_half_a_character_waits_for_the_other_half() -> None:
    tokens = ids("𒀀")
    assert len(tokens) > 1
    assert read(tokens) == [Speak("𒀀", tuple(tokens))]
    assert read(ids("Hi", *tokens[:1], END)) == [Speak("Hi", tuple(ids("Hi"))), End()]
    assert read([tokens[0], *marked(f"<tool_call>{CALL}</tool_call>")]) == [WEATHER]
    assert read([*marked("<think>x</think>"), *tokens])[-1] == Speak("𒀀", tuple(tokens))


@given(st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
@settings(max_examples=40)
def test_any_cut_of_spelled_out_markers_reads_like_their_ids(places: list[int], words_first: bool) -> None:
    first = "Sure, 等一下.\n" if words_first else ""
    text = (
        f"<think>\nWeather <b> in Ülm?\n</think>\n\n{first}<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n"
        f'{{"name": "now", "arguments": {{}}}}\n</tool_call>\n\nIt is 3 < 4 <thin> 😀'
    )
    expected = read(marked(text))
    got = read(cut(text, places))
    for events in (expected, got):
        assert thoughts(events) == "\nWeather <b> in Ülm?\n"
        assert speech(events).replace("\n", "") == f"{first.strip()}It is 3 < 4 <thin> 😀"
        assert calls(events) == [WEATHER, Call("now", "{}")]
        assert not codes(events)
        assert tokenizer().decode(spoken(events)) == speech(events)


def test_whitespace_around_blocks_is_not_spoken() -> None:
    events = read(ids("Hi", "  ", MARKERS["<tool_call>"], CALL, MARKERS["</tool_call>"], "\n\n", " Bye", "\n", END))
    assert events == [
        Speak("Hi", tuple(ids("Hi"))),
        WEATHER,
        Speak(" Bye", tuple(ids(" Bye"))),
        Speak("\n", (198,)),
        End(),
    ]
    assert read(ids(*marked(f"\n<tool_call>{CALL}</tool_call>\n"), END)) == [WEATHER, End()]


def test_text_in_one_token_with_a_spelled_out_marker_is_encoded_by_itself() -> None:
    tokens = ids(".<", "think", ">", "x", "</", "think", ">\n")
    events = read([*tokens, *ids("Yes")])
    assert events == [Speak(".", tuple(ids("."))), Thought("x"), Speak("Yes", tuple(ids("Yes")))]


def test_what_may_become_a_marker_waits_and_is_spoken_if_it_does_not() -> None:
    reader = ReplyReader(tokenizer())
    assert reader.feed(*ids("<")) == []
    assert reader.feed(*ids("x")) == [Speak("<x", tuple(ids("<", "x")))]
    assert read(ids("a", " <", END))[-2:] == [Speak(" <", tuple(ids(" <"))), End()]


def test_other_markers_and_padding_are_not_spoken() -> None:
    events = read(ids("Hi", MARKERS["<|audio_pad|>"], PADDING, MARKERS["<tts_pad>"], " there"))
    assert (speech(events), spoken(events)) == ("Hi there", ids("Hi", " there"))


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("", "Expecting value"),
        ('{"name": "x", "arguments": {', "Expecting"),
        ('{"arguments": {}}', "names no tool"),
        ('{"name": 3, "arguments": {}}', "names no tool"),
        ('{"name": "x", "arguments": [1]}', "no JSON object"),
        ('["x"]', "names no tool"),
        ('{"name": "x", "arguments": {"a": NaN}}', "NaN is no JSON"),
        ('{"name": "x", "arguments": {"a": 1e999}}', "Out of range"),
        ('{"name": "\\ud800", "arguments": {}}', "surrogates"),
        ('{"name": "x", "arguments": ' + "[" * 100_000, "nested"),
    ],
)
def test_a_malformed_call_is_a_problem_and_the_reply_goes_on(block: str, why: str) -> None:
    events = read(ids(*marked(f"<tool_call>{block}</tool_call>"), "Well"))
    problem = events[0]
    assert isinstance(problem, Problem)
    assert problem.code == "bad_call"
    assert why in problem.message
    assert len(problem.message) < 500
    assert events[1:] == [Speak("Well", tuple(ids("Well")))]


@pytest.mark.parametrize(
    ("block", "arguments"),
    [
        ('{"name": "x"}', "{}"),
        ('{"name": "x", "arguments": ""}', "{}"),
        ('{"name": "x", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "x", "arguments": {"a": "\\u00fc"}}', '{"a": "ü"}'),
        ('{"name": "x", "arguments": {"a": "\\ud800"}}', '{"a": "\\ud800"}'),
    ],
)
def test_arguments_are_json_text_of_an_object(block: str, arguments: str) -> None:
    assert read(marked(f"<tool_call>{block}</tool_call>")) == [Call("x", arguments)]
    json.loads(arguments.encode())


def test_a_tool_that_does_not_exist_is_a_problem() -> None:
    tokens = marked(f"<tool_call>{CALL}</tool_call>")
    assert calls(read(tokens, names=["get_weather"])) == [WEATHER]
    assert codes(read(tokens, names=["now"])) == ["unknown_tool"]
    assert codes(read(tokens, names=())) == ["unknown_tool"]


def test_ends_of_blocks_that_never_began_are_left_out() -> None:
    events = read(marked("Hi</think> there</tool_call>!"))
    assert (speech(events), codes(events)) == ("Hi there!", ["stray_marker", "stray_marker"])


def test_blocks_that_the_end_cuts_off() -> None:
    assert read([*marked(f"<tool_call>{CALL}"), END]) == [WEATHER, End()]
    assert codes(read(marked('<tool_call>{"name": "get'))) == ["unfinished_call"]
    events = read([*marked("<think>so"), END])
    assert (thoughts(events), codes(events), events[-1]) == ("so", ["unfinished_thought"], End())


def test_a_block_inside_a_block() -> None:
    events = read(marked(f"<think>a <tool_call>{CALL}</tool_call></think>b"))
    assert (thoughts(events), speech(events), calls(events)) == (f"a <tool_call>{CALL}</tool_call>", "b", [])
    assert read(marked(f"<tool_call>{CALL}\n<tool_call>{CALL}</tool_call>")) == [WEATHER, WEATHER]


def test_a_thought_that_the_prompt_has_opened() -> None:
    events = read(marked("hm</think>\n\nYes"), in_thought=True)
    assert events == [Thought("hm"), Speak("Yes", tuple(ids("Yes")))]


MARKED = sorted(MARKERS.values())


@given(st.lists(st.one_of(st.integers(0, 152_063), st.sampled_from(MARKED)), max_size=40))
@settings(max_examples=80)
def test_nothing_makes_it_fail_and_no_marker_is_ever_spoken(tokens: list[int]) -> None:
    events = read(tokens)
    assert all(token < MARKED[0] for token in spoken(events))
    assert all(event.text and event.ids for event in events if isinstance(event, Speak))
    assert sum(isinstance(event, End) for event in events) <= 1
