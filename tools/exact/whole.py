"""Our whole model with the weights of a drawn reference, and the parts of an engine around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.config import QwenSettings
from omni_rt.engine.api import EngineError, Pcm, Rgb, Transcript
from omni_rt.engine.qwen3_omni import pictures
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.machine import PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.parts import Parts, Seen
from omni_rt.engine.qwen3_omni.prompt import Prompt
from omni_rt.engine.qwen3_omni.scheduler import Scheduler
from omni_rt.engine.qwen3_omni.spec import TextTokens
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line
from tools.exact.mel import reference_mel
from tools.exact.vocabulary import tokenizer

_POOL_TOKENS = 8192
_ATTEMPTS = 4
_UNDECIDED = 2e-5


def ours(drawn: Draw) -> Omni:
    """Every parameter of the reference, none left over."""
    return _ours(drawn.seed)


@lru_cache(maxsize=2)
def _ours(seed: int) -> Omni:
    drawn = draw(seed)
    with torch.device("meta"):
        model = Omni(drawn.spec).eval()
    model.load_state_dict(drawn.reference.state_dict(), assign=True, strict=True)
    return model.requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Watched(Parts):
    """An engine's parts that remember which pictures were looked at, by the identity of their features."""

    looked: dict[int, tuple[Seen, pictures.Patches]] = field(default_factory=dict)

    def look(self, frames: Sequence[Rgb], size: tuple[int, int]) -> Seen:
        seen = Parts.look(self, frames, size)
        self.looked[id(seen.features)] = seen, pictures.patches(frames, size, self.spec.vision)
        return seen


def parts(drawn: Draw, *, frames_per_second: float = 1.0, **settings: Any) -> Watched:
    """As the engine makes them, with these settings of `qwen`; the scheduler is not started."""
    omni, words = ours(drawn), tokenizer()
    machine = PlainMachine(omni)
    assert omni.talker is not None
    assert drawn.spec.talker is not None
    return Watched(
        settings=QwenSettings(**settings),
        omni=omni,
        machine=machine,
        tokenizer=words,
        prompt=Prompt(words),
        scheduler=Scheduler(machine.run),
        pool=KVPool(drawn.spec.text, tokens=_POOL_TOKENS),
        talker_pool=KVPool(drawn.spec.talker.decoder, tokens=_POOL_TOKENS),
        context_tokens=_POOL_TOKENS // 2,
        frames_per_second=frames_per_second,
    )


@dataclass(slots=True)
class Told:
    """Implements Tells."""

    transcripts: list[Transcript] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)

    def transcript(self, transcript: Transcript) -> None:
        self.transcripts.append(transcript)

    def error(self, error: EngineError) -> None:
        self.errors.append(error)


def settle(conversation: Conversation) -> None:
    """Work until nothing is left to do."""
    while conversation.deadline(0.0) is not None:
        conversation.step()


def fill(context: Context, most: int = 1 << 20) -> None:
    """Prefill all rows, `most` in a pass."""
    while context.advance(most):
        pass


def decided(drawn: Draw, attempt: Callable[[int], list[Line]]) -> list[Line]:
    """The lines of the first attempt (0, 1, ...) in which the reference's routers were never undecided.

    Where the last expert taken and the first one left out are closer than rounding, which of them is taken is nobody's
    error, but changes all that follows.
    """
    found: list[Line] = []
    for number in range(_ATTEMPTS):
        with _margins(drawn.reference) as margins:
            found = attempt(number)
        if min(margins) >= _UNDECIDED:
            break
    if number:
        found[0] = replace(found[0], note=f"{found[0].note}; {number} drawn before left a router undecided")
    return found


@contextmanager
def _margins(reference: nn.Module) -> Iterator[list[float]]:
    """For each pass of each router, the least distance between the last expert taken and the next."""
    margins: list[float] = []

    def margin(router: Any, given: tuple[Tensor, ...], _out: Any) -> None:
        scores = given[0].flatten(0, -2) @ router.weight.T
        best = scores.topk(router.top_k + 1).values
        margins.append(float((best[:, -2] - best[:, -1]).min()))

    routers = [module for name, module in reference.named_modules() if name.endswith("mlp.gate")]
    hooks = [router.register_forward_hook(margin) for router in routers]
    try:
        yield margins
    finally:
        for hook in hooks:
            hook.remove()


def inputs(watched: Watched, turns: Sequence[Turn], clips: Mapping[str, Pcm]) -> dict[str, Any]:
    """What Hugging Face is given for the same turns. `clips` is the sound of the turns that have any, by their item.

    A clip that pictures divide into segments is cut between windows, where its tokens do not see each other.
    """
    tokens = watched.spec.tokens
    ids: list[int] = []
    mels: list[Tensor] = []
    images: list[pictures.Patches] = []
    videos: list[list[pictures.Patches]] = []
    for turn in turns:
        pads = {tokens.image: images, tokens.video: []}
        for piece in turn.pieces:
            seen = watched.looked.get(id(piece.features))
            if seen is not None:
                pads[tokens.video if tokens.video in piece.ids else tokens.image].append(seen[1])
        videos += [pads[tokens.video]] if pads[tokens.video] else []
        row = [token for piece in turn.pieces for token in piece.ids]
        if tokens.audio in row:
            mels += _segments(reference_mel(clips[turn.item_id] / np.float32(32768)), row, tokens)
        ids += row
    out: dict[str, Any] = {"input_ids": torch.tensor([ids])}
    out["attention_mask"] = torch.ones_like(out["input_ids"])
    if mels:
        longest = max(mel.shape[1] for mel in mels)
        lengths = torch.tensor([mel.shape[1] for mel in mels])
        out["input_features"] = torch.stack([torch.nn.functional.pad(mel, (0, longest - mel.shape[1])) for mel in mels])
        out["feature_attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    if images:
        out["pixel_values"] = _pixels(images)
        out["image_grid_thw"] = torch.tensor([(1, *patches.grid) for patches in images])
    if videos:
        out["pixel_values_videos"] = torch.cat([_pixels(pairs) for pairs in videos])
        out["video_grid_thw"] = torch.tensor([(len(pairs), *pairs[0].grid) for pairs in videos])
        out["video_second_per_grid"] = torch.tensor([2 / watched.frames_per_second] * len(videos))
        out["use_audio_in_video"] = tokens.audio in ids
    return out


def _pixels(seen: Sequence[pictures.Patches]) -> Tensor:
    return torch.from_numpy(np.concatenate([patches.values for patches in seen]))


def _segments(mel: Tensor, ids: Sequence[int], tokens: TextTokens) -> Iterator[Tensor]:
    """The mel of each segment of a turn; all but the last are whole seconds."""
    counts: list[int] = []
    for token in ids:
        if token == tokens.audio_start:
            counts.append(0)
        elif token == tokens.audio:
            counts[-1] += 1
    at = 0
    for count in counts[:-1]:
        yield mel[:, at : at + count // 13 * 100]
        at += count // 13 * 100
    yield mel[:, at:]
