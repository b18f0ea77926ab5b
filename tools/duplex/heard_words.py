"""Which words are in the sound that arrived, beside the words that the server says were heard."""

from __future__ import annotations

from collections.abc import Sequence

from omni_rt.client.words import edits, normalise
from tests.support.ears import transcribe
from tools.duplex.recording import to_input_rate
from tools.duplex.replies import HeardReply

# A last word counts as heard when so much of it was, as in the engine's own count.
_HEARD_SHARE = 0.6


def transcript(reply: HeardReply) -> list[str]:
    """The words of a reply's sound, by the local engine's recogniser."""
    return normalise(transcribe(to_input_rate(reply.pcm)))


def words_off(reply: HeardReply, heard: Sequence[str]) -> int:
    """Words of a whole reply that are missing, repeated or others in its sound; the recogniser's mistakes count too."""
    return edits(normalise(reply.text), list(heard))


def heard_text_error(reply: HeardReply, heard: Sequence[str]) -> int | None:
    """Words by which the text that the server kept of a cut reply is too long or too short; None if it was not cut.

    The words in the sound say how far into the reply's text the person heard; a word that the recogniser mistook in the
    middle does not matter.
    """
    if reply.kept is None:
        return None
    return abs(len(normalise(reply.kept)) - words_covered(normalise(reply.text), heard))


def words_covered(text: Sequence[str], heard: Sequence[str]) -> int:
    """How many words of the text, from its beginning, are in what was heard."""
    if not heard:
        return 0
    costs = [edits(text[:count], heard) for count in range(len(text) + 1)]
    best = min(costs)
    counts = [count for count, cost in enumerate(costs) if cost == best]
    shortest = counts[0]
    # one word more is a last word that was heard in part, and was taken for another
    if len(counts) > 1 and _mostly(heard[-1], text[counts[-1] - 1]):
        return counts[-1]
    return shortest


def _mostly(heard: str, word: str) -> bool:
    same = 0
    for ours, theirs in zip(heard, word, strict=False):
        if ours != theirs:
            break
        same += 1
    return same >= _HEARD_SHARE * len(word)
