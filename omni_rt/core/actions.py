"""What the core wants done about a turn or a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StopReason = Literal["turn_detected", "client_cancelled", "transport_lost", "engine_lost"]


@dataclass(frozen=True, slots=True)
class OpenUtterance:
    """The user's turn begins; audio from `from_ms` on (pre-roll included) belongs to it, speech from `speech_ms`."""

    from_ms: int
    speech_ms: int


@dataclass(frozen=True, slots=True)
class JudgeEnd:
    """Score whether the turn is over, on the audio up to `at_ms`."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class CloseUtterance:
    """The user's turn is over and becomes an item; its speech ended at `speech_end_ms`."""

    speech_end_ms: int


@dataclass(frozen=True, slots=True)
class DropUtterance:
    """The open utterance was nothing; forget it."""


@dataclass(frozen=True, slots=True)
class TimeOut:
    """Nobody has spoken since `from_ms`: the audio up to `at_ms` becomes the user's turn, with no words in it, and the
    reply that starts now is to break the silence."""

    from_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class StartReply:
    """Make a reply. A speculative one is marked before, held, and either released or abandoned."""

    generation: int
    speculative: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseReply:
    """The turn did end: what the speculative reply has made so far may be heard."""

    generation: int


@dataclass(frozen=True, slots=True)
class AbandonReply:
    """The user went on: cancel the speculative reply and roll back; nobody heard of it."""

    generation: int


@dataclass(frozen=True, slots=True)
class StopReply:
    """Cancel, clear what was not sent, keep what was heard. `onset_ms`: where an interrupting speech began."""

    generation: int
    reason: StopReason
    onset_ms: int | None = None


@dataclass(frozen=True, slots=True)
class FinishReply:
    """Everything was made and played."""

    generation: int


@dataclass(frozen=True, slots=True)
class Duck:
    """Play softly while an overlap is judged."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Play nothing more for now and lose none of it: what overlaps may be an interruption."""


@dataclass(frozen=True, slots=True)
class Unduck:
    """Nothing overlaps any more; play in full, after a Hold from where it stood."""


@dataclass(frozen=True, slots=True)
class Overhear:
    """Tell the words between two places of the timeline; they are nobody's turn yet."""

    from_ms: int
    to_ms: int


Action = (
    OpenUtterance
    | JudgeEnd
    | CloseUtterance
    | DropUtterance
    | TimeOut
    | StartReply
    | ReleaseReply
    | AbandonReply
    | StopReply
    | FinishReply
    | Duck
    | Hold
    | Unduck
    | Overhear
)
