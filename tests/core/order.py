"""What must hold of any list of decisions, whatever was said and done."""

from __future__ import annotations

from typing import Literal

from omni_rt.core.actions import (
    AbandonReply,
    Action,
    CloseUtterance,
    DropUtterance,
    Duck,
    FinishReply,
    Hold,
    JudgeEnd,
    OpenUtterance,
    Overhear,
    ReleaseReply,
    StartReply,
    StopReply,
    TimeOut,
    Unduck,
)


class Order:
    """Follows a dialogue's decisions one by one and raises AssertionError at the first that may not be.

    Every utterance that is opened is closed or dropped before the next; every reply that is started is finished,
    stopped or abandoned before the next, and no reply but a held one starts while the user has the floor; generations
    grow by one; ducking and its end alternate, and a reply is held and overheard in between only.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.reply: Literal["held", "active"] | None = None
        self.utterance = False
        self.ducked = self.held = False
        self.taken_ms = 0

    def see(self, action: Action, now_ms: int, finds_turns: bool) -> None:
        match action:
            case OpenUtterance(from_ms, speech_ms):
                assert not self.utterance
                assert self.taken_ms <= from_ms <= speech_ms <= now_ms
                self.utterance = True
            case CloseUtterance(speech_end_ms):
                assert self.utterance
                assert speech_end_ms <= now_ms
                self.utterance, self.taken_ms = False, speech_end_ms
            case DropUtterance():
                assert self.utterance
                self.utterance = False
            case TimeOut(from_ms, at_ms):
                assert not self.utterance
                assert self.reply is None
                assert self.taken_ms <= from_ms < at_ms == now_ms
                self.taken_ms = at_ms
            case JudgeEnd(at_ms):
                assert self.utterance
                assert at_ms == now_ms
            case StartReply(generation, speculative):
                assert self.reply is None
                assert generation == self.generation + 1
                assert self.utterance if speculative else not (self.utterance and finds_turns)
                self.generation, self.reply = generation, "held" if speculative else "active"
            case ReleaseReply(generation):
                assert (self.reply, self.generation) == ("held", generation)
                self.reply = "active"
            case AbandonReply(generation):
                assert (self.reply, self.generation) == ("held", generation)
                self.reply = None
            case StopReply(generation) | FinishReply(generation):
                assert (self.reply, self.generation) == ("active", generation)
                self.reply = None
            case Duck():
                assert self.held or not self.ducked
                assert self.reply == "active"
                self.ducked, self.held = True, False
            case Hold():
                assert self.ducked
                assert not self.held
                self.held = True
            case Unduck():
                assert self.ducked
                self.ducked = self.held = False
            case Overhear(from_ms, to_ms):
                assert self.ducked
                assert not self.utterance
                assert from_ms < to_ms == now_ms
