"""Conversations in ChatML, as the thinker was trained on them: token ids for turns, media, tools and their results.

Only this module places markers; whatever people, tools and settings say is encoded as plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from omni_rt.engine.api import EngineError, RespondOptions, Role, Tool
from omni_rt.engine.qwen3_omni.tokenizer import MARKERS, Tokenizer
from omni_rt.engine.tool_schema import check_tools, parameters

Ids = tuple[int, ...]

# The wording that tool calls were trained with: data of the chat template published with Qwen3 (Apache-2.0).
_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_MARKER = re.compile(f"({'|'.join(map(re.escape, MARKERS))})")

_TRANSCRIBE = (
    "Write down, word for word and in the language that was spoken, what I have just said. Write nothing else: no "
    "answer, no comment, no translation."
)


class Prompt:
    """Pieces of a conversation as token ids. Pure: the same arguments give the same ids.

    `*_open` and `*_close` stand around content that comes in parts; the ids of a turn end with its newline.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        start, end = MARKERS["<|im_start|>"], MARKERS["<|im_end|>"]
        vision, vision_end = MARKERS["<|vision_start|>"], MARKERS["<|vision_end|>"]
        audio, audio_end = MARKERS["<|audio_start|>"], MARKERS["<|audio_end|>"]
        self.user_open: Ids = self._ids(start, "user\n")
        self.user_close: Ids = self._ids(end, "\n")
        self.assistant_open: Ids = self._ids(start, "assistant\n")
        self.assistant_close: Ids = self.user_close
        self.audio_open: Ids = (audio,)
        self.audio_close: Ids = (audio_end,)
        self.vision_open: Ids = (vision,)
        self.vision_close: Ids = (vision_end,)
        self.av_open: Ids = (vision, audio)
        self.av_close: Ids = (audio_end, vision_end)
        # in a user turn whose audio is closed: asks for its words, and opens the answer
        self.transcription: Ids = (*self.text(_TRANSCRIBE), *self.user_close, *self.assistant_open)

    def text(self, text: str) -> Ids:
        """Plain text inside a turn."""
        return self._ids(text)

    def turn(self, role: Role, text: str) -> Ids:
        """A whole written turn."""
        return self._turn(role, text)

    def system(self, instructions: str, tools: Sequence[Tool] = ()) -> Ids:
        """The system turn; nothing where there is nothing to say. Raises EngineError `tool_schema`."""
        check_tools(tools)
        said = instructions if instructions.strip() else ""
        if not tools:
            return self._turn("system", said) if said else ()
        signatures = (
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": parameters(tool)},
            }
            for tool in tools
        )
        lines = "".join("\n" + json.dumps(signature, ensure_ascii=False) for signature in signatures)
        gap = "\n\n" if said else ""
        return self._turn("system", said + gap, _TOOLS_BEFORE, lines, *_marked(_TOOLS_AFTER))

    def tool_result(self, *outputs: str) -> Ids:
        """A whole user turn with what the calls of one reply gave, in their order."""
        opening, closing = MARKERS["<tool_response>"], MARKERS["</tool_response>"]
        parts: list[str | int] = []
        for output in outputs:
            parts += ["\n"] if parts else []
            parts += [opening, f"\n{output}\n", closing]
        return self._turn("user", *parts)

    def tool_call(self, name: str, arguments: str) -> Ids:
        """A whole assistant turn that is one call; `arguments` is JSON text."""
        return (*self.assistant_open, *self.call(name, arguments), *self.assistant_close)

    def call(self, name: str, arguments: str) -> Ids:
        """One call inside an assistant turn."""
        call = f'\n{{"name": {_quoted(name)}, "arguments": {arguments.strip() or "{}"}}}\n'
        return self._ids(MARKERS["<tool_call>"], call, MARKERS["</tool_call>"])

    def turn_with_call(self, turn: Sequence[int], name: str, arguments: str) -> Ids:
        """All of an assistant's turn, which may be empty, with one more call at its end."""
        said: Ids = ()
        if turn:
            said = (*turn[len(self.assistant_open) : -len(self.assistant_close)], *self.text("\n"))
        return (*self.assistant_open, *said, *self.call(name, arguments), *self.assistant_close)

    def forced_prefix(self, choice: str, tools: Sequence[Tool]) -> Ids:
        """What a reply begins with, given to the model instead of sampled, so that it makes the chosen call.

        It ends where the model's own tokens would end too. Nothing for `auto` and `none`; raises EngineError `no_tools`
        or `unknown_tool`. The reader of the reply must read the prefix as well.
        """
        _check_choice(choice, tools)
        if choice in ("auto", "none"):
            return ()
        name = "" if choice == "required" else f' {_quoted(choice)}, "arguments":'
        return self._ids(MARKERS["<tool_call>"], f'\n{{"name":{name}')

    def check_choice(self, options: RespondOptions) -> None:
        """Raises EngineError for tools of one reply that are none, or a choice of a tool that is not among them."""
        if options.tools is not None:
            check_tools(options.tools)
            _check_choice(options.tool_choice, options.tools)

    def _turn(self, role: Role, *parts: str | int) -> Ids:
        return self._ids(MARKERS["<|im_start|>"], f"{role}\n", *parts, MARKERS["<|im_end|>"], "\n")

    def _ids(self, *parts: str | int) -> Ids:
        """Markers as they are; the text between two of them is encoded as one, as the words of a whole are."""
        ids: list[int] = []
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
            else:
                ids += [*self._tokenizer.encode(text), part]
                text = ""
        return (*ids, *self._tokenizer.encode(text))


def _marked(text: str) -> list[str | int]:
    """Text of ours in which markers stand for themselves."""
    return [MARKERS.get(part, part) for part in _MARKER.split(text)]


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _check_choice(choice: str, tools: Sequence[Tool]) -> None:
    if choice in ("auto", "none"):
        return
    if not tools:
        raise EngineError("no_tools", f"tool_choice {choice!r} needs tools, and there are none")
    if choice != "required" and choice not in (names := [tool.name for tool in tools]):
        raise EngineError(
            "unknown_tool", f"tool_choice names {choice!r}; there are: auto, none, required, {', '.join(names)}"
        )
