"""Code2Wav in pieces against Hugging Face's decoder on the whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.code2wav import Code2Wav
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line

BOUND = 1e-5
LONGEST = 400


def decoder(drawn: Draw) -> Code2Wav:
    """Ours with the reference's weights."""
    assert drawn.spec.code2wav is not None
    ours = Code2Wav(drawn.spec.code2wav)
    ours.load_state_dict(drawn.reference.code2wav.state_dict())
    return ours


def uncut(reference: nn.Module) -> nn.Module:
    """A copy of the reference that does not cut off the right sides of its transposed convolutions."""
    whole = copy.deepcopy(reference)
    for module in whole.modules():
        if hasattr(module, "right_pad"):
            module.forward = lambda x, m=module: m.conv(x)[..., m.left_pad :]
    return whole


def codes_of(drawn: Draw, rng: np.random.Generator, frames: int) -> Tensor:
    """Codes int64 [1, quantizers, frames]."""
    spec = drawn.spec.code2wav
    assert spec is not None
    return torch.from_numpy(rng.integers(0, spec.codebook, (1, spec.quantizers, frames)))


def chunks(rng: np.random.Generator, frames: int, longest: int) -> list[int]:
    """Random sizes from 1 to `longest` that add up to `frames`."""
    sizes: list[int] = []
    while frames:
        sizes.append(min(frames, int(rng.integers(1, longest + 1))))
        frames -= sizes[-1]
    return sizes


def streamed(ours: Code2Wav, codes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Samples [1, m] of the pieces and of the flush, joined."""
    state = ours.state()
    pieces = [ours.step(piece, state) for piece in torch.split(codes, list(sizes), -1)]
    return torch.cat([*pieces, ours.flush(state)], -1)


def lines(seed: int) -> list[Line]:
    drawn = draw(seed)
    with torch.inference_mode():
        return [_frame_by_frame(drawn), _in_chunks(drawn), _the_end(drawn), _together(drawn)]


def _error(ours: Tensor, reference: Tensor) -> float:
    if ours.shape != reference.shape:
        return float("inf")
    return float((ours - reference).abs().max())


def _frame_by_frame(drawn: Draw) -> Line:
    ours, reference, rng = decoder(drawn), drawn.reference.code2wav, drawn.rng("code2wav frame by frame")
    error = 0.0
    lengths = (1, 2, int(rng.integers(3, 100)), LONGEST)
    for frames in lengths:
        codes = codes_of(drawn, rng, frames)
        out = streamed(ours, codes, [1] * frames)[:, : -ours.lookahead]
        error = max(error, _error(out, reference(codes)[:, 0]))
    note = f"{', '.join(map(str, lengths))} frames"
    return Line("Code2Wav frame by frame = forward of the whole", BOUND, error, sum(lengths), note)


def _in_chunks(drawn: Draw) -> Line:
    ours, reference, rng = decoder(drawn), drawn.reference.code2wav, drawn.rng("code2wav in chunks")
    error, count = 0.0, 0
    for longest in (8, 120, LONGEST):
        frames = int(rng.integers(1, LONGEST + 1))
        codes = codes_of(drawn, rng, frames)
        sizes = chunks(rng, frames, longest)
        out = streamed(ours, codes, sizes)[:, : -ours.lookahead]
        error = max(error, _error(out, reference(codes)[:, 0]))
        count += len(sizes)
    return Line("Code2Wav in random chunks = forward of the whole", BOUND, error, count)


def _the_end(drawn: Draw) -> Line:
    ours, reference, rng = decoder(drawn), uncut(drawn.reference.code2wav), drawn.rng("code2wav end")
    error = 0.0
    lengths = [1, 2, *rng.integers(3, 100, 2).tolist()]
    for frames in lengths:
        codes = codes_of(drawn, rng, frames)
        out = streamed(ours, codes, chunks(rng, frames, 20))
        error = max(error, _error(out, reference(codes)[:, 0]))
    return Line("Code2Wav with its flush = forward without the cut on the right", BOUND, error, len(lengths))


def _together(drawn: Draw) -> Line:
    """Three replies of different ages, one of them just begun, decoded in one batch, and each of them on its own."""
    ours, rng = decoder(drawn), drawn.rng("code2wav together")
    before = [*rng.integers(1, 110, 2).tolist(), 0]
    states = [ours.state() for _ in before]
    alone: list[Tensor] = []
    after = [codes_of(drawn, rng, int(rng.integers(4, 12)))] + [codes_of(drawn, rng, 12)] * 2
    sizes = chunks(rng, after[0].shape[-1], 3)
    for state, frames, codes in zip(states, before, after, strict=True):
        if frames:
            ours.step(codes_of(drawn, rng, frames), state)
        fork = state.clone()
        pieces = [ours.push(piece, fork) for piece in torch.split(codes[..., : sum(sizes)], sizes, -1)]
        alone.append(torch.cat([*pieces, ours.flush(fork)], -1))
    batch = type(states[0]).stack(states)
    codes = torch.cat([codes[..., : sum(sizes)] for codes in after])
    together = torch.cat([*(ours.push(piece, batch) for piece in torch.split(codes, sizes, -1)), ours.flush(batch)], -1)
    apart = torch.cat([ours.flush(state) for state in batch.unstack()])
    error = max(_error(together, torch.cat(alone)), _error(apart, together[:, -ours.lookahead :]))
    return Line("Code2Wav of three replies at once = each alone", BOUND, error, 3, f"ages {before}")
