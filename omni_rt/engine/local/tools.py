"""Tool calls in the form that Qwen2.5 was taught: how tools are told, what may be written, what was called."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from omni_rt.engine.api import EngineError, Tool, ToolCall
from omni_rt.engine.schema.shapes import SchemaRefused
from omni_rt.engine.tool_schema import UnenforceableTool, enforced_parameters, parameters

# Name and arguments, as JSON text.
Call = tuple[str, str]

_TOLD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>

Write such a block, and nothing else, whenever the user wants something that one of the functions does. Everything else
you answer yourself in plain words."""

# The model often leaves the tags out or fences the call like code; all three are taken. Speech holds none of the signs
# that a call begins with.
_GRAMMAR = """%llguidance {{}}
start: {start}
say: /[^<{{`]+/
call: tagged | fenced | bare
tagged: "<tool_call>" "\\n"? bare "</tool_call>" "\\n"?
fenced: "```json\\n" bare "```" "\\n"?
bare: body "\\n"?
body: %json {schema}
"""
_SPEECH_ONLY = "%llguidance {}\nstart: /[^<{`]*/\n"
_PROBE = """%llguidance {{}}
start: "{sign}" body
body: %json {schema}
"""
PROBE_SIGN = "@"
# As json.dumps writes, which is how the model was taught; no space that nothing ends.
_SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_CALLS = "call call? call? call?"
_CALL_SIGNS = "<{`"

# How the model begins when it explains a call instead of making it.
_EXPLAINING = re.compile(
    r"\s*(?:to|you (?:can|could|would|need)|i (?:will|can|need)|i'll|let me|use|call|the tool)\b", re.I
)
_LONGEST_BEGINNING = len("you would ")
_SENTENCE_END = re.compile(r"[.!?]\s|\n")


def tools_text(tools: Sequence[Tool]) -> str:
    """What the system prompt says about `tools`."""
    return _TOLD.format("\n".join(json.dumps({"type": "function", "function": _signature(tool)}) for tool in tools))


def grammar(tools: Sequence[Tool], choice: str) -> str:
    """The grammar of a reply; "" for free text. `choice` as in RespondOptions. Raises EngineError."""
    if not tools:
        if choice in ("auto", "none"):
            return ""
        raise EngineError("no_tools", f"tool_choice {choice!r} needs tools, and the session has none")
    if choice == "none":
        return _SPEECH_ONLY
    called = [tool for tool in tools if choice in ("auto", "required", tool.name)]
    if not called:
        names = ", ".join(tool.name for tool in tools)
        raise EngineError("unknown_tool", f"tool_choice names {choice!r}; there are: auto, none, required, {names}")
    start = {"auto": f"say | {_CALLS}", "required": _CALLS}.get(choice, "call")
    return _GRAMMAR.format(start=start, schema=_schema(called))


def probe(tool: Tool) -> str:
    """A grammar that makes the model begin with PROBE_SIGN, if the tool's schema can be enforced."""
    return _PROBE.format(sign=PROBE_SIGN, schema=_schema([tool]))


def call_text(call: ToolCall) -> str:
    """A call as the model writes it."""
    return f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'


def called(call: ToolCall) -> Call:
    """A call in the form in which the model's calls are compared. Raises ValueError for arguments that are no JSON."""
    return call.name, _plain(json.loads(call.arguments or "{}"), call.arguments)


def result_text(output: str) -> str:
    return f"<tool_response>\n{output}\n</tool_response>"


@dataclass(slots=True)
class CallReader:
    """Parts what a model that has tools writes into speech and calls.

    `explained` is the tool that it talks about by name instead of calling it; while `watching`, a beginning that may
    lead there is held back until it is clear. `repeated` is set when its first call is one of those it has `answered`
    already. `calling` is set from where calls begin.
    """

    tools: Sequence[Tool]
    answered: Collection[Call] = ()
    watching: bool = True
    calls: list[Call] = field(default_factory=list)
    explained: str = ""
    repeated: bool = False
    calling: bool = False
    _held: str = ""
    _rest: str = ""

    def feed(self, text: str) -> str:
        """The speech that is clear by now; complete calls are added to `calls` as name and JSON arguments."""
        if not self.tools:
            return text
        speech = ""
        if not self.calling:
            at = next((index for index, sign in enumerate(text) if sign in _CALL_SIGNS), len(text))
            speech, text = text[:at], text[at:]
            self.calling = bool(text)
        self._rest += text
        while (call := self._take_call()) is not None:
            if call not in (*self.calls, *self.answered):
                self.calls.append(call)
            elif not self.calls:
                self.repeated = True
        return self._release(speech)

    def flush(self) -> str:
        """The speech that was held back."""
        held, self._held = self._held, ""
        self.watching = False
        return held

    def _release(self, speech: str) -> str:
        if not self.watching:
            return speech
        self._held += speech
        self.explained = next((tool.name for tool in self.tools if tool.name in self._held), "")
        beginning = self._held.lstrip()
        unclear = len(beginning) < _LONGEST_BEGINNING or _EXPLAINING.match(beginning)
        if self.explained or (unclear and not _SENTENCE_END.search(beginning)):
            return ""
        return self.flush()

    @property
    def unfinished(self) -> bool:
        """Whether a call has begun and none came of it."""
        return self.calling and ("{" in self._rest or not self.calls)

    def _take_call(self) -> Call | None:
        start = self._rest.find("{")
        head = _HEAD.match(self._rest, start) if start >= 0 else None
        if head is None:
            return None
        try:
            arguments, end = json.JSONDecoder().raw_decode(self._rest, head.end())
        except ValueError:
            return None
        whole = _TAIL.match(self._rest, end)
        if whole is None:
            return None
        name, text = json.loads(head.group(1)), self._rest[head.end() : end]
        self._rest = self._rest[whole.end() :]
        if name not in {tool.name for tool in self.tools} or not isinstance(arguments, dict):
            # only a schema that the grammar engine refused lets this be written
            raise EngineError("bad_tool", f"the model's call of {name!r} fits none of the tools' schemas: {text[:200]}")
        return name, _plain(arguments, text)


_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
_TAIL = re.compile(r"\s*\}")


def _schema(tools: Sequence[Tool]) -> str:
    """Of a call of one of `tools`. Raises EngineError for one whose parameters no grammar can be made of."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for number, tool in enumerate(tools):
        try:
            arguments, defined = enforced_parameters(tool, f"{number}.")
        except SchemaRefused as error:
            raise UnenforceableTool(number, tool, error) from error
        definitions |= defined
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return json.dumps({"x-guidance": _SPACES, "anyOf": calls, "$defs": definitions})


def _plain(arguments: Any, text: str) -> str:
    """The same text for the same arguments, or `text` for numbers that Python cannot hold."""
    try:
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return text


def _signature(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": parameters(tool)}
