"""The words around a conversation: what the model is told about itself, its tools and what the camera sees."""

from __future__ import annotations

from collections.abc import Sequence

from omni_rt.engine.api import EngineError, RespondOptions, SessionSettings, Tool
from omni_rt.engine.local.chat import ChatModel
from omni_rt.engine.local.context import Marks
from omni_rt.engine.local.tools import tools_text

BASE = (
    "You are Omni, a friendly voice assistant on the user's own computer. You hear the user and your answers are "
    "spoken aloud, so use one or two short, plain sentences: no lists, no markdown, no emoji, and no code unless you "
    "are asked for code. The user's words come from speech recognition and may hold small mistakes. Lines in brackets "
    "tell what the camera sees right now; use them only when they matter. You do not know the time, the weather or "
    "the news."
)


def system_text(instructions: str, tools: Sequence[Tool]) -> str:
    return "\n\n".join(part for part in (BASE, instructions.strip(), tools_text(tools) if tools else "") if part)


def override_text(options: RespondOptions, settings: SessionSettings) -> str:
    """What one reply is told beside the system prompt; "" if nothing is different for it."""
    instructions = options.instructions or ""
    tools = options.tools or ()
    parts = (
        instructions.strip() if instructions != settings.instructions else "",
        tools_text(tools) if tools and tools != settings.tools else "",
    )
    return "\n\n".join(part for part in parts if part)


def user_text(scene: str, text: str) -> str:
    """What was said, behind what the camera showed meanwhile; without a last comma or full stop, which the recogniser
    only guesses, and which would be one more token to read before an answer."""
    if text.endswith((",", ".")) and not text.endswith(".."):
        text = text[:-1]
    return f"[{scene}]\n{text}" if scene else text


# What the recogniser puts after the last word.
_PUNCTUATION = (".", "?", "!", ",", ";", ":", "-", "...", "…")


async def read_marks(chat: ChatModel) -> Marks:
    """Raises EngineError when the model does not know ChatML."""

    async def marks(text: str) -> tuple[int, ...]:
        return tuple(await chat.tokenise(text, marks=True))

    if len(await marks("<|im_start|>")) != 1 or len(await marks("<|im_end|>")) != 1:
        raise EngineError(
            "bad_chat_model", f"{chat.path} was not taught ChatML (<|im_start|>, <|im_end|>); take a model that was"
        )
    return Marks(
        system=await marks("<|im_start|>system\n"),
        user=await marks("<|im_start|>user\n"),
        assistant=await marks("<|im_start|>assistant\n"),
        end=await marks("<|im_end|>\n"),
        newline=await marks("\n"),
        punctuation=frozenset([token for mark in _PUNCTUATION for token in await marks(mark)]),
    )
