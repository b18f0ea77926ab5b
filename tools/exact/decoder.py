"""The decoder of thinker and talker: chunked, packed, rolled back and forked, against one pass of Hugging Face's."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.decoder import Decoder, Deepstack, Span
from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.spec import DecoderSpec
from omni_rt.engine.qwen3_omni.thinker import Thinker
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line

BOUND = 1e-3
STREAMS = 4


def lines(seed: int) -> list[Line]:
    """Lengths, chunks, packings, rollbacks, forks, positions and visual rows are drawn from the seed."""
    drawn = draw(seed)
    with torch.inference_mode():
        return [*_thinker(drawn), _deepstack(drawn), _talker(drawn)]


def thinker(drawn: Draw) -> Thinker:
    """Ours, on the weights of Hugging Face's."""
    with torch.device("meta"):
        ours = Thinker(drawn.spec)
    ours.load_state_dict(drawn.reference.thinker.state_dict(), assign=True)
    return ours.eval()


def decoder(spec: DecoderSpec, theirs: nn.Module) -> Decoder:
    """Ours, on the weights of one of Hugging Face's text models, embeddings left out."""
    with torch.device("meta"):
        ours = Decoder(spec)
    names = set(ours.state_dict())
    state = {name: weight for name, weight in theirs.state_dict().items() if "embed" not in name}
    if set(state) != names:
        raise ValueError(f"names differ: {sorted(names ^ set(state))}")
    ours.load_state_dict(state, assign=True)
    return ours.eval()


@dataclass
class _Stream:
    """A sequence under way: all its rows, and what came out of those its cache holds."""

    cache: KVCache
    rows: Tensor
    positions: Tensor
    visual: Tensor
    values: Tensor
    hidden: list[Tensor] = field(default_factory=list)
    captured: list[Tensor] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.rows.shape[0] - self.cache.length


def _streams(rng: np.random.Generator, pool: KVPool, width: int, deepstack: int) -> list[_Stream]:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    out = []
    for _ in range(STREAMS):
        n = int(rng.integers(3, 90))
        visual = torch.rand(n, generator=generator) < (0.3 if deepstack else 0.0)
        out.append(
            _Stream(
                cache=pool.new(),
                rows=torch.randn(n, width, generator=generator) / 2,
                # fractions, and each axis on its own
                positions=torch.rand(3, n, generator=generator).mul(3).cumsum(1),
                visual=visual,
                values=torch.randn(deepstack, n, width, generator=generator) / 2,
            )
        )
    return out


def _course(rng: np.random.Generator, decoder: Decoder, streams: list[_Stream], capture: int | None) -> int:
    """Runs all streams to their end in random packed chunks, with rollbacks and forks. How many passes it took."""
    passes, twists = 0, 6
    while any(stream.left for stream in streams):
        stream = streams[rng.integers(len(streams))]
        if twists and stream.cache.length and rng.random() < 0.3:
            twists -= 1
            if rng.random() < 0.5:
                _truncate(stream, int(rng.integers(stream.cache.length)))
            else:
                streams.append(_fork(rng, stream, streams))
        moving = [each for each in streams if each.left and rng.random() < 0.7]
        if not moving:
            continue
        rng.shuffle(moving)
        _pass(decoder, [(each, int(rng.integers(1, min(each.left, 40) + 1))) for each in moving], capture)
        passes += 1
    return passes


def _truncate(stream: _Stream, length: int) -> None:
    stream.cache.truncate(length)
    stream.hidden = [torch.cat(stream.hidden)[:length]]
    stream.captured = [torch.cat(stream.captured)[:length]]


def _fork(rng: np.random.Generator, stream: _Stream, streams: list[_Stream]) -> _Stream:
    """The same beginning, followed by another stream's rows."""
    other, length = streams[rng.integers(len(streams))], stream.cache.length

    def joined(mine: Tensor, theirs: Tensor, dim: int) -> Tensor:
        return torch.cat((mine.narrow(dim, 0, length), theirs), dim)

    return _Stream(
        cache=stream.cache.fork(),
        rows=joined(stream.rows, other.rows, 0),
        positions=joined(stream.positions, other.positions + stream.positions[:, length - 1 : length], 1),
        visual=joined(stream.visual, other.visual, 0),
        values=joined(stream.values, other.values, 1),
        hidden=list(stream.hidden),
        captured=list(stream.captured),
    )


def _pass(decoder: Decoder, chunks: list[tuple[_Stream, int]], capture: int | None) -> None:
    parts = [(stream, slice(stream.cache.length, stream.cache.length + n)) for stream, n in chunks]
    visual = torch.cat([stream.visual[part] for stream, part in parts])
    index = visual.nonzero()[:, 0]
    values = torch.cat([stream.values[:, part] for stream, part in parts], dim=1)[:, index]
    passed = decoder(
        torch.cat([stream.rows[part] for stream, part in parts]),
        torch.cat([stream.positions[:, part] for stream, part in parts], dim=1),
        [Span(stream.cache, n) for stream, n in chunks],
        deepstack=Deepstack(index, values) if len(index) and len(values) else None,
        capture=capture,
    )
    captured = passed.hidden if passed.captured is None else passed.captured
    sizes = [n for _, n in chunks]
    for (stream, _), hidden, taken in zip(chunks, passed.hidden.split(sizes), captured.split(sizes), strict=True):
        stream.hidden.append(hidden)
        stream.captured.append(taken)


def _pool(rng: np.random.Generator, spec: DecoderSpec) -> KVPool:
    return KVPool(spec, tokens=4096, page=int(rng.integers(1, 33)))


def _thinker(drawn: Draw) -> list[Line]:
    """Text: ids in, logits and accepted states out."""
    rng, theirs, ours = drawn.rng("decoder text"), drawn.reference.thinker, thinker(drawn)
    spec, accept = drawn.spec.text, ours.accept_layer
    assert accept is not None
    streams = _streams(rng, _pool(rng, spec), spec.hidden, 0)
    for stream in streams:
        n = stream.rows.shape[0]
        stream.rows = ours.embed(torch.from_numpy(rng.integers(0, spec.vocab, n)))
        stream.positions = torch.arange(n, dtype=torch.float32).expand(3, n)
    passes = _course(rng, ours.model.language_model, streams, accept)
    logits = states = 0.0
    for stream in streams:
        whole = theirs.model.language_model(
            inputs_embeds=stream.rows[None],
            position_ids=stream.positions[:, None],
            output_hidden_states=True,
            use_cache=False,
        )
        logits = max(logits, _error(ours.logits(torch.cat(stream.hidden)), theirs.lm_head(whole.last_hidden_state[0])))
        states = max(states, _error(torch.cat(stream.captured), whole.hidden_states[accept][0]))
    rows = sum(stream.rows.shape[0] for stream in streams)
    note = f"{len(streams)} sequences, {passes} packed passes, with rollbacks and forks"
    return [
        Line("thinker, text in random chunks = one pass: logits", BOUND, logits, rows, note),
        Line("thinker, text in random chunks = one pass: state for the talker", BOUND, states, rows),
    ]


def _deepstack(drawn: Draw) -> Line:
    rng, theirs, spec = drawn.rng("decoder deepstack"), drawn.reference.thinker.model.language_model, drawn.spec.text
    capture = int(rng.integers(1, spec.layers + 1))
    streams = _streams(rng, _pool(rng, spec), spec.hidden, int(rng.integers(1, spec.layers + 1)))
    _course(rng, decoder(spec, theirs), streams, capture)
    error = 0.0
    for stream in streams:
        whole = theirs(
            inputs_embeds=stream.rows[None],
            position_ids=stream.positions[:, None],
            visual_pos_masks=stream.visual[None],
            deepstack_visual_embeds=list(stream.values[:, stream.visual]),
            output_hidden_states=True,
            use_cache=False,
        )
        error = max(error, _error(torch.cat(stream.hidden), whole.last_hidden_state[0]))
        error = max(error, _error(torch.cat(stream.captured), whole.hidden_states[capture][0]))
    rows = sum(stream.rows.shape[0] for stream in streams)
    return Line("thinker, visual rows with deepstack in random chunks = one pass", BOUND, error, rows)


def _talker(drawn: Draw) -> Line:
    assert drawn.spec.talker is not None
    rng, theirs, spec = drawn.rng("decoder talker"), drawn.reference.talker.model, drawn.spec.talker.decoder
    streams = _streams(rng, _pool(rng, spec), spec.hidden, 0)
    _course(rng, decoder(spec, theirs), streams, None)
    error = 0.0
    for stream in streams:
        whole = theirs(inputs_embeds=stream.rows[None], position_ids=stream.positions[:, None], use_cache=False)
        error = max(error, _error(torch.cat(stream.hidden), whole.last_hidden_state[0]))
    rows = sum(stream.rows.shape[0] for stream in streams)
    return Line("talker's decoder, in random chunks = one pass", BOUND, error, rows)


def _error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite where the shapes differ."""
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
