"""The fast machine against the plain one on the same weights: sessions of different lengths in one batch, and alone.

With weights in 8 bit the plain machine has the numbers that these stand for; how far these are from the model before is
told as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.qwen3_omni.eight_bit import NOTHING, EightBit
from omni_rt.engine.qwen3_omni.fast_machine import FastMachine
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.machine import Machine, PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.pieces import line
from omni_rt.engine.qwen3_omni.requests import Choice, Chunk, Frame, Line, Listening, Read
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER
from tools.gpu.lines import Compared, typical

BATCHES = (1, 3, 8, 32)
# Rounding sends some rows of random routers to other experts, in either machine; Hugging Face's is as far off.
_BOUND = 0.05
_MEDIA = 13
_FRAMES = 2


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


def compare(omni: Omni, batches: Sequence[int] = BATCHES, eight_bit: EightBit = NOTHING) -> list[Compared]:
    """Two chunks, a token, frames and one token more for every session, greedily. What is to be in 8 bit stays so."""
    assert omni.spec.talker is not None
    assert omni.talker is not None
    shape: dict[str, Any] = {"tokens": 2 * max(batches) * 192, "device": omni.device, "dtype": omni.dtype}
    pool, talker_pool = KVPool(omni.spec.text, **shape), KVPool(omni.spec.talker.decoder, **shape)
    greedy = {"talking": TALKER.greedy(), "predicting": PREDICTOR.greedy()}
    plain = PlainMachine(omni, **greedy)
    recorded: list[Tensor] = []
    frames = omni.talker.frames

    def spy(*given: Any, **more: Any) -> Tensor:
        made = frames(*given, **more)
        recorded.append(made)
        return made

    def by_plain(count: int) -> _Outcome:
        assert omni.talker is not None
        omni.talker.frames = spy  # type: ignore[method-assign]
        made = _run(plain, pool, talker_pool, range(count), lambda _: recorded[-1], width)
        del omni.talker.frames  # type: ignore[method-assign]
        return made

    width = omni.spec.text.hidden
    before = {count: by_plain(count) for count in batches} if eight_bit != NOTHING else {}
    fast = FastMachine(omni, pool, talker_pool, lines=max(batches), eight_bit=eight_bit, **greedy)

    def of_fast(count: int) -> Tensor:
        assert fast._talker is not None
        return fast._talker.codes(count)

    lines = []
    for count in batches:
        numbers = range(count)
        expected = by_plain(count)
        together = _run(fast, pool, talker_pool, numbers, of_fast, width)
        lines += _lines(f"fast machine, {count} sessions: plain", together, expected)
        if count in before:
            of = f"{count} sessions: weights before they were in 8 bit"
            lines += _lines(f"fast machine, {of}", together, before[count], bound=None)
            lines += _lines(f"plain machine, {of}", expected, before[count], bound=None)
        if count > 1:
            alone = [_run(fast, pool, talker_pool, [number], of_fast, width) for number in numbers]
            one = _Outcome()
            one.hidden = [each.hidden[step] for step in range(3) for each in alone]
            one.tokens = [[token for each in alone for token in each.tokens[step]] for step in range(2)]
            one.codes = [torch.cat([each.codes[step] for each in alone]) for step in range(_FRAMES)]
            lines += _lines(f"fast machine, {count} sessions in one batch: alone", together, one)
    return lines


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
    machine: Machine,
    pool: KVPool,
    talker_pool: KVPool,
    sessions: Sequence[int],
    codes: Callable[[int], Tensor],
    width: int,
) -> _Outcome:
    out, device = _Outcome(), pool.keys.device
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
