"""The session object of the protocol: what clients may set, how an update merges, how it is echoed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
)

from omni_rt.engine.api import Capabilities, EngineError, Tool
from omni_rt.engine.tool_schema import UnenforceableTool, check_enforceable, check_tools
from omni_rt.media.tempo import FASTEST, SLOWEST
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.hints import NoiseReduction, Prompt, Reasoning, Tracing, Transcription


class WireModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PcmFormat(WireModel):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class PcmuFormat(WireModel):
    """G.711 µ-law, 8 kHz."""

    type: Literal["audio/pcmu"] = "audio/pcmu"


class PcmaFormat(WireModel):
    """G.711 A-law, 8 kHz."""

    type: Literal["audio/pcma"] = "audio/pcma"


def _format_tag(value: Any) -> Any:
    """A format that does not say its type is PCM."""
    return value.get("type", "audio/pcm") if isinstance(value, dict) else getattr(value, "type", None)


AudioFormat = Annotated[
    Annotated[PcmFormat, Tag("audio/pcm")]
    | Annotated[PcmuFormat, Tag("audio/pcmu")]
    | Annotated[PcmaFormat, Tag("audio/pcma")],
    Discriminator(_format_tag),
]


class ServerVad(WireModel):
    type: Literal["server_vad"] = "server_vad"
    threshold: float | None = Field(None, ge=0.0, le=1.0)
    prefix_padding_ms: int | None = Field(None, ge=0, le=2000)
    silence_duration_ms: int = Field(500, ge=0, le=10_000)
    idle_timeout_ms: int | None = Field(None, ge=5000, le=30_000)
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(WireModel):
    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]


class InputAudio(WireModel):
    format: AudioFormat = PcmFormat()
    transcription: Transcription | None = Transcription()
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = SemanticVad()


class VoiceId(WireModel):
    id: str


class OutputAudio(WireModel):
    format: AudioFormat = PcmFormat()
    voice: str | VoiceId = ""
    speed: float = Field(1.0, ge=SLOWEST, le=FASTEST)


class Audio(WireModel):
    input: InputAudio = InputAudio()
    output: OutputAudio = OutputAudio()


class FunctionTool(WireModel):
    type: Literal["function"] = "function"

    @field_validator("type", mode="before")
    @classmethod
    def _no_mcp(cls, kind: Any) -> Any:
        if kind == "mcp":
            raise ValueError("remote MCP tools are not served here; give functions, and call MCP from the client")
        return kind

    name: str = Field(min_length=1, max_length=128)
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class FunctionChoice(WireModel):
    type: Literal["function"] = "function"
    name: str


ToolChoice = Literal["auto", "none", "required"] | FunctionChoice


class TokenLimits(WireModel):
    post_instructions: int | None = Field(None, ge=0)


class RetentionRatio(WireModel):
    """When the conversation is too long, keep this share of what may be in it."""

    type: Literal["retention_ratio"]
    retention_ratio: float = Field(ge=0.0, le=1.0)
    token_limits: TokenLimits | None = None


class WireSession(WireModel):
    """A `realtime` session, whole. Every default is the server's."""

    type: Literal["realtime"] = "realtime"
    object: Literal["realtime.session"] = "realtime.session"
    id: str = ""
    model: str = ""
    instructions: str = Field("", max_length=100_000)
    output_modalities: tuple[Literal["audio", "text"], ...] = Field(("audio",), min_length=1, max_length=1)
    audio: Audio = Audio()
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: ToolChoice = "auto"
    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] | Literal["inf"] = "inf"
    truncation: Literal["auto", "disabled"] | RetentionRatio = "auto"
    include: tuple[Literal["item.input_audio_transcription.logprobs"], ...] | None = None
    tracing: Literal["auto"] | Tracing | None = None
    prompt: Prompt | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None

    @property
    def voice(self) -> str:
        return voice_id(self.audio.output.voice)

    @property
    def speaks(self) -> bool:
        return self.output_modalities == ("audio",)

    @property
    def max_tokens(self) -> int | None:
        return None if self.max_output_tokens == "inf" else self.max_output_tokens

    def echo(self) -> dict[str, Any]:
        """The object as `session.created` and `session.updated` carry it."""
        return self.model_dump(mode="json")


# These are replaced as a whole by an update; every other object merges field by field.
REPLACED = {
    *("audio.input.format", "audio.input.turn_detection", "audio.input.transcription", "audio.input.noise_reduction"),
    *("audio.output.format", "audio.output.voice", "tool_choice", "truncation", "tracing", "prompt", "reasoning"),
}
SERVER_OWNED = ("id", "object", "expires_at")
# What a validation error's path names beside fields: the member of a union that was tried.
UNION_TAGS: set[str | int] = {
    *("audio/pcm", "audio/pcmu", "audio/pcma"),
    *("server_vad", "semantic_vad", "function", "FunctionChoice", "RetentionRatio", "Tracing", "InputText", "VoiceId"),
    *("message", "function_call", "function_call_output", "item_reference"),
    *("input_text", "input_audio", "input_image", "output_text", "output_audio", "text"),
    *("str", "int", "bool", "float"),
}


# As much as of instructions.
MAX_TOOLS_SIZE = 100_000

# Clients name one of these even where their user has not.
OPENAI_VOICES = {"alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"}


def merge(current: WireSession, update: Mapping[str, Any], capabilities: Capabilities) -> WireSession:
    """The session after a client's `session.update`: what it omits stays, null clears. Raises WireError.

    For a voice of OpenAI's that the engine does not have, the engine's own speaks.
    """
    if update.get("type", "realtime") != "realtime":
        raise WireError("invalid_value", "Only sessions of type 'realtime' are served here.", "session.type")
    update = {key: value for key, value in update.items() if key not in SERVER_OWNED}
    merged = _merge(current.model_dump(), update, "")
    try:
        session = WireSession.model_validate(merged)
    except ValidationError as error:
        raise wire_error(error, "session") from error
    if session.voice in OPENAI_VOICES and session.voice not in capabilities.voices:
        session = _in_own_voice(session)
    _check(session, capabilities)
    return session


def _in_own_voice(session: WireSession) -> WireSession:
    output = session.audio.output.model_copy(update={"voice": ""})
    return session.model_copy(update={"audio": session.audio.model_copy(update={"output": output})})


def _merge(current: dict[str, Any], update: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(current)
    for key, value in update.items():
        here = f"{path}.{key}" if path else key
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and here not in REPLACED:
            merged[key] = _merge(old, value, here)
        elif value is None and key in WireSession.model_fields and path == "":
            merged[key] = WireSession.model_fields[key].get_default(call_default_factory=True)
        else:
            merged[key] = value
    return merged


def check_track_formats(session: WireSession) -> None:
    """On WebRTC audio travels on tracks, as Opus. Raises WireError for a format that only events can carry."""
    for side, audio in (("input", session.audio.input), ("output", session.audio.output)):
        if not isinstance(audio.format, PcmFormat):
            refuse_on_track(f"session.audio.{side}.format")


def refuse_on_track(param: str) -> NoReturn:
    raise WireError(
        "unsupported", f"'{param}' can be set over WebSocket only; a WebRTC call negotiates its own codec.", param
    )


def _is_tag(part: str | int) -> bool:
    return part in UNION_TAGS or str(part).startswith(("constrained-", "literal[", "dict["))


def wire_error(error: ValidationError, root: str) -> WireError:
    """The first of a validation's faults that lie deepest, with the field's path as `param`."""
    found = [
        ([root, *(str(part) for part in fault["loc"] if not _is_tag(part))], fault)
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    parts, fault = max(found, key=lambda one: len(one[0]))
    path = ".".join(parts)
    if fault["type"] == "extra_forbidden":
        return WireError("unknown_parameter", f"Unknown parameter: '{path}'.", path)
    if fault["type"] == "missing":
        return WireError("missing_required_parameter", f"Missing required parameter: '{path}'.", path)
    message = str(fault["msg"]).removeprefix("Value error, ")
    return WireError("invalid_value", f"Invalid value for '{path}': {message}.", path)


def _check(session: WireSession, capabilities: Capabilities) -> None:
    if session.include:
        raise WireError("unsupported", "The engines give no log probabilities of transcripts.", "session.include")
    if session.voice:
        check_voice(session.voice, capabilities, "session.audio.output.voice")
    check_tool_set(session.tools, capabilities, "session.tools")


def voice_id(named: str | VoiceId) -> str:
    return named if isinstance(named, str) else named.id


def check_voice(voice: str, capabilities: Capabilities, param: str) -> None:
    """Raises WireError for a voice that the engine does not have."""
    if voice not in capabilities.voices:
        raise WireError(
            "invalid_value",
            f"There is no voice {voice!r} here; there are: {', '.join(capabilities.voices)}.",
            param,
        )


def check_tool_set(tools: tuple[FunctionTool, ...], capabilities: Capabilities, param: str) -> None:
    """Raises WireError for tools that cannot be called."""
    size = sum(len(tool.model_dump_json()) for tool in tools)
    if size > MAX_TOOLS_SIZE:
        raise WireError(
            "invalid_value", f"Tools may have {MAX_TOOLS_SIZE} bytes of JSON in all; these have {size}.", param
        )
    if tools and not capabilities.tools:
        raise WireError("unsupported", f"The engine {capabilities.name!r} cannot call tools.", param)
    try:
        check_tools(tools_of(tools))
        if capabilities.exact_tools:
            check_enforceable(tools_of(tools))
    except UnenforceableTool as error:
        raise WireError(error.code, f"{error}.", f"{param}.{error.number}.parameters") from error
    except EngineError as error:
        raise WireError(error.code, f"{error}.", param) from error


def tools_of(session_tools: tuple[FunctionTool, ...]) -> tuple[Tool, ...]:
    return tuple(Tool(tool.name, tool.description, tool.parameters) for tool in session_tools)
