"""One reply on its way from the engine to the listener."""

from __future__ import annotations

from dataclasses import dataclass, field

from omni_rt.engine.api import OUTPUT_RATE, AudioDelta, Chunk, Mark, Pcm, RespondOptions, Usage
from omni_rt.media.tempo import Tempo
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
    """Its wire events, what was spoken when, and, while it is held, the chunks nobody may see yet.

    Its audio is what is played, at `speed`; `audio_ms` is its length so far. `known`: the engine can still cut it.
    `cuts` counts how often it was cut to what was heard. `unheard`: its message is deleted.
    """

    options: RespondOptions
    writer: ResponseWriter
    moments: Moments
    mark: Mark | None = None
    held: list[Chunk] | None = None
    stopped: bool = False
    known: bool = True
    message_id: str | None = None
    cuts: int = 0
    unheard: bool = False
    speed: float = 1.0
    audio_ms: float = 0.0
    usage: Usage = field(default_factory=Usage)
    _spoken: list[tuple[float, float, str]] = field(default_factory=list)
    _made_ms: float = 0.0
    _tempo: Tempo = field(init=False)

    def __post_init__(self) -> None:
        self._tempo = Tempo(OUTPUT_RATE, self.speed)

    @property
    def generation(self) -> int:
        return self.options.generation

    def spoke(self, chunk: AudioDelta) -> Pcm:
        """Note a piece of speech; returns what can be played by now, at the reply's speed."""
        length = len(chunk.pcm) * 1000 / OUTPUT_RATE
        self._spoken.append((self._made_ms, length, chunk.text))
        self._made_ms += length
        return self._played(self._tempo.feed(chunk.pcm))

    def rest(self) -> Pcm:
        """The last that is to be played, when all was made."""
        return self._played(self._tempo.flush())

    def _played(self, pcm: Pcm) -> Pcm:
        self.audio_ms += len(pcm) * 1000 / OUTPUT_RATE
        return pcm

    def made_ms(self, audio_ms: float) -> float:
        """The place in what the engine made that is played at `audio_ms`."""
        return audio_ms * self.speed

    def estimate_heard(self, audio_ms: float) -> str:
        """The words of the first `audio_ms`, by even spread over each piece: for when the engine can't be asked."""
        words: list[str] = []
        for start, length, text in self._spoken:
            share = (self.made_ms(audio_ms) - start) / length if length else 1.0
            of_piece = text.split()
            words += of_piece[: int(len(of_piece) * min(1.0, max(0.0, share)))]
        return " ".join(words)
