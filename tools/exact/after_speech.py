"""What is left to compute when the end of speech is known: the rows that pass each decoder until sound comes out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from omni_rt.engine.api import AudioDelta, Chunk, Pcm, RespondOptions, SessionSettings
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.reply import Reply
from omni_rt.engine.qwen3_omni.talker import PREFIX_ROWS
from tools.exact import mel, whole
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line
from tools.exact.vision import picture

_SUFFIX = 6
_CLOSING = 3
_TOKENS_A_SECOND = 13
_CLIPS = 2
_BLOCK = 320


@torch.inference_mode()
def lines(seed: int) -> list[Line]:
    """For each window: clips of drawn lengths, heard as they are spoken, some with a camera."""
    drawn = draw(seed)
    rng = drawn.rng("after speech")
    wrong = {"thinker": 0.0, "talker before": 0.0, "talker after": 0.0}
    notes = []
    for window_s in (1, 2, 8):
        for number in range(_CLIPS):
            counted = _counted(drawn, rng, window_s, camera=number % 2 == 1)
            wrong["thinker"] += abs(counted.thinker - counted.open_tokens - _SUFFIX)
            wrong["talker before"] += abs(counted.talker_before - counted.open_tokens - _CLOSING - PREFIX_ROWS)
            wrong["talker after"] += abs(counted.talker_after - 1)
            notes.append(f"{counted.thinker} = {counted.open_tokens} + {_SUFFIX}")
    n, shown = len(notes), ", ".join(notes)
    before = f"beside the thinker's prefill: the open window + {_CLOSING} closing rows + {PREFIX_ROWS} of the reply"
    suffix = f"rows of the thinker after the end of speech = the open window + {_SUFFIX}"
    frame = "rows of the talker between the first token and the first frame = 1"
    early = "rows of the talker after the end of speech, before the first token"
    return [
        Line(suffix, None, wrong["thinker"], n, shown),
        Line(frame, None, wrong["talker after"], n),
        Line(early, None, wrong["talker before"], n, before),
    ]


@dataclass(slots=True)
class _Counted:
    """`open_tokens` of audio in the window that was open; rows of the thinker up to the first token, of the talker
    up to there and from there to the first frame."""

    open_tokens: int
    thinker: int = 0
    talker_before: int = 0
    talker_after: int = 0
    tokens: int = 0


def _counted(drawn: Draw, rng: np.random.Generator, window_s: int, *, camera: bool) -> _Counted:
    parts = whole.parts(drawn, audio_window_s=window_s, frame_tokens=8)
    conversation = Conversation(parts, SessionSettings(instructions="be brief"), whole.Told(), drawn.seed)
    clip = _clip(rng, 7.9 if window_s == 8 else 9.0)
    shown = int(rng.integers(len(clip) // 2)) // _BLOCK if camera else -1
    for number, start in enumerate(range(0, len(clip), _BLOCK)):
        if number == shown:
            conversation.append_image(picture(rng, 60, 80), 0)
        conversation.append_audio(clip[start : start + _BLOCK])
        whole.settle(conversation)
    chunks: list[Chunk] = []
    # a mel frame is known 40 samples after its end
    full = (len(clip) - 40) // 16_000 // window_s
    every = parts.audio_stream(None).tokens_for(len(clip))
    counted = _Counted(open_tokens=every - full * _TOKENS_A_SECOND * window_s)
    with _watched(parts.omni, counted):
        conversation.commit("item")
        conversation.respond(Reply(parts, RespondOptions(1, max_tokens=4), chunks.append))
        while not any(isinstance(chunk, AudioDelta) for chunk in chunks):
            conversation.step()
    conversation.close()
    return counted


@contextmanager
def _watched(omni: Omni, counted: _Counted) -> Iterator[None]:
    """Counts what passes the decoders."""
    assert omni.talker is not None

    def thinker(_module: Any, given: tuple[Any, ...], _out: Any) -> None:
        if not counted.tokens:
            counted.thinker += len(given[0])

    def talker(_module: Any, given: tuple[Any, ...], _out: Any) -> None:
        if counted.tokens:
            counted.talker_after += len(given[0])
        else:
            counted.talker_before += len(given[0])

    def token(*_: Any) -> None:
        counted.tokens += 1

    hooks = [
        omni.thinker.model.language_model.register_forward_hook(thinker),
        omni.talker.model.register_forward_hook(talker),
        omni.thinker.lm_head.register_forward_hook(token),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _clip(rng: np.random.Generator, most_s: float) -> Pcm:
    """Longer than the second after which an open window is first encoded; loudest at its beginning, so that no
    earlier window changes at its end."""
    samples = int(rng.uniform(1.3, most_s) * 16_000)
    quiet = 0.1 * mel.sound(rng, samples)
    quiet[:8_000] += 0.9 * np.sign(np.sin(np.arange(8_000) * rng.uniform(0.05, 0.5)))
    clip: Pcm = np.round(quiet * 32767).astype(np.int16)
    return clip
