"""What became of each thing that was said: judged from the sound that arrived and from the protocol's own events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.duplex.recording import Recording, Said
from tools.duplex.replies import HeardReply

# A turn that is not decided by then was missed.
LATEST_S = 8.0
# What stops a reply no later than this after the end of what was said over it was stopped by that.
JUDGED_S = 1.5
# A stopped reply that goes on within this time was resumed.
_RESUMED_S = 3.0
_LATE_S = 0.1
# So little of a reply was left that nothing could be judged.
_TOO_LITTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """Milliseconds count from the true end of speech. `cut_in`: a turn was decided before it; `spoken_over`: the server
    was heard before it; `missed`: no turn was decided, or nothing was answered. The times are None then."""

    said: Said
    cut_in: bool
    spoken_over: bool
    missed: bool
    wait_ms: float | None = None
    first_audio_sent_ms: float | None = None
    first_sound_ms: float | None = None


@dataclass(frozen=True, slots=True)
class OverlapOutcome:
    """`reply` is what was being said. From the onset of the overlap, `stop_ms` is to the reply's last sound. `ended`:
    the reply came to its own end before anything could be judged."""

    said: Said
    reply: HeardReply
    stopped: bool
    resumed: bool
    ended: bool
    stop_ms: float | None = None

    @property
    def kept(self) -> bool:
        return not self.stopped or self.resumed


def turn_outcomes(recording: Recording, heard: Sequence[HeardReply]) -> list[TurnOutcome]:
    """Of what was said in the user's own time."""
    turns = [said for said in recording.said if said.kind in ("turn", "answer") and not said.over]
    return [_turn(recording, heard, said, _next_onset(recording, said)) for said in turns]


def _turn(recording: Recording, heard: Sequence[HeardReply], said: Said, until: float) -> TurnOutcome:
    decided = [event.at for event in recording.events if event.type == "input_audio_buffer.committed"]
    decided = [at for at in decided if said.onset < at < until]
    answers = [reply for reply in heard if said.onset < reply.created < until]
    cut_in = any(at < said.offset for at in decided)
    sounds = [first for reply in answers if (first := reply.first_sound) is not None]
    spoken_over = any(first < said.offset for first in sounds)
    after = [at for at in decided if at >= said.offset]
    in_time = any(at - said.offset <= LATEST_S for at in after)
    if cut_in or not in_time or not any(reply.started is not None for reply in answers):
        return TurnOutcome(said, cut_in, spoken_over, not answers or (not in_time and not cut_in))
    answer = next((reply for reply in answers if reply.started is not None and reply.started >= said.offset), None)
    return TurnOutcome(
        said,
        cut_in,
        spoken_over,
        False,
        (after[0] - said.offset) * 1000,
        None if answer is None or answer.started is None else (answer.started - said.offset) * 1000,
        None if answer is None or answer.first_sound is None else (answer.first_sound - said.offset) * 1000,
    )


def overlap_outcomes(recording: Recording, heard: Sequence[HeardReply]) -> list[OverlapOutcome]:
    """Of what was said over a reply that was sounding."""
    found = []
    for said in recording.said:
        if not said.over or said.skipped:
            continue
        reply = _sounding(heard, said.onset)
        if reply is not None:
            found.append(_overlap(recording, heard, said, reply))
    return found


def _overlap(recording: Recording, heard: Sequence[HeardReply], said: Said, reply: HeardReply) -> OverlapOutcome:
    limit = said.offset + JUDGED_S
    stopped = _stopped(reply) and reply.ended is not None and said.onset <= reply.ended <= limit
    resumed = stopped and _resumed(recording, heard, reply)
    last = reply.last_sound or said.onset
    ended = not _stopped(reply) and last < said.onset + _TOO_LITTLE_S
    stop_ms = max(0.0, last - said.onset) * 1000 if stopped and not resumed else None
    return OverlapOutcome(said, reply, stopped, resumed, ended, stop_ms)


def _stopped(reply: HeardReply) -> bool:
    return reply.cleared and not reply.hushed


def _resumed(recording: Recording, heard: Sequence[HeardReply], reply: HeardReply) -> bool:
    """It was stopped and went on although nobody had a turn in between."""
    assert reply.ended is not None
    later = [other.first_sound for other in heard if other.started is not None and other.started > reply.ended]
    going_on = min((first for first in later if first is not None), default=None)
    if going_on is None or going_on > reply.ended + _RESUMED_S:
        return False
    turns = [event.at for event in recording.events if event.type == "input_audio_buffer.committed"]
    return not any(reply.ended - _LATE_S <= at <= going_on for at in turns)


def _sounding(heard: Sequence[HeardReply], at: float) -> HeardReply | None:
    for reply in heard:
        first, last = reply.first_sound, reply.last_sound
        if first is not None and last is not None and first <= at <= max(last, reply.ended or last):
            return reply
    return None


def _next_onset(recording: Recording, said: Said) -> float:
    """Until when what happens belongs to this: the next thing said in the user's own time."""
    later = [other.onset for other in recording.said if not other.over and other.onset > said.onset]
    return min(later, default=float("inf"))
