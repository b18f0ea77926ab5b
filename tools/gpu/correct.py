"""Encoders, thinker and Code2Wav of one precision against Hugging Face's and against float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.decoder import Deepstack, Span
from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from tools.gpu.lines import Compared, compared, typical
from tools.gpu.models import Pair, Prompt, experts, listening, widened

GREEDY = 16


def encode_audio(pair: Pair, mel: Tensor) -> Tensor:
    """Normalised mel [bands, frames] of a whole clip -> [tokens, output], a window at a time."""
    tower, window = pair.ours.thinker.model.audio_tower, pair.spec.audio.window_frames
    parts = torch.split(mel, window, dim=1)
    return torch.cat([tower.encode_window(part, mel.shape[1] >= pair.spec.audio.chunk_frames) for part in parts])


def audio(pair: Pair, frames: int) -> Compared:
    mel = torch.randn(pair.spec.audio.mel_bins, frames, device=pair.device) / 2
    lengths = torch.tensor([frames], device=pair.device)
    ours = encode_audio(pair, mel)
    theirs = pair.audio_tower(mel, feature_lens=lengths).last_hidden_state
    truth = widened(pair.audio_tower)(mel, feature_lens=lengths).last_hidden_state
    return compared(f"audio encoder, {frames / 100:g} s", ours, theirs, truth)


def vision(pair: Pair, grid: tuple[int, int]) -> list[Compared]:
    spec = pair.spec.vision
    width = spec.channels * spec.temporal_patch * spec.patch**2
    patches = torch.randn(grid[0] * grid[1], width, device=pair.device) / 2
    grids = torch.tensor([[1, *grid]], device=pair.device)
    ours = pair.ours.thinker.model.visual.encode(patches, [grid])
    theirs = pair.visual(patches, grid_thw=grids)
    truth = widened(pair.visual)(patches, grid_thw=grids)
    size = f"{grid[1] * spec.patch}x{grid[0] * spec.patch}"
    depths = [torch.cat(list(out.deepstack_features)) for out in (theirs, truth)]
    return [
        compared(f"vision {size}, tokens", ours.tokens, theirs.pooler_output, truth.pooler_output),
        compared(f"vision {size}, deepstack", ours.deepstack.flatten(0, 1), *depths),
    ]


def code2wav(pair: Pair, frames: int) -> Compared:
    """Frame by frame against the whole at once."""
    assert pair.ours.code2wav is not None
    assert pair.spec.code2wav is not None
    decoder, spec = pair.ours.code2wav, pair.spec.code2wav
    codes = torch.randint(0, spec.codebook, (1, spec.quantizers, frames), device=pair.device)
    state = decoder.state()
    ours = torch.cat([decoder.step(codes[..., at : at + 1], state) for at in range(frames)], dim=1)[0]
    theirs, truth = (module(codes)[0, 0] for module in (pair.theirs.code2wav, widened(pair.theirs.code2wav)))
    note = f"root mean square {float(truth.square().mean().sqrt()):.3f}, largest {float(truth.abs().max()):.3f}"
    return compared(f"Code2Wav, {frames} frames one by one", ours, theirs, truth, note=note)


@dataclass(slots=True)
class Run:
    """What one implementation made of the prompt and the tokens after it. `layers` are the outputs of the decoder's
    layers [rows, hidden], `routes` the experts [rows, top_k], both a list of pieces per layer."""

    layers: list[list[Tensor]]
    routes: list[list[Tensor]]
    logits: list[Tensor] = field(default_factory=list)
    accepted: Tensor | None = None

    @classmethod
    def of(cls, depth: int) -> Run:
        return cls([[] for _ in range(depth)], [[] for _ in range(depth)])

    def hear(self, layers: Sequence[Any]) -> Any:
        """Keep what these layers and their routers return."""
        depth = len(layers)

        def take(number: int, out: Any) -> None:
            if number < depth:
                rows = out[0] if isinstance(out, tuple) else out
                self.layers[number].append(rows.flatten(0, -2))
            else:
                self.routes[number - depth].append(next(t for t in reversed(out) if not t.is_floating_point()))

        return listening([*layers, *(layer.mlp.gate for layer in layers)], take)

    def layer(self, number: int) -> Tensor:
        return torch.cat(self.layers[number])

    def rerouted(self, other: Run) -> float:
        """Share of the experts chosen here that the other did not choose, over all rows and layers."""
        missed = total = 0
        for mine, its in zip(self.routes, other.routes, strict=True):
            a, b = torch.cat(mine), torch.cat(its)
            rows = min(len(a), len(b))
            missed += int((a[:rows, :, None] != b[:rows, None, :]).all(-1).sum())
            total += a[:rows].numel()
        return missed / total


def thinker(pair: Pair, prompt: Prompt) -> list[Compared]:
    """The prompt prefilled in chunks and sixteen greedy tokens, given those that Hugging Face chose."""
    theirs, tokens = _theirs(pair, prompt, GREEDY)
    ours, cache = _ours(pair, prompt, tokens)
    cache.close()
    with experts(pair, "eager"):
        other, _ = _theirs(pair, prompt, 0)
    truth = _truth(pair, prompt, tokens)
    n = len(prompt.ids)
    mine, its, exact, eager = (torch.cat(run.logits) for run in (ours, theirs, truth, other))
    lines = [
        compared("thinker prefill in chunks, logits of all rows", mine[:n], its[:n], exact[:n]),
        Compared(
            "thinker prefill in chunks, logits, median of the rows",
            n,
            apart=typical(mine[:n], its[:n]),
            ours=typical(mine[:n], exact[:n]),
            theirs=typical(its[:n], exact[:n]),
        ),
        compared(
            "thinker prefill in chunks, logits of the last row", mine[n - 1 : n], its[n - 1 : n], exact[n - 1 : n]
        ),
        _greedy(mine[n - 1 :], its[n - 1 :], exact[n - 1 :]),
    ]
    accept = pair.ours.thinker.accept_layer
    if accept is not None and ours.accepted is not None:
        states = (run.layer(accept - 1)[:n] for run in (theirs, truth))
        lines.append(compared("thinker prefill in chunks, state for the talker", ours.accepted[:n], *states))
    lines.append(_yardstick("Hugging Face's other experts (in place of ours): logits", eager[:n], its[:n], exact[:n]))
    lines.append(
        Compared(
            "share of routed experts that differ",
            n=n,
            apart=ours.rerouted(theirs),
            ours=ours.rerouted(truth),
            theirs=theirs.rerouted(truth),
            bound=None,
        )
    )
    depth = pair.spec.text.layers
    for number in sorted({1, *(d for d in (2, 4, 8, 16, 24, 32, 40) if d < depth), depth}):
        at_depth = (run.layer(number - 1)[:n] for run in (ours, theirs, truth))
        lines.append(_yardstick(f"hidden state after {number} layers", *at_depth))
    return lines


def _yardstick(what: str, ours: Tensor, theirs: Tensor, truth: Tensor) -> Compared:
    return compared(what, ours, theirs, truth, bound=None)


def _greedy(ours: Tensor, theirs: Tensor, truth: Tensor) -> Compared:
    """Where we choose another token than Hugging Face, it must be a tie: in float32 the two logits are no further
    apart than Hugging Face's largest error of that row."""
    mine, its = ours.argmax(-1), theirs.argmax(-1)
    differ = mine != its
    gap = (truth.gather(1, mine[:, None]) - truth.gather(1, its[:, None]))[:, 0].abs()
    error = (theirs.float() - truth).abs().amax(-1)
    wrong = int((differ & (gap > error)).sum())
    truth_differs = int((its != truth.argmax(-1)).sum())
    note = (
        f"{int(differ.sum())} differ, {wrong} of them no ties; Hugging Face's differs from float32 in {truth_differs}"
    )
    return replace(compared(f"{len(ours) - 1} greedy tokens, logits", ours, theirs, truth), wrong=wrong, note=note)


def _theirs(pair: Pair, prompt: Prompt, tokens: int) -> tuple[Run, list[int]]:
    """Hugging Face's: the whole prompt at once, then its own greedy tokens."""
    model = pair.language_model
    run = Run.of(len(model.layers))
    chosen: list[int] = []
    with run.hear(model.layers):
        out = pair.theirs.thinker(**prompt.inputs(pair.device), use_cache=True)
        run.logits.append(out.logits[0])
        cache = out.past_key_values
        for place in _places(prompt, tokens):
            chosen.append(int(run.logits[-1][-1].argmax()))
            embedded = model.embed_tokens(torch.tensor([chosen[-1:]], device=pair.device))
            positions = torch.full((3, 1, 1), place, device=pair.device)
            out = model(inputs_embeds=embedded, position_ids=positions, past_key_values=cache, use_cache=True)
            run.logits.append(pair.theirs.thinker.lm_head(out.last_hidden_state[0]))
    return run, chosen


def _places(prompt: Prompt, tokens: int) -> list[float]:
    first = float(prompt.positions.max()) + 1
    return [first + at for at in range(tokens)]


def _ours(pair: Pair, prompt: Prompt, tokens: list[int]) -> tuple[Run, KVCache]:
    """Our own encoders and the prompt in uneven chunks that cut picture and sound, then the tokens one by one."""
    thinker = pair.ours.thinker
    visual = thinker.model.visual.encode(prompt.patches, [prompt.grid])
    sound = encode_audio(pair, prompt.mel.to(pair.device))
    rows = embedded(pair, prompt, visual.tokens, sound)
    positions = torch.from_numpy(prompt.positions).to(pair.device)
    cache = KVPool(pair.spec.text, tokens=len(prompt.ids) + 64, device=pair.device, dtype=pair.dtype).new()
    run = Run.of(pair.spec.text.layers)
    accepted = []
    n = len(prompt.ids)
    image = prompt.image
    cuts = sorted({0, 7, image.start + 5, (image.start + image.stop) // 2, image.stop + 1, (n + image.stop) // 2, n})
    with run.hear(list(thinker.model.language_model.layers)):
        for start, end in pairwise(cuts):
            first, last = max(start, image.start), min(end, image.stop)
            deepstack = None
            if first < last:
                index = torch.arange(first - start, last - start, device=pair.device)
                deepstack = Deepstack(index, visual.deepstack[:, first - image.start : last - image.start])
            passed = thinker(rows[start:end], positions[:, start:end], [Span(cache, end - start)], deepstack=deepstack)
            run.logits.append(thinker.logits(passed.hidden))
            if passed.accepted is not None:
                accepted.append(passed.accepted)
        for token, place in zip(tokens, _places(prompt, len(tokens)), strict=True):
            row = thinker.embed(torch.tensor([token], device=pair.device))
            passed = thinker(row, torch.full((3, 1), place, device=pair.device), [Span(cache, 1)])
            run.logits.append(thinker.logits(passed.hidden))
    run.accepted = torch.cat(accepted) if accepted else None
    return run, cache


def embedded(pair: Pair, prompt: Prompt, picture: Tensor, sound: Tensor) -> Tensor:
    """[rows, hidden]: the prompt with its features, in their dtype."""
    rows = pair.ours.thinker.embed(torch.tensor(prompt.ids, device=pair.device)).to(sound.dtype)
    rows = rows.clone()
    rows[prompt.image] = picture
    rows[prompt.audio] = sound
    return rows


def _truth(pair: Pair, prompt: Prompt, tokens: list[int]) -> Run:
    """Hugging Face's layers in float32, one after the other through the same memory."""
    model, device = pair.language_model, pair.device
    grids = torch.tensor([[1, *prompt.grid]], device=device)
    lengths = torch.tensor([prompt.mel.shape[1]], device=device)
    seen = widened(pair.visual)(prompt.patches.to(device), grid_thw=grids)
    heard = widened(pair.audio_tower)(prompt.mel.to(device), feature_lens=lengths).last_hidden_state
    rows = embedded(pair, prompt, seen.pooler_output, heard)
    if tokens:
        rows = torch.cat([rows, pair.ours.thinker.embed(torch.tensor(tokens, device=device)).float()])
    places = np.concatenate(
        [prompt.positions, np.tile(np.asarray(_places(prompt, len(tokens)), np.float32), (3, 1))], axis=1
    )
    rotation = model.rotary_emb(rows, torch.from_numpy(places).to(device)[:, None])
    with experts(pair, "eager"), torch.device(device):
        layer: nn.Module = type(model.layers[0])(model.config, 0).float().eval()
        run = Run.of(len(model.layers))
        for number, source in enumerate(model.layers):
            layer.load_state_dict(source.state_dict())
            one = Run.of(1)
            with one.hear([layer]):
                out = layer(rows[None], position_embeddings=rotation)
            rows = (out[0] if isinstance(out, tuple) else out)[0]
            run.layers[number], run.routes[number] = one.layers[0], one.routes[0]
            if number < len(seen.deepstack_features):
                rows = rows.clone()
                rows[prompt.image] += torch.cat(list(_flat(seen.deepstack_features[number])))
    hidden = widened(model.norm)(rows)
    run.logits.append(F.linear(hidden, pair.theirs.thinker.lm_head.weight.float()))
    return run


def _flat(features: Any) -> tuple[Tensor, ...]:
    """Features of one block of the encoder: a tensor, or one for each picture."""
    return (features,) if isinstance(features, Tensor) else tuple(features)
