"""The seam every engine implements: fed all the time, asked now and then.

Order is the contract. All calls on one EngineSession but `overhear` take effect in the order they were made; none of
the synchronous ones blocks for longer than it takes to queue the work. Audio in is 16 kHz mono int16, audio out 24 kHz
mono int16; pictures are uint8 RGB arrays of shape (height, width, 3). The engine never owns the conversation: whoever
holds the session can rebuild its context elsewhere with `restore`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

INPUT_RATE = 16_000
OUTPUT_RATE = 24_000

CLIP_MS = (100, 3000)
"""Shortest and longest clip that `overhear` takes."""

Pcm = npt.NDArray[np.int16]
Rgb = npt.NDArray[np.uint8]

Role = Literal["system", "user", "assistant"]
EndReason = Literal["completed", "max_tokens", "cancelled", "failed"]


class EngineError(Exception):
    """The engine refused or failed one request; the session goes on.

    `code` is a short machine-readable name, the message says the cause and the remedy.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SessionClosed(EngineError):
    """Code `session_closed`: what was asked of a session that is closed, or was closed before it was done."""

    def __init__(self) -> None:
        super().__init__("session_closed", "this session is closed; open another one")


class EngineLost(EngineError):
    """The engine's worker is gone with this session's state; rebuild it with `Engine.open` and `restore`."""

    def __init__(self, message: str) -> None:
        super().__init__("engine_lost", message)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; whatever is not listed is refused by name at the door.

    With `exact_tools` the arguments of every call fit the tool's schema, and a tool whose schema cannot be held to is
    refused. With `judges_endings` it tells an Ending of what it is to answer, where that is asked for. Without
    `transcribes` it writes down nothing of what the user says: that its transcripts are empty tells nothing.
    """

    name: str
    voices: tuple[str, ...]
    languages: tuple[str, ...]
    image_input: bool
    tools: bool
    context_tokens: int
    max_sessions: int
    overhears: bool = False
    judges_endings: bool = False
    transcribes: bool = True
    exact_tools: bool = False


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What holds for a whole conversation. An empty `voice` is the engine's first."""

    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    voice: str = ""
    language: str = ""
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class RespondOptions:
    """How to make one reply. `generation` numbers it within the session and comes back on every chunk.

    None means "as the session's settings say"; `max_tokens` None is the engine's own limit. `tool_choice` is `auto`,
    `none`, `required` or the name of one tool. Without `audio` no speech is made. With `judge_ending` it is told
    meanwhile whether the utterance that is answered is whole, by engines that can.
    """

    generation: int
    audio: bool = True
    instructions: str | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: str = "auto"
    max_tokens: int | None = None
    temperature: float | None = None
    judge_ending: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one reply. `evaluated_tokens` were computed between `respond` and the first text; the other input
    tokens were in the model's cache by then."""

    input_tokens: int = 0
    evaluated_tokens: int = 0
    output_tokens: int = 0
    output_audio_ms: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """24 kHz speech and the text it speaks. `text` of all audio chunks, joined, is the text of the reply."""

    generation: int
    pcm: Pcm
    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """One complete tool call; `arguments` is JSON text."""

    generation: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ReplyEnd:
    """The last chunk of every reply. `error` says why when `reason` is `failed`."""

    generation: int
    reason: EndReason
    usage: Usage = Usage()
    error: str = ""


Chunk = TextDelta | AudioDelta | CallDelta | ReplyEnd


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the engine understood of the user. `text` is the whole utterance so far and replaces what came before.

    While the utterance is open `item_id` is empty; the final one carries the id given to `commit`. `error` says why a
    final one has no text although something may have been said.
    """

    item_id: str
    text: str
    final: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How likely the words of a committed utterance, 0 to 1, end a sentence; None if that is not known, nor will be.

    Without `words` they are those of its final Transcript, and told after that.
    """

    item_id: str
    probability: float | None
    words: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ContextItem:
    """One item of a conversation, complete enough to rebuild a context from.

    A user item has `text` (written or transcribed), `audio` (16 kHz) and `images`; an assistant item has the text that
    was heard; a call has `call`; a tool's result has `result_of` (its call id) and `text`.
    """

    id: str
    role: Role
    text: str = ""
    audio: Pcm | None = None
    images: tuple[Rgb, ...] = ()
    call: ToolCall | None = None
    result_of: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a session's context; `serial` is unique within the session."""

    serial: int


class EngineListener(Protocol):
    """What an engine tells unasked. Called on the event loop; must not block."""

    def on_transcript(self, transcript: Transcript) -> None: ...

    def on_ending(self, ending: Ending) -> None: ...

    def on_error(self, error: EngineError) -> None:
        """A synchronous call failed after it returned (with a remote engine all failures do); the session goes on."""

    def on_lost(self, error: EngineLost) -> None: ...


class EngineSession(Protocol):
    """One conversation's state in an engine."""

    def configure(self, settings: SessionSettings) -> None:
        """Replace the settings; the changed prefix is prefilled at once, not at the next reply."""

    def append_audio(self, pcm: Pcm) -> None:
        """Add 16 kHz speech to the open utterance, opening one if there is none."""

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        """Show a picture seen at `at_ms` of session audio; a camera's newest frame replaces an unused older one."""

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        """Add a written item to the context."""

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        """Add the output of a tool call to the context."""

    def commit(self, item_id: str) -> None:
        """Close the open utterance as item `item_id`; its final Transcript follows (empty if nothing was said)."""

    def discard(self) -> None:
        """Forget the open utterance (a cough, `input_audio_buffer.clear`)."""

    def mark(self) -> Mark:
        """Name the present place in the context, including a still open utterance."""

    def rollback(self, mark: Mark) -> None:
        """Go back to `mark` in constant time; an utterance open at the mark is open again. Later marks are void."""

    def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        """Answer; the last chunk is a ReplyEnd, also when cancelled or failed. One reply at a time per session."""

    def cancel(self, generation: int) -> None:
        """Stop the reply; what it had written stays in the context until `keep_heard` or `rollback`."""

    def keep_heard(self, generation: int, audio_ms: int) -> Awaitable[str]:
        """Cut a reply in the context to its first `audio_ms` of audio (0: remove it); gives the text that remains.

        It takes its place in the order of calls when it is called, not when it is awaited.
        """

    def overhear(self, pcm: Pcm) -> Awaitable[str]:
        """The words of a clip that is no part of the conversation, 16 kHz, CLIP_MS long; empty when there are none.

        Nothing of the conversation changes, and a reply that is being made goes on. It is done at once, before all
        other work, and not in the order of the other calls. Everything that goes wrong is raised when awaited, as
        EngineError: `bad_clip`, `session_closed` (also when it is closed meanwhile), EngineLost.
        """

    def restore(self, items: Sequence[ContextItem]) -> None:
        """Make the context these items and nothing else, reusing the cache as far as it agrees."""

    def close(self) -> None:
        """Free everything; safe to call twice."""


class Engine(Protocol):
    """A loaded model that serves sessions."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def start(self) -> None:
        """Load and warm up. Raises EngineError with the cause and the remedy (missing file, too little memory)."""

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> EngineSession:
        """A new session with an empty context. Raises EngineError `busy` when `max_sessions` are open."""

    async def close(self) -> None: ...
