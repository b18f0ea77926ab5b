"""The whole model, and where it comes from: a checkpoint folder, or random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO, cast

import torch
from torch import nn

from omni_rt.engine.qwen3_omni.checkpoint import read_headers, read_spec
from omni_rt.engine.qwen3_omni.code2wav import Code2Wav
from omni_rt.engine.qwen3_omni.eight_bit import NOTHING, EightBit, hold_experts
from omni_rt.engine.qwen3_omni.random_weights import RandomSource, fill_randomly
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from omni_rt.engine.qwen3_omni.talker import Talker
from omni_rt.engine.qwen3_omni.thinker import Thinker
from omni_rt.engine.qwen3_omni.weights import Progress, fill, materialise, plan
from omni_rt.models.progress import Progress as Bar


class Omni(nn.Module):
    """Thinker, talker and Code2Wav with the parameter names of transformers 5; weights only, no session's state.

    `talker` and `code2wav` are None in a model that only writes.
    """

    def __init__(self, spec: OmniSpec) -> None:
        super().__init__()
        self.spec = spec
        self.thinker = Thinker(spec)
        self.talker = None if spec.talker is None else Talker(spec)
        self.code2wav = None if spec.code2wav is None else Code2Wav(spec.code2wav)

    @property
    def device(self) -> torch.device:
        return self.thinker.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.thinker.lm_head.weight.dtype

    @property
    def heads(self) -> list[nn.Linear]:
        """The thinker's and the predictor's."""
        heads = [self.thinker.lm_head]
        if self.talker is not None:
            heads += [cast(nn.Linear, head) for head in self.talker.code_predictor.lm_head]
        return heads


def load(
    source: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    eight_bit: EightBit = NOTHING,
    progress: Progress | None = None,
) -> Omni:
    """From a checkpoint folder, or `random:PRESET[:SEED]`; `progress` hears how many bytes of how many are in place.

    The experts are in 8 bit where `eight_bit` says so, each tensor as soon as it is read; the rest is the machine's.
    Nothing is allocated before names, shapes, files and memory are known to fit. Raises EngineError: `unknown_weights`,
    `weights_missing`, `weights_damaged`, `weights_mismatch`, `weights_unreadable`, `bad_config`, `too_little_memory`,
    `no_device`.
    """
    device = torch.device(device)
    chance = RandomSource.parse(source)
    spec = read_spec(Path(source)) if chance is None else chance.spec()
    with torch.device("meta"):
        model = Omni(spec).eval()
    planned = plan(model, read_headers(Path(source))) if chance is None else []
    shape(model, dtype, eight_bit)
    materialise(model, device)
    if chance is None:
        fill(model, planned, progress)
    else:
        fill_randomly(model, chance.seed, progress)
    return model


def shape(model: Omni, dtype: torch.dtype, eight_bit: EightBit) -> None:
    """Give a model on the meta device the dtypes that it is to have."""
    model.to(dtype)
    if eight_bit.experts:
        hold_experts(model)


@contextmanager
def loading_bar(out: TextIO) -> Iterator[Progress]:
    """Something to give to `load`: a running total on a terminal, a line now and then in a log."""
    with ExitStack() as stack:
        bar: Bar | None = None
        told = 0

        def progress(done: int, total: int) -> None:
            nonlocal bar, told
            if bar is None:
                bar = stack.enter_context(Bar(out, total, doing="loading weights"))
            bar.add(done - told)
            told = done

        yield progress
