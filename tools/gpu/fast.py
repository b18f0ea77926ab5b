"""Both machines with every backend against the plain one on the same weights: sessions of different lengths in one
batch, and alone; and what a step of the thinker costs with each backend."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.choose import choose
from omni_rt.engine.qwen3_omni.backends.sdpa import Sdpa
from omni_rt.engine.qwen3_omni.backends.triton import Triton
from omni_rt.engine.qwen3_omni.eight_bit import NOTHING, EightBit, hold_experts
from omni_rt.engine.qwen3_omni.fast_machine import FastMachine
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.machine import Machine, PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.pieces import line
from omni_rt.engine.qwen3_omni.requests import Choice, Chunk, Frame, Line, Listening, Read
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER
from tools.gpu.costs import Clock
from tools.gpu.lines import Compared, typical

BATCHES = (1, 3, 8, 32)
# Rounding sends some rows of random routers to other experts, in either machine; Hugging Face's is as far off.
_BOUND = 0.05
_MEDIA = 13
_FRAMES = 2
# Tokens that a session holds whose step is timed.
_HELD = 1024
_GREEDY: dict[str, Any] = {"talking": TALKER.greedy(), "predicting": PREDICTOR.greedy()}

Pools = tuple[KVPool, KVPool]


class _Outcome:
    """What a machine made of some sessions: last hidden states [n, width] of three reads each, tokens, codes."""

    def __init__(self) -> None:
        self.hidden: list[Tensor] = []
        self.tokens: list[Any] = []
        self.codes: list[Tensor] = []

    @property
    def states(self) -> Tensor:
        return torch.stack(self.hidden)

    @property
    def frames(self) -> Tensor:
        """int64 [frames, n, 16]"""
        return torch.stack(self.codes)


def compare(
    omni: Omni, clock: Clock, batches: Sequence[int] = BATCHES, eight_bit: EightBit = NOTHING
) -> list[Compared]:
    """Two chunks, a token, frames and one token more for every session, greedily. The costs go to `clock`. What is to
    be in 8 bit stays so; then only the default backends are compared."""
    assert omni.talker is not None
    recorded: list[Tensor] = []
    frames = omni.talker.frames

    def spy(*given: Any, **more: Any) -> Tensor:
        made = frames(*given, **more)
        recorded.append(made)
        return made

    def plainly(backend: Backend, pools: Pools) -> dict[int, _Outcome]:
        """By the number of sessions."""
        machine = PlainMachine(omni, backend=backend, **_GREEDY)
        return {count: _run(machine, pools, range(count), lambda _: recorded[-1], omni) for count in batches}

    lines: list[Compared] = []
    omni.talker.frames = spy  # type: ignore[method-assign]
    try:
        pools = {Sdpa.page: _pools(omni, Sdpa.page, batches)}
        before = plainly(Sdpa(), pools[Sdpa.page])
        expected = before
        if eight_bit != NOTHING:
            hold_experts(omni)
        seen: dict[str, dict[int, _Outcome]] = {}
        for backend in _backends(omni) if eight_bit == NOTHING else [Triton()]:
            own = pools.get(backend.page) or _pools(omni, backend.page, batches)
            found = {} if isinstance(backend, Sdpa) or eight_bit != NOTHING else {"plain": plainly(backend, own)}
            found["fast"] = seen[backend.name] = _fast(omni, backend, own, clock, batches, lines, eight_bit)
            if eight_bit != NOTHING:  # the machine has put all of it in 8 bit by now
                expected = plainly(Sdpa(), pools[Sdpa.page])
                lines += _since(batches, {"fast": found["fast"], "plain": expected}, before)
            for kind, outcomes in found.items():
                what = f"{kind} machine with {backend.name}"
                for count in batches:
                    lines += _lines(f"{what}, {count} sessions: plain", outcomes[count], expected[count])
            if backend.name != "triton":
                for count in batches:
                    ours, other = seen[backend.name][count], seen["triton"][count]
                    lines += _lines(f"fast machine with {backend.name}, {count} sessions: with triton", ours, other)
            # the encoder's captured windows still hold the machine, whose graphs hold memory
            omni.thinker.model.audio_tower.captured.clear()
            gc.collect()
    finally:
        del omni.talker.frames
        PlainMachine(omni)  # puts the decoders' own backend back
    return lines


def _since(
    batches: Sequence[int], found: dict[str, dict[int, _Outcome]], before: dict[int, _Outcome]
) -> list[Compared]:
    """How far both machines are from the weights before they were in 8 bit."""
    lines: list[Compared] = []
    for kind, outcomes in found.items():
        for count in batches:
            what = f"{kind} machine, {count} sessions: weights before they were in 8 bit"
            lines += _lines(what, outcomes[count], before[count], bound=None)
    return lines


def _fast(
    omni: Omni,
    backend: Backend,
    pools: Pools,
    clock: Clock,
    batches: Sequence[int],
    lines: list[Compared],
    eight_bit: EightBit,
) -> dict[int, _Outcome]:
    """What sessions in one batch come to, by their number; `lines` gets how far each alone is from that."""
    # all sizes are captured of what is served by default; of the others those that are needed, since it takes long
    sizes: dict[str, Any] = {} if isinstance(backend, Triton) else {"batches": _sizes(batches), "rows": (128, 512)}
    machine = FastMachine(
        omni, pools[0], pools[1], backend=backend, lines=max(batches), eight_bit=eight_bit, **sizes, **_GREEDY
    )

    def codes(count: int) -> Tensor:
        assert machine._talker is not None
        return machine._talker.codes(count)

    found = {}
    for count in batches:
        numbers = range(count)
        found[count] = together = _run(machine, pools, numbers, codes, omni)
        if count > 1:
            alone = [_run(machine, pools, [number], codes, omni) for number in numbers]
            one = _Outcome()
            one.hidden = [each.hidden[step] for step in range(3) for each in alone]
            one.tokens = [[token for each in alone for token in each.tokens[step]] for step in range(2)]
            one.codes = [torch.cat([each.codes[step] for each in alone]) for step in range(_FRAMES)]
            lines += _lines(f"fast machine with {backend.name}, {count} sessions in one batch: alone", together, one)
        _step(machine, pools[0], f"thinker_step_{backend.name}_{count}", count, clock)
    return found


def _step(machine: FastMachine, pool: KVPool, name: str, count: int, clock: Clock) -> None:
    """A token of every session, each behind `_HELD` others; what those are does not change what it costs."""
    caches = [pool.new() for _ in range(count)]
    for cache in caches:
        cache.reserve(_HELD)
        cache.commit(_HELD)
    choice = Choice(0.6, "reply", 0.5)

    def step() -> None:
        chunks = [Chunk(cache, [5000], line(1, _HELD), lambda _: None) for cache in caches]
        machine.run([Read(chunk, choice=choice) for chunk in chunks])

    def back() -> None:
        for cache in caches:
            cache.truncate(_HELD)

    clock(name, step, after=back)
    for cache in caches:
        cache.close()


def _backends(omni: Omni) -> list[Backend]:
    """Those that can be here."""
    assert omni.spec.talker is not None
    found: list[Backend] = [Triton(), Sdpa()]
    head_dims = omni.spec.text.head_dim, omni.spec.talker.decoder.head_dim
    try:
        found.append(choose("flash", fast=True, device=omni.device, dtype=omni.dtype, head_dims=head_dims))
    except EngineError as error:
        print(f"  without flash: {error}", flush=True)
    return found


def _pools(omni: Omni, page: int, batches: Sequence[int]) -> Pools:
    """Of thinker and talker."""
    assert omni.spec.talker is not None
    tokens = max(batches) * (_HELD + page)
    shape: dict[str, Any] = {"tokens": tokens, "page": page, "device": omni.device, "dtype": omni.dtype}
    return KVPool(omni.spec.text, **shape), KVPool(omni.spec.talker.decoder, **shape)


def _sizes(batches: Sequence[int]) -> list[int]:
    return sorted({1 << (count - 1).bit_length() for count in batches})


def _lines(what: str, ours: _Outcome, theirs: _Outcome, bound: float | None = _BOUND) -> list[Compared]:
    pairs = [pair for lists in zip(ours.tokens, theirs.tokens, strict=True) for pair in zip(*lists, strict=True)]
    same, tokens = sum(a == b for a, b in pairs), len(pairs)
    first = (ours.frames[0, :, 0] == theirs.frames[0, :, 0]).float().mean()
    every = (ours.frames[0] == theirs.frames[0]).float().mean()
    note = (
        f"median of the sessions; {same} of {tokens} greedy tokens are the same, of the first frame "
        f"{100 * float(first):.0f} % of the first codes and {100 * float(every):.0f} % of all"
    )
    apart = typical(ours.states, theirs.states)
    # a near tie or another expert makes another token; nothing else may
    wrong = int(same < 0.75 * tokens) + int(float(first) < 0.5)
    return [Compared(what, len(ours.hidden), apart, bound=bound, note=note, wrong=wrong)]


def _run(
    machine: Machine, pools: Pools, sessions: Sequence[int], codes: Callable[[int], Tensor], omni: Omni
) -> _Outcome:
    out, device, width = _Outcome(), omni.device, omni.spec.text.hidden
    pool, talker_pool = pools
    caches = [(pool.new(), talker_pool.new()) for _ in sessions]

    def read(number: int, n: int, *, last: bool) -> Read:
        cache, talker_cache = caches[sessions.index(number)]
        rng = np.random.default_rng(1000 * number + n)
        drawn = torch.randn(_MEDIA, width, generator=torch.Generator().manual_seed(number))
        features = drawn.to(device, pool.keys.dtype)
        listening = Listening(
            talker_cache, talker_cache.length, range(n), range(_MEDIA), line(n, float(talker_cache.length))
        )
        ids = [int(token) for token in rng.integers(1000, 140_000, n)]
        chunk = Chunk(
            cache, ids, line(n, cache.length), lambda h: out.hidden.append(h.clone()), features, range(_MEDIA),
            listening=listening,
        )  # fmt: skip
        rows = talker_cache.length + n
        begun = Line(talker_cache, rows, float(rows), "Ethan") if last else None
        return Read(chunk, choice=Choice(0.0, "reply", 0.0) if last else None, line=begun)

    lengths = [20 + 7 * number % 90 for number in sessions]
    parts = [list(range(start, min(start + 8, len(sessions)))) for start in range(0, len(sessions), 8)]
    for part in parts:  # a pass has 512 rows at most
        machine.run([read(sessions[k], lengths[k], last=False) for k in part])
    lines: list[Line] = []
    tokens: list[Any] = []
    for part in parts:
        asked = [read(sessions[k], 16 + sessions[k] % 5, last=True) for k in part]
        tokens += machine.run(asked)
        lines += [each.line for each in asked if each.line is not None]
    out.tokens.append(tokens)
    for step in range(_FRAMES):
        of = zip(lines, sessions, strict=True)
        machine.run([Frame(one, 1000 + 10 * step + number, "eos", torch.zeros(16)) for one, number in of])
        out.codes.append(codes(len(lines)).clone())
    nexts = []
    for (cache, _), number in zip(caches, sessions, strict=True):
        chunk = Chunk(cache, [5000 + number], line(1, cache.length), lambda h: out.hidden.append(h.clone()))
        nexts.append(Read(chunk, choice=Choice(0.0, "reply", 0.0)))
    out.tokens.append(machine.run(nexts))
    for one in lines:
        machine.release(one)
    for pair in caches:
        for each in pair:
            each.close()
    return out
