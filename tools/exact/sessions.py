"""Two conversations on one engine, their steps interleaved at random, against each on an engine of its own."""

from __future__ import annotations

import numpy as np
import torch

from omni_rt.engine.api import AudioDelta, TextDelta
from tools.exact.conversation import Talk, settings
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line

_TURNS = 3


@torch.inference_mode()
def lines(seed: int) -> list[Line]:
    """Both conversations, and the order of their steps, are drawn from the seed; so are the numbers they sample by."""
    drawn = draw(seed)
    alone = [_talk(drawn, number) for number in range(2)]
    for talk in alone:
        for _ in talk.course():
            pass
    together = [_talk(drawn, 0)]
    together.append(_talk(drawn, 1, beside=together[0]))
    steps = _interleave(together, drawn.rng("sessions"))
    tokens = [(_tokens(one), _tokens(other)) for one, other in zip(alone, together, strict=True)]
    sound = [(_sound(one), _sound(other)) for one, other in zip(alone, together, strict=True)]
    texts = [(_texts(one), _texts(other)) for one, other in zip(alone, together, strict=True)]
    what = "two sessions interleaved step by step = each alone"
    note = f"{steps} steps"
    return [
        Line(f"{what}: tokens of the conversation", None, _differing(tokens), sum(len(one) for one, _ in tokens), note),
        Line(f"{what}: samples of the replies", None, _differing(sound), sum(len(one) for one, _ in sound)),
        Line(f"{what}: texts of replies and transcripts", None, _differing(texts), sum(len(one) for one, _ in texts)),
    ]


def _talk(drawn: Draw, number: int, beside: Talk | None = None) -> Talk:
    """The same conversation each time; `beside` another one on the same engine."""
    parts = settings(drawn, drawn.rng("engine of sessions")) if beside is None else beside.parts
    return Talk(drawn, parts, drawn.rng(f"session {number}"), turns=_TURNS)


def _interleave(talks: list[Talk], rng: np.random.Generator) -> int:
    """Runs all to their end; how many steps it took."""
    courses = [talk.course() for talk in talks]
    steps = 0
    while courses:
        course = courses[rng.integers(len(courses))]
        steps += 1
        if next(course, False) is False:
            courses.remove(course)
    return steps


def _tokens(talk: Talk) -> np.ndarray:
    turns = talk.conversation.context.turns
    return np.array([token for turn in turns for piece in turn.pieces for token in piece.ids])


def _sound(talk: Talk) -> np.ndarray:
    return np.concatenate([chunk.pcm for chunk in talk.chunks if isinstance(chunk, AudioDelta)])


def _texts(talk: Talk) -> np.ndarray:
    said = [chunk.text for chunk in talk.chunks if isinstance(chunk, AudioDelta | TextDelta)]
    return np.array(said + [transcript.text for transcript in talk.told.transcripts])


def _differing(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """How many elements differ; infinite where the shapes do."""
    return sum(float((one != other).sum()) if one.shape == other.shape else float("inf") for one, other in pairs)
