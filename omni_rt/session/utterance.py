"""The user's open turn, and what is known of its words while a reply to it is being prepared."""

from __future__ import annotations

from dataclasses import dataclass, field

from omni_rt.core.completeness import completeness
from omni_rt.core.stable import StableWords
from omni_rt.core.turns import Words
from omni_rt.engine.api import Capabilities, Ending, Transcript


@dataclass(slots=True)
class Utterance:
    """While `held_ms` is set a reply is being prepared and nothing is fed past that place; `understood` is the final
    transcript then, for when the turn does end there, and how its words end has been told if `judged`. `told`: the
    client knows of the turn."""

    item_id: str
    from_ms: int
    told: bool
    words: StableWords = field(default_factory=StableWords)
    held_ms: int | None = None
    understood: Transcript | None = None
    judged: bool = False

    def go_on(self) -> None:
        """It was a pause, or what was prepared is lost."""
        self.held_ms = self.understood = None
        self.judged = False

    def transcribed(self, transcript: Transcript, engine: Capabilities, language: str) -> tuple[Words, bool] | None:
        """What is known of the words by a final transcript, and whether that is all that will be; None where it tells
        nothing: the person has gone on, or how the words end is known."""
        if self.held_ms is None:
            return None
        self.understood = transcript
        if self.judged:
            return None
        more = engine.judges_endings and bool(transcript.text)
        return _words(_text(transcript, engine), None, language), not more

    def ends(self, ending: Ending, engine: Capabilities, language: str) -> Words | None:
        """What is known of the words by how they end; None where that is of something else."""
        if self.held_ms is None or ending.item_id != self.item_id:
            return None
        text = ending.words
        if self.understood is not None and (self.understood.text or text is None):
            text = _text(self.understood, engine)
        self.judged = ending.probability is not None or text is not None
        return _words(text, ending.probability, language)


def _text(transcript: Transcript, engine: Capabilities) -> str | None:
    """None if nothing is known of the words."""
    return transcript.text if engine.transcribes and not transcript.error else None


def _words(text: str | None, ending: float | None, language: str) -> Words:
    return Words("open" if text is None else completeness(text, language), ending)
