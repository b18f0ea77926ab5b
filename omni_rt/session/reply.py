"""One reply on its way from the engine to the listener."""

from __future__ import annotations

from dataclasses import dataclass, field

from omni_rt.engine.api import OUTPUT_RATE, AudioDelta, Chunk, Mark, RespondOptions, Usage
from omni_rt.realtime.writer import ResponseStatus, ResponseWriter
from omni_rt.session.moments import Moments

# Status and reason that a reply's end has on the wire, by the engine's word for it.
ENDS: dict[str, tuple[ResponseStatus, str | None]] = {
    "completed": ("completed", None),
    "max_tokens": ("incomplete", "max_output_tokens"),
    "cancelled": ("cancelled", "client_cancelled"),
    "failed": ("failed", None),
}


@dataclass(slots=True)
class Reply:
    """Its wire events, what was spoken when, and, while it is held, the chunks nobody may see yet."""

    options: RespondOptions
    writer: ResponseWriter
    moments: Moments
    mark: Mark | None = None
    held: list[Chunk] | None = None
    stopped: bool = False
    message_id: str | None = None
    audio_ms: float = 0.0
    usage: Usage = field(default_factory=Usage)
    _spoken: list[tuple[float, float, str]] = field(default_factory=list)

    @property
    def generation(self) -> int:
        return self.options.generation

    def spoke(self, chunk: AudioDelta) -> float:
        """Note a piece of speech; returns its length in ms."""
        length = len(chunk.pcm) * 1000 / OUTPUT_RATE
        self._spoken.append((self.audio_ms, length, chunk.text))
        self.audio_ms += length
        return length

    def estimate_heard(self, audio_ms: float) -> str:
        """The words of the first `audio_ms`, by even spread over each piece: for when the engine can't be asked."""
        words: list[str] = []
        for start, length, text in self._spoken:
            share = (audio_ms - start) / length if length else 1.0
            of_piece = text.split()
            words += of_piece[: int(len(of_piece) * min(1.0, max(0.0, share)))]
        return " ".join(words)
