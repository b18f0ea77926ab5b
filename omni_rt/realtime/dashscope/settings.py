"""The session object of the DashScope dialect: what clients may set of it, as our own update, and how it is echoed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from omni_rt.realtime.errors import WireError
from omni_rt.realtime.hints import Transcription
from omni_rt.realtime.settings import WireModel, wire_error

INPUT_FORMATS = {"pcm": 16_000, "pcm16": 16_000, "pcm24": 24_000}
OUTPUT_FORMATS = {"pcm": 24_000, "pcm16": 24_000, "pcm24": 24_000}
"""Samples per second of each name; all are 16-bit mono."""

# What our detector can go by: it holds speech to be over at 0.15 below this.
LOWEST_THRESHOLD = 0.2
# The longest reply that our own sessions can be asked for; more is no limit.
LONGEST_REPLY = 4096

# Voices that the service has. A client names one even where its user has not.
VOICES = frozenset(
    (
        *("Aiden", "Alek", "Andre", "Arthur", "Bella", "Bellona", "Bodega", "Bunny", "Chelsie", "Cherry", "Dolce"),
        *("Dylan", "Ebona", "Eldric Sage", "Elias", "Emilien", "Eric", "Ethan", "Jada", "Jennifer", "Kai", "Katerina"),
        *("Kiki", "Lenn", "Li", "Maia", "Marcus", "Mia", "Mochi", "Momo", "Moon", "Neil", "Nini", "Nofish"),
        *("Ono Anna", "Peter", "Pip", "Radio Gol", "Rocky", "Roy", "Ryan", "Seren", "Serena", "Sohee", "Sonrisa"),
        *("Stella", "Sunny", "Tina", "Vincent", "Vivian"),
    )
)

Rate = Literal[8000, 16000, 24000, 48000]


def _as_served(modalities: tuple[str, ...]) -> tuple[str, ...]:
    if sorted(modalities) not in (["text"], ["audio", "text"]):
        raise ValueError('there are ["text"] and ["text", "audio"]')
    return modalities


Modalities = Annotated[tuple[Literal["text", "audio"], ...], AfterValidator(_as_served)]


class InputFormat(WireModel):
    type: Literal["pcm"] = "pcm"
    sample_rate: Rate = 16_000


class OutputFormat(WireModel):
    type: Literal["pcm"] = "pcm"
    sample_rate: Rate = 24_000


class AudioInput(WireModel):
    format: InputFormat | None = None


class AudioOutput(WireModel):
    format: OutputFormat | None = None


class Audio(WireModel):
    input: AudioInput | None = None
    output: AudioOutput | None = None


class TurnDetection(WireModel):
    """Of `semantic_vad` the last two mean something, the others are taken: the package sends them all."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = Field(0.5, ge=-1.0, le=1.0)
    prefix_padding_ms: int = Field(300, ge=0, le=2000)
    silence_duration_ms: int = Field(800, ge=200, le=6000)
    idle_timeout_ms: int | None = Field(None, ge=5000, le=30_000)
    create_response: bool = True
    interrupt_response: bool = True

    def ours(self) -> dict[str, Any]:
        answers = {"create_response": self.create_response, "interrupt_response": self.interrupt_response}
        if self.type == "semantic_vad":
            return {"type": self.type, **answers}
        return {
            "type": self.type,
            "threshold": max(self.threshold, LOWEST_THRESHOLD),
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms,
            "idle_timeout_ms": self.idle_timeout_ms,
            **answers,
        }


class VideoInput(WireModel):
    representation_compact: str | None = Field(None, max_length=100)


class Video(WireModel):
    input: VideoInput | None = None


class SessionUpdate(WireModel):
    """What a `session.update` may hold. What it omits stays; null clears, but for the voice, which then stays too."""

    id: str | None = None
    object: str | None = None
    model: str | None = None
    modalities: Modalities | None = None
    voice: str | None = None
    instructions: str | None = Field(None, max_length=100_000)
    input_audio_format: Literal["pcm", "pcm16", "pcm24"] | None = None
    output_audio_format: Literal["pcm", "pcm16", "pcm24"] | None = None
    sample_rate: Rate | None = None
    audio: Audio | None = None
    input_audio_transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    tool_choice: str | dict[str, Any] | None = None
    max_tokens: int | None = Field(None, ge=1)
    smooth_output: bool | None = None
    temperature: float | None = Field(None, ge=0.0, lt=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0.0)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    seed: int | None = Field(None, ge=-1, lt=2**31)
    video: Video | None = None
    enable_search: bool | None = None
    search_options: dict[str, Any] | None = None
    translation: dict[str, Any] | None = None


# Said back as the client said it: what means nothing here, and what our own session has no place for.
KEPT = (
    *("turn_detection", "max_tokens", "smooth_output", "temperature", "top_p", "top_k", "repetition_penalty"),
    *("presence_penalty", "seed", "video"),
)
REFUSED = {
    "enable_search": "nothing here searches the web",
    "search_options": "nothing here searches the web",
    "translation": "there is no model that only translates; say in 'session.instructions' what is wanted",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What holds for a session beside our own settings: the names and rates of its audio, and what is `KEPT`."""

    input_format: str = "pcm16"
    output_format: str = "pcm24"
    input_rate: int = INPUT_FORMATS["pcm16"]
    output_rate: int = OUTPUT_FORMATS["pcm24"]
    kept: Mapping[str, Any] = field(default_factory=dict)

    def updated(self, update: SessionUpdate) -> Dialect:
        """After this update; the newer way to name a format goes before the older one."""
        audio = update.audio or Audio()
        rates: dict[str, Any] = {}
        if name := update.input_audio_format:
            rates |= {"input_format": name, "input_rate": INPUT_FORMATS[name]}
        if name := update.output_audio_format:
            rates |= {"output_format": name, "output_rate": OUTPUT_FORMATS[name]}
        if update.sample_rate is not None:
            rates |= {"input_rate": update.sample_rate}
        if audio.input and audio.input.format:
            rates |= {"input_format": "pcm", "input_rate": audio.input.format.sample_rate}
        if audio.output and audio.output.format:
            rates |= {"output_format": "pcm", "output_rate": audio.output.format.sample_rate}
        given = update.model_dump(mode="json", include=set(KEPT) & update.model_fields_set)
        return replace(self, **rates, kept={**self.kept, **given})

    def echo(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """The session object of `session.created` and `session.updated`, from ours."""
        heard, spoken = ours["audio"]["input"], ours["audio"]["output"]
        return {
            "id": ours["id"],
            "object": "realtime.session",
            "model": ours["model"],
            "modalities": modalities(ours["output_modalities"]),
            "voice": spoken["voice"],
            "instructions": ours["instructions"],
            "input_audio_format": self.input_format,
            "output_audio_format": self.output_format,
            "audio": {
                "input": {"format": {"type": "pcm", "sample_rate": self.input_rate}},
                "output": {"format": {"type": "pcm", "sample_rate": self.output_rate}},
            },
            "input_audio_transcription": heard["transcription"],
            "turn_detection": heard["turn_detection"],
            "tools": [
                {"type": "function", "function": {name: tool[name] for name in ("name", "description", "parameters")}}
                for tool in ours["tools"]
            ],
            "tool_choice": ours["tool_choice"],
            **self.kept,
        }


def modalities(ours: list[str]) -> list[str]:
    """Who speaks writes too."""
    return ["text", "audio"] if "audio" in ours else ["text"]


def our_modalities(theirs: tuple[str, ...]) -> list[str]:
    return ["audio"] if "audio" in theirs else ["text"]


def read_update(session: Any) -> SessionUpdate:
    """Raises WireError naming what is wrong, or what cannot be had."""
    if not isinstance(session, dict):
        raise WireError("invalid_value", "'session' is an object.", "session")
    try:
        update = SessionUpdate.model_validate(session)
    except ValidationError as error:
        raise wire_error(error, "session") from error
    for name, why in REFUSED.items():
        if getattr(update, name):
            raise WireError("unsupported", f"'session.{name}' cannot be had: {why}.", f"session.{name}")
    return update


def our_update(update: SessionUpdate, voices: tuple[str, ...]) -> dict[str, Any]:
    """The `session` of our own `session.update`. For a voice of the service's that is not among `voices` the session's
    own speaks on."""
    given = update.model_fields_set
    ours: dict[str, Any] = {"type": "realtime"}
    audio: dict[str, Any] = {"input": {}, "output": {}}
    if update.modalities is not None:
        ours["output_modalities"] = our_modalities(update.modalities)
    if update.voice is not None and (update.voice in voices or update.voice not in VOICES):
        audio["output"]["voice"] = update.voice
    if "instructions" in given:
        ours["instructions"] = update.instructions
    if "turn_detection" in given:
        audio["input"]["turn_detection"] = update.turn_detection.ours() if update.turn_detection else None
    if "input_audio_transcription" in given:
        transcription = update.input_audio_transcription
        audio["input"]["transcription"] = transcription and transcription.model_dump(mode="json")
    if "tools" in given:
        ours["tools"] = [_flat(tool) for tool in update.tools or ()]
    if "tool_choice" in given:
        choice = update.tool_choice
        ours["tool_choice"] = _flat(choice) if isinstance(choice, dict) else choice
    if "max_tokens" in given:
        ours["max_output_tokens"] = (
            "inf" if (update.max_tokens or LONGEST_REPLY + 1) > LONGEST_REPLY else update.max_tokens
        )
    return {**ours, "audio": audio}


def _flat(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function as we write it; the dialect puts what it is into an object of its own."""
    inner = tool.get("function")
    if not isinstance(inner, dict):
        return dict(tool)
    return {**{name: value for name, value in tool.items() if name != "function"}, **inner}
