"""The server events of the DashScope dialect, as its documentation and the `dashscope` package know them, strictly."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Event(Strict):
    event_id: str = Field(pattern="^event_")


class Format(Strict):
    type: Literal["pcm"]
    sample_rate: Literal[8000, 16000, 24000, 48000]


class Side(Strict):
    format: Format


class Audio(Strict):
    input: Side
    output: Side


class TurnDetection(Strict):
    type: Literal["server_vad", "semantic_vad"]
    threshold: float | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None
    idle_timeout_ms: int | None = None
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    create_response: bool
    interrupt_response: bool


class Function(Strict):
    name: str
    description: str
    parameters: dict[str, Any]


class Tool(Strict):
    type: Literal["function"]
    function: Function


class VideoInput(Strict):
    representation_compact: str | None


class Video(Strict):
    input: VideoInput | None


Modalities = list[Literal["text", "audio"]]


class Session(Strict):
    id: str
    object: Literal["realtime.session"]
    model: str
    modalities: Modalities
    voice: str
    instructions: str
    input_audio_format: Literal["pcm", "pcm16", "pcm24"]
    output_audio_format: Literal["pcm", "pcm16", "pcm24"]
    audio: Audio
    input_audio_transcription: dict[str, Any] | None
    turn_detection: TurnDetection | None
    tools: list[Tool]
    tool_choice: Literal["auto", "none", "required"] | dict[str, str]
    smooth_output: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    video: Video | None = None


class SessionCreated(Event):
    type: Literal["session.created"]
    session: Session


class SessionUpdated(Event):
    type: Literal["session.updated"]
    session: Session


class SessionFinished(Event):
    type: Literal["session.finished"]


class Fault(Strict):
    type: str
    code: str
    message: str
    param: str | None
    event_id: str | None


class Error(Event):
    type: Literal["error"]
    error: Fault


class SpeechStarted(Event):
    type: Literal["input_audio_buffer.speech_started"]
    audio_start_ms: int
    item_id: str


class SpeechStopped(Event):
    type: Literal["input_audio_buffer.speech_stopped"]
    audio_end_ms: int
    item_id: str


class Committed(Event):
    type: Literal["input_audio_buffer.committed"]
    item_id: str


class Cleared(Event):
    type: Literal["input_audio_buffer.cleared"]


class TextPart(Strict):
    type: Literal["text", "input_text"]
    text: str


class AudioPart(Strict):
    type: Literal["audio"]
    text: str
    transcript: str


class InputAudioPart(Strict):
    type: Literal["input_audio"]
    transcript: str | None


class InputImagePart(Strict):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"]


class Item(Strict):
    id: str
    object: Literal["realtime.item"]
    status: Literal["completed", "in_progress", "incomplete"]


class Message(Item):
    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: list[Annotated[TextPart | AudioPart | InputAudioPart | InputImagePart, Field(discriminator="type")]]


class Call(Item):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CallOutput(Item):
    type: Literal["function_call_output"]
    call_id: str
    output: str


AnyItem = Annotated[Message | Call | CallOutput, Field(discriminator="type")]


class ItemCreated(Event):
    type: Literal["conversation.item.created"]
    item: AnyItem


class TranscriptionDelta(Event):
    type: Literal["conversation.item.input_audio_transcription.delta"]
    item_id: str
    content_index: Literal[0]
    delta: str


class TranscriptionCompleted(Event):
    type: Literal["conversation.item.input_audio_transcription.completed"]
    item_id: str
    content_index: Literal[0]
    transcript: str


class InputTokens(Strict):
    text_tokens: int
    audio_tokens: int
    image_tokens: int


class OutputTokens(Strict):
    text_tokens: int
    audio_tokens: int


class Usage(Strict):
    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_tokens_details: InputTokens
    output_tokens_details: OutputTokens


class Response(Strict):
    id: str
    object: Literal["realtime.response"]
    conversation_id: str
    modalities: Modalities
    voice: str
    output_audio_format: Literal["pcm", "pcm16", "pcm24"]
    output: list[AnyItem]


class ResponseBegun(Response):
    status: Literal["in_progress"]


class ResponseMade(Response):
    status: Literal["completed", "cancelled", "failed", "incomplete"]
    status_details: dict[str, Any] | None = None
    usage: Usage


class ResponseCreated(Event):
    type: Literal["response.created"]
    response: ResponseBegun


class ResponseDone(Event):
    type: Literal["response.done"]
    response: ResponseMade


class OfResponse(Event):
    response_id: str
    output_index: int


class OutputItemAdded(OfResponse):
    type: Literal["response.output_item.added"]
    item: AnyItem


class OutputItemDone(OfResponse):
    type: Literal["response.output_item.done"]
    item: AnyItem


class OfItem(OfResponse):
    item_id: str


class OfPart(OfItem):
    content_index: Literal[0]


Part = Annotated[TextPart | AudioPart, Field(discriminator="type")]


class PartAdded(OfPart):
    type: Literal["response.content_part.added"]
    part: Part


class PartDone(OfPart):
    type: Literal["response.content_part.done"]
    part: Part


class Delta(OfPart):
    type: Literal["response.text.delta", "response.audio.delta", "response.audio_transcript.delta"]
    delta: str = Field(min_length=1)


class TextDone(OfPart):
    type: Literal["response.text.done"]
    text: str


class AudioDone(OfPart):
    type: Literal["response.audio.done"]


class TranscriptDone(OfPart):
    type: Literal["response.audio_transcript.done"]
    transcript: str


class ArgumentsDelta(OfItem):
    type: Literal["response.function_call_arguments.delta"]
    call_id: str
    delta: str


class ArgumentsDone(OfItem):
    type: Literal["response.function_call_arguments.done"]
    call_id: str
    name: str
    arguments: str


AnyEvent = (
    SessionCreated
    | SessionUpdated
    | SessionFinished
    | Error
    | SpeechStarted
    | SpeechStopped
    | Committed
    | Cleared
    | ItemCreated
    | TranscriptionDelta
    | TranscriptionCompleted
    | ResponseCreated
    | ResponseDone
    | OutputItemAdded
    | OutputItemDone
    | PartAdded
    | PartDone
    | Delta
    | TextDone
    | AudioDone
    | TranscriptDone
    | ArgumentsDelta
    | ArgumentsDone
)

KINDS: dict[str, TypeAdapter[Any]] = {
    kind: TypeAdapter(model) for model in get_args(AnyEvent) for kind in get_args(model.model_fields["type"].annotation)
}


def faults(event: dict[str, Any]) -> list[str]:
    """What is wrong with an event of the dialect: wrong, missing and unknown fields."""
    adapter = KINDS.get(str(event.get("type")))
    if adapter is None:
        return [f"the dialect has no event of type {event.get('type')!r}"]
    try:
        adapter.validate_json(json.dumps(event), strict=True)
    except ValidationError as error:
        return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False)]
    return []
