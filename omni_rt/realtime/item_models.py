"""Conversation items as clients write them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_PARTS = 256


class InputText(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["input_text"]
    text: str


class InputAudio(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["input_audio"]
    audio: str | None = None
    transcript: str | None = None


class InputImage(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"] = "auto"


class OutputText(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["output_text", "text"]
    text: str


class OutputAudio(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["output_audio"]
    transcript: str | None = None
    audio: str | None = None


ContentPart = Annotated[InputText | InputAudio | InputImage | OutputText | OutputAudio, Field(discriminator="type")]


class WireItem(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str | None = Field(None, min_length=1, max_length=128)
    object: Literal["realtime.item"] | None = None
    status: str | None = None


class MessageItem(WireItem):
    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: tuple[ContentPart, ...] = Field(min_length=1, max_length=MAX_PARTS)


class CallItem(WireItem):
    type: Literal["function_call"]
    name: str
    call_id: str | None = None
    arguments: str


class CallOutputItem(WireItem):
    type: Literal["function_call_output"]
    call_id: str
    output: str


class ItemReference(BaseModel):
    """An item of the conversation, where a response is given its own input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["item_reference"]
    id: str = Field(min_length=1, max_length=128)


AnyItem = Annotated[MessageItem | CallItem | CallOutputItem, Field(discriminator="type")]
InputItem = Annotated[MessageItem | CallItem | CallOutputItem | ItemReference, Field(discriminator="type")]
