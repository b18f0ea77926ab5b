"""What a `response.create` may set for one reply, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from omni_rt.engine.api import Capabilities, RespondOptions
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.hints import Prompt, Reasoning
from omni_rt.realtime.item_models import InputItem
from omni_rt.realtime.settings import (
    AudioFormat,
    FunctionChoice,
    FunctionTool,
    PcmFormat,
    ToolChoice,
    VoiceId,
    WireModel,
    WireSession,
    check_tool_set,
    check_voice,
    refuse_on_track,
    tools_of,
    voice_id,
)

MAX_INPUT_ITEMS = 256


class ResponseAudioOutput(WireModel):
    format: AudioFormat | None = None
    voice: str | VoiceId | None = None


class ResponseAudio(WireModel):
    output: ResponseAudioOutput | None = None


class ResponseParams(WireModel):
    """What is None holds as the session has it. `conversation` "none" is a reply out of band."""

    instructions: str | None = Field(None, max_length=100_000)
    output_modalities: tuple[Literal["audio", "text"], ...] | None = Field(None, min_length=1, max_length=1)
    tools: tuple[FunctionTool, ...] | None = None
    tool_choice: ToolChoice | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] | Literal["inf"] | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    conversation: Literal["auto", "none"] | None = None
    input: tuple[InputItem, ...] | None = Field(None, max_length=MAX_INPUT_ITEMS)
    audio: ResponseAudio | None = None
    parallel_tool_calls: bool | None = None
    prompt: Prompt | None = None
    reasoning: Reasoning | None = None

    @property
    def out_of_band(self) -> bool:
        return self.conversation == "none"

    @property
    def voice(self) -> str | None:
        named = self.audio.output.voice if self.audio and self.audio.output else None
        return None if named is None else voice_id(named)

    @property
    def format(self) -> AudioFormat | None:
        return self.audio.output.format if self.audio and self.audio.output else None

    def check(self, session: WireSession, capabilities: Capabilities, has_track: bool) -> None:
        """Raises WireError naming the parameter that this reply cannot have. `has_track`: audio is not in events."""
        if self.voice is not None:
            check_voice(self.voice, capabilities, "response.audio.output.voice")
        if self.tools:
            check_tool_set(self.tools, capabilities, "response.tools")
        if has_track and self.format is not None and not isinstance(self.format, PcmFormat):
            refuse_on_track("response.audio.output.format")
        if self.out_of_band:
            if has_track and self.over(session).speaks:
                raise WireError(
                    "unsupported",
                    "Over WebRTC a response out of band can be text only, as the call's one track belongs to the "
                    "conversation: set 'response.output_modalities' to [\"text\"].",
                    "response.output_modalities",
                )
            return
        if self.input is not None:
            raise WireError(
                "unsupported",
                "A response has its own input only out of band: set 'response.conversation' to \"none\", or add the "
                "items to the conversation.",
                "response.input",
            )
        if self.voice is not None and self.voice != session.voice:
            raise WireError(
                "cannot_update_voice",
                "A response in the conversation speaks with the session's voice; session.update sets it.",
                "response.audio.output.voice",
            )

    def over(self, session: WireSession) -> WireSession:
        """The session's settings as they hold for this reply."""
        output: Mapping[str, Any] = {"format": self.format, "voice": self.voice}
        changed = session.audio.output.model_copy(update={k: v for k, v in output.items() if v is not None})
        own = {
            "instructions": self.instructions,
            "output_modalities": self.output_modalities,
            "tools": self.tools,
            "tool_choice": self.tool_choice,
            "max_output_tokens": self.max_output_tokens,
            "audio": session.audio.model_copy(update={"output": changed}),
        }
        return session.model_copy(update={k: v for k, v in own.items() if v is not None})

    def options(self, generation: int, session: WireSession) -> RespondOptions:
        """What the engine is asked for."""
        whole = self.over(session)
        choice = whole.tool_choice
        return RespondOptions(
            generation=generation,
            audio=whole.speaks,
            instructions=self.instructions,
            tools=None if self.tools is None else tools_of(self.tools),
            tool_choice=choice.name if isinstance(choice, FunctionChoice) else choice,
            max_tokens=whole.max_tokens,
        )
