"""Parts of a session that are taken as real clients send them and echoed, and that change nothing but `language`.

What in them is not the protocol's is left out of the echo, so that clients' newer fields do no harm.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from omni_rt.realtime.item_models import InputText


class _Hint(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Pipecat takes a model that is null for a fault and never reads another event."""
        return {name: value for name, value in dump(self).items() if value is not None}


class Transcription(_Hint):
    model: str | None = None
    language: str | None = None
    languages: tuple[str, ...] | None = None
    prompt: str | None = None
    keywords: tuple[str, ...] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class NoiseReduction(_Hint):
    type: Literal["near_field", "far_field"] | None = None
    strength: float | None = None


class Tracing(_Hint):
    workflow_name: str | None = None
    group_id: str | None = None
    metadata: Any = None


class Prompt(_Hint):
    id: str
    version: str | None = None
    variables: dict[str, str | InputText] | None = None


class Reasoning(_Hint):
    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None
