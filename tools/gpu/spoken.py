"""The talker's logits against those inside Hugging Face's `generate`, given the codes that it chose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni import code_predictor as predictor_module
from omni_rt.engine.qwen3_omni import talker as talker_module
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER, SamplingRows
from omni_rt.engine.qwen3_omni.talker import Talker
from tools.gpu.lines import Compared, compared
from tools.gpu.models import Pair, Prompt, listening

VOICE = "ethan"
_TEXT = 7


@dataclass(slots=True)
class Spoken:
    """A reply of Hugging Face's: `accepted` [rows, hidden] of the prompt, the tokens of its text, `codes`
    int64 [frames, 16] and the logits from which each was chosen, one after the other."""

    accepted: list[Tensor] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    codes: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: list[Tensor] = field(default_factory=list)


def talker(pair: Pair, prompt: Prompt, frames: int) -> list[Compared]:
    """The user's rows in two chunks, the prefix, and `frames` frames."""
    theirs = speak(pair, prompt, frames)
    assert pair.ours.talker is not None
    ours = _given(pair, prompt, theirs, pair.ours.talker)
    with torch.device("meta"):
        wide = Talker(pair.spec)
    weights = {name: weight.float() for name, weight in pair.ours.talker.state_dict().items()}
    wide.load_state_dict(weights, assign=True)
    truth = _given(pair, prompt, theirs, wide.eval())
    groups = theirs.codes.shape[1]
    lines = []
    for what, place in (("first codes", slice(0, 1)), (f"other {groups - 1} codes", slice(1, groups))):
        mine, its, exact = (
            torch.stack([row for at, row in enumerate(run) if place.start <= at % groups < place.stop])
            for run in (ours, theirs.logits, truth)
        )
        agree = int((mine.argmax(-1) == its.argmax(-1)).sum())
        note = f"the likeliest code is the same in {agree}"
        lines.append(compared(f"talker, {frames} frames, logits of the {what}", mine, its, exact, note=note))
    return lines


def speak(pair: Pair, prompt: Prompt, frames: int) -> Spoken:
    """`generate`, overheard. Greedy, in text and codes."""
    spoken = Spoken()
    assert pair.spec.talker is not None
    reference, accept = pair.theirs.talker, pair.spec.talker.accept_layer

    def accepted(_number: int, out: Any) -> None:
        if not spoken.accepted:
            spoken.accepted.append((out[0] if isinstance(out, tuple) else out).flatten(0, -2))

    def logits(_number: int, out: Tensor) -> None:
        spoken.logits.append(out.flatten(0, -2)[-1])

    heads = [reference.codec_head, *reference.code_predictor.lm_head]
    with (
        listening([pair.language_model.layers[accept - 1]], accepted),
        listening(heads, logits),
        silent(pair) as codes,
    ):
        ids, _ = pair.theirs.generate(
            **prompt.inputs(pair.device),
            return_audio=True,
            speaker=VOICE,
            thinker_max_new_tokens=_TEXT,
            thinker_eos_token_id=None,
            thinker_do_sample=False,
            talker_do_sample=False,
            talker_max_new_tokens=frames + 1,
            talker_min_new_tokens=frames + 1,
        )
    spoken.text = ids[0, len(prompt.ids) : -1].tolist()
    spoken.codes = codes[0][0].T[:frames]
    spoken.logits = spoken.logits[: spoken.codes.numel()]
    return spoken


@contextmanager
def silent(pair: Pair) -> Iterator[list[Tensor]]:
    """Hugging Face's `generate` puts the codes into the list in place of decoding them."""
    taken: list[Tensor] = []

    def keep(codes: Tensor, **_: Any) -> Tensor:
        taken.append(codes)
        return torch.zeros(1, 1, 1)

    pair.theirs.code2wav.chunked_decode = keep
    try:
        yield taken
    finally:
        del pair.theirs.code2wav.chunked_decode


def _given(pair: Pair, prompt: Prompt, spoken: Spoken, talker: Talker) -> list[Tensor]:
    """The logits of our talker, of whatever precision, where every code is the one in `spoken`."""
    dtype, device = talker.codec_head.weight.dtype, pair.device

    def embed(ids: Tensor) -> Tensor:
        return pair.ours.thinker.embed(ids).to(dtype)

    assert pair.spec.talker is not None
    cache = KVPool(pair.spec.talker.decoder, tokens=len(prompt.ids) + 128, device=device, dtype=dtype).new()
    fixed = talker.fixed_rows(embed)
    start, end = prompt.user.start, prompt.user.stop
    rows = embed(torch.tensor(prompt.ids, device=device))
    accepted = spoken.accepted[0].to(dtype)
    positions = torch.from_numpy(prompt.talker_positions).to(device)
    media = {*range(prompt.image.start, prompt.image.stop), *range(prompt.audio.start, prompt.audio.stop)}
    half = (start + end) // 2
    for first, last in ((start, half), (half, end)):
        inside = [row - first for row in range(first, last) if row in media]
        places = positions[:, first - start : last - start]
        talker.listen(cache, rows[first:last], accepted[first:last], inside, places)
    state = talker.start(cache, end - start, float(np.max(prompt.talker_positions)) + 1)
    talker.prefill([state], [fixed.prefix(VOICE)])
    text = embed(torch.tensor(spoken.text, device=device))
    how = [SamplingRows.of([params.greedy()], device) for params in (TALKER, PREDICTOR)]
    with _forced(spoken.codes.flatten()) as logits:
        for frame in range(len(spoken.codes)):
            if frame < len(text):
                row = talker.first_row(text[0]) if frame == 0 else talker.text_rows(text[frame])
            else:
                row = fixed.eos if frame == len(text) else fixed.pad
            talker.frames([state], row[None], how[0], how[1], torch.zeros(1, 16, device=device))
    return logits


@contextmanager
def _forced(codes: Tensor) -> Iterator[list[Tensor]]:
    """Every choice is the next of `codes`; hears the logits of each."""
    heard: list[Tensor] = []

    def choose(logits: Tensor, *_: Any, **__: Any) -> Tensor:
        heard.append(logits[0])
        return codes[len(heard) - 1 :][:1]

    with ExitStack() as stack:
        for module in (talker_module, predictor_module):
            stack.enter_context(patch.object(module, "choose", choose))
        yield heard
