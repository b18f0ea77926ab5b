"""All that is known of a recorded conversation, worked out once nothing is being played any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from omni_rt.engine.api import OUTPUT_RATE, Pcm
from tools.duplex.continuity import Continuity, continuity
from tools.duplex.gain import gains
from tools.duplex.heard_words import heard_text_error, transcript, words_off
from tools.duplex.outcomes import OverlapOutcome, TurnOutcome, overlap_outcomes, turn_outcomes
from tools.duplex.recording import Recording
from tools.duplex.replies import HeardReply, replies

# Packets come every 20 ms; one that comes so much later than it should leaves a hole in what is heard.
_HOLE_S = 0.04
# What is softer so long after the end of what was said over it was softened by that.
_DUCKED_S = 0.1
_WORDS_MATTER = ("wait", "backchannel", "cough", "interruption", "typing", "crowd", "loss")


@dataclass(slots=True)
class Analysis:
    """Of one conversation. `duck_ms`: of each overlap, from its onset to the first softer packet, None where its gain
    cannot be told. `resumed`: of replies that were said to their end although something was said over them, in a
    known voice. `words_off`: of replies that were heard whole, by whether something was said over them.
    `heard_text_errors`: of replies that were cut."""

    recording: Recording
    replies: list[HeardReply]
    turns: list[TurnOutcome]
    overlaps: list[OverlapOutcome]
    duck_ms: list[float | None]
    resumed: list[Continuity] = field(default_factory=list)
    words_off: list[tuple[bool, int]] = field(default_factory=list)
    heard_text_errors: list[int] = field(default_factory=list)
    holes: int = 0
    concealed_ms: float = 0.0


def analyse(
    recording: Recording,
    speak: Callable[[str], Pcm] | None,
    hear: Callable[[HeardReply], Sequence[str]] | None = transcript,
) -> Analysis:
    """`speak` is the voice of the replies, if it is known, and `hear` tells the words of a reply's sound, if they
    matter."""
    found = replies(recording)
    overlaps = overlap_outcomes(recording, found)
    sounds = [sound for reply in found for sound in reply.sounds]
    analysis = Analysis(
        recording,
        found,
        turn_outcomes(recording, found),
        overlaps,
        [None if speak is None else _duck_ms(overlap, speak) for overlap in overlaps],
        holes=sum(map(holes, found)),
        concealed_ms=sum(len(sound.pcm) for sound in sounds if sound.concealed) * 1000 / OUTPUT_RATE,
    )
    if speak is not None:
        kept = {overlap.reply.id: overlap.reply for overlap in overlaps if not overlap.reply.cleared}
        told = [continuity(reply, speak) for reply in kept.values()]
        analysis.resumed.extend(each for each in told if each is not None)
    if hear is not None and recording.group in _WORDS_MATTER:
        _compare_words(analysis, hear)
    return analysis


def _duck_ms(overlap: OverlapOutcome, speak: Callable[[str], Pcm]) -> float | None:
    onset = overlap.said.onset
    known = gains(overlap.reply, onset, overlap.said.offset + _DUCKED_S, speak)
    at = None if known is None else known.ducked_after(onset)
    return None if at is None else (at - onset) * 1000


def _compare_words(analysis: Analysis, hear: Callable[[HeardReply], Sequence[str]]) -> None:
    disturbed = {overlap.reply.id for overlap in analysis.overlaps}
    for reply in analysis.replies:
        if not reply.sounds:
            continue
        if reply.cleared:
            error = heard_text_error(reply, hear(reply))
            if error is not None:
                analysis.heard_text_errors.append(error)
        elif reply.text:
            analysis.words_off.append((reply.id in disturbed, words_off(reply, hear(reply))))


def holes(reply: HeardReply) -> int:
    """How often the sound of a reply came too late between its first and its last, for a player that plays at
    once."""
    first, last = reply.first_sound, reply.last_sound
    if first is None or last is None:
        return 0
    times = np.array([sound.at for sound in reply.sounds if first - 0.02 <= sound.at <= last])
    # a player that has waited once is late by that and takes the next delay in its stride
    late = times - 0.02 * np.arange(len(times))
    count, reserve = 0, late[0] if len(late) else 0.0
    for at in late:
        if at - reserve > _HOLE_S:
            count += 1
            reserve = at
    return count
