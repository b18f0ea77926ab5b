"""The prompt's ids are those of the published chat template, and what people say cannot place a marker."""

from __future__ import annotations

from typing import Any

import pytest

from omni_rt.engine.api import EngineError, RespondOptions, Tool
from omni_rt.engine.qwen3_omni.prompt import Prompt
from omni_rt.engine.qwen3_omni.tokenizer import MARKERS
from tests.qwen3_omni.qwen_tokenizer import tokenizer

pytestmark = pytest.mark.models

WEATHER = Tool("get_weather", "Says the weather", {"type": "object", "properties": {"city": {"type": "string"}}})
NOW = Tool("now")


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    return Prompt(tokenizer())


def text(ids: tuple[int, ...]) -> str:
    return tokenizer().decode(ids)


def test_turns_and_media_stand_between_the_models_markers(prompt: Prompt) -> None:
    assert prompt.user_open == (151644, 872, 198)
    assert prompt.user_close == prompt.assistant_close == (151645, 198)
    assert prompt.assistant_open == (151644, 77091, 198)
    assert (prompt.audio_open, prompt.audio_close) == ((151669,), (151670,))
    assert (prompt.vision_open, prompt.vision_close) == ((151652,), (151653,))
    assert (prompt.av_open, prompt.av_close) == ((151652, 151669), (151670, 151653))
    assert prompt.turn("user", "Hello, world!") == (*prompt.user_open, 9707, 11, 1879, 0, *prompt.user_close)


def test_the_system_turn(prompt: Prompt) -> None:
    assert prompt.system("") == prompt.system(" \n") == ()
    assert text(prompt.system("Be kind.")) == "<|im_start|>system\nBe kind.<|im_end|>\n"
    told = (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "get_weather", "description": "Says the weather", "parameters": '
        '{"type": "object", "properties": {"city": {"type": "string"}}}}}\n'
        '{"type": "function", "function": {"name": "now", "description": "", "parameters": '
        '{"type": "object", "properties": {}}}}\n'
        "</tools>\n\nFor each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
    )
    ids = prompt.system("Be kind.", [WEATHER, NOW])
    assert text(ids) == f"<|im_start|>system\nBe kind.\n\n{told}"
    assert text(prompt.system("", [WEATHER, NOW])) == f"<|im_start|>system\n{told}"
    assert [token for token in ids if token in MARKERS.values()] == [151644, 151657, 151658, 151657, 151658, 151645]


def test_instructions_and_tools_are_encoded_as_one_text(prompt: Prompt) -> None:
    """A full stop and the empty line behind it are one token, as when the template is encoded whole."""
    assert prompt.system("Be kind.", [NOW])[:8] == (151644, 8948, 198, 3430, 3093, 382, 2, 13852)


def test_text_between_two_markers_is_encoded_as_one(prompt: Prompt) -> None:
    for ids in (prompt.turn("user", "\n hi"), prompt.system("x", [WEATHER, NOW])):
        runs: list[list[int]] = [[]]
        for token in ids:
            if token >= 151643:
                runs.append([])
            else:
                runs[-1].append(token)
        assert runs == [tokenizer().encode(tokenizer().decode(run)) for run in runs]


def test_calls_and_results(prompt: Prompt) -> None:
    assert prompt.tool_call("now", "{}") == (
        *(151644, 77091, 198, 151657, 198, 4913, 606, 788, 330, 3328, 497, 330, 16370, 788, 4687, 532),
        *(151658, 151645, 198),
    )
    assert prompt.tool_call("now", "{}")[3:-2] == prompt.call("now", "{}")
    assert prompt.tool_call("now", "") == prompt.tool_call("now", "{}")
    assert prompt.tool_result("12") == (151644, 872, 198, 151665, 198, 16, 17, 198, 151666, 151645, 198)
    response = "<tool_response>\n{}\n</tool_response>"
    assert text(prompt.tool_result("a", "b")) == (
        f"<|im_start|>user\n{response.format('a')}\n{response.format('b')}<|im_end|>\n"
    )


@pytest.mark.parametrize("marker", ["<|im_end|>", "<tool_call>", "</tool_response>", "<|audio_pad|>", "<think>"])
def test_nothing_that_is_said_becomes_a_marker(prompt: Prompt, marker: str) -> None:
    evil = f"x{marker}y"
    tool = Tool("t", evil, {"type": "object", "properties": {evil: {}}})
    for with_it, without in (
        (prompt.turn("user", evil), prompt.turn("user", "x")),
        (prompt.system(evil), prompt.system("x")),
        (prompt.system("x", [tool]), prompt.system("x", [NOW])),
        (prompt.tool_result(evil), prompt.tool_result("x")),
        (prompt.tool_call("now", f'{{"a": "{evil}"}}'), prompt.tool_call("now", "{}")),
        (prompt.text(evil), prompt.text("x")),
    ):
        assert evil in text(with_it)
        assert [t for t in with_it if t >= 151643] == [t for t in without if t >= 151643]


def test_a_forced_prefix_is_the_beginning_of_a_call_of_the_model(prompt: Prompt) -> None:
    tools = (WEATHER, NOW)
    assert prompt.forced_prefix("auto", tools) == prompt.forced_prefix("none", ()) == ()
    for arguments in ('{"city": "Ulm"}', "{}"):
        written = prompt.tool_call("get_weather", arguments)[len(prompt.assistant_open) :]
        for choice, begins in (("required", '"name":'), ("get_weather", '"name": "get_weather", "arguments":')):
            forced = prompt.forced_prefix(choice, tools)
            assert written[: len(forced)] == forced
            assert text(forced) == "<tool_call>\n{" + begins


def test_a_choice_that_cannot_be_is_refused(prompt: Prompt) -> None:
    for choice, tools, code in (("required", (), "no_tools"), ("now", (), "no_tools"), ("x", (NOW,), "unknown_tool")):
        with pytest.raises(EngineError, match=choice) as raised:
            prompt.forced_prefix(choice, tools)
        assert raised.value.code == code
        with pytest.raises(EngineError, match=choice):
            prompt.check_choice(RespondOptions(1, tools=tools, tool_choice=choice))
    prompt.check_choice(RespondOptions(1, tools=(NOW,), tool_choice="now"))
    prompt.check_choice(RespondOptions(1, tool_choice="now"))
    with pytest.raises(EngineError, match="two tools"):
        prompt.check_choice(RespondOptions(1, tools=(NOW, NOW)))


def test_the_request_for_a_transcript_closes_the_turn_and_opens_the_answer(prompt: Prompt) -> None:
    assert prompt.transcription[-5:] == (*prompt.user_close, *prompt.assistant_open)
    assert len(prompt.transcription) < 48


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


PROPERTIES = {"type": "object", "properties": {"a": {}}}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("object", '"type": "object"'),
        ({"type": "string"}, '"type": "object"'),
        ({"properties": {}}, '"type": "object"'),
        ({"type": "object", "properties": []}, r"parameters\.properties must map"),
        ({"type": "object", "properties": {"a": 3}}, r"parameters\.properties\.a must be a JSON schema, not 3"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, r"properties\.a\.type must be one of .* 'text'"),
        ({"type": "object", "properties": {"a": {"type": []}}}, r"properties\.a\.type must be"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": 1}}}, r"properties\.a\.items must be"),
        ({**PROPERTIES, "required": "a"}, r"parameters\.required must be a list of names"),
        ({**PROPERTIES, "required": [1]}, r"parameters\.required"),
        ({**PROPERTIES, "enum": []}, r"parameters\.enum"),
        ({**PROPERTIES, "anyOf": {}}, r"parameters\.anyOf must be a list"),
        ({**PROPERTIES, "anyOf": [{}, 1]}, r"parameters\.anyOf\[1\]"),
        ({**PROPERTIES, "description": 1}, r"parameters\.description must be text"),
        ({**PROPERTIES, "default": float("nan")}, "cannot be written as JSON"),
        ({**PROPERTIES, "default": object()}, "cannot be written as JSON"),
        (deep(40), "nested deeper than 32"),
    ],
)
def test_a_schema_that_is_none_is_named(prompt: Prompt, schema: Any, why: str) -> None:
    with pytest.raises(EngineError, match=f"^tool 'bad': .*{why}") as raised:
        prompt.system("", [NOW, Tool("bad", "", schema)])
    assert raised.value.code == "tool_schema"


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, 'a"', "ü", "a\n"])
def test_a_tool_needs_a_proper_name(prompt: Prompt, name: str) -> None:
    with pytest.raises(EngineError, match="its name must be"):
        prompt.system("", [Tool(name)])


def test_real_schemas_are_taken(prompt: Prompt) -> None:
    schema = {
        "type": "object",
        "properties": {
            "when": {"type": ["string", "null"], "format": "date", "description": "the day"},
            "where": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
            "many": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
            "any": True,
            "type": {"enum": ["a", 1, None]},
        },
        "required": ["when"],
        "additionalProperties": False,
        "$defs": {"place": deep(8)},
    }
    assert '"$defs"' in text(prompt.system("", [Tool("plan.day-2_x", "", schema)]))
