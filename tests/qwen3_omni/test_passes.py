"""The numbers of a pass of single rows: packed into the host's memory and taken from there, they are those that the
general way leaves on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.attention import Span
from omni_rt.engine.qwen3_omni.kernels.fetch import fetch
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.passes import Bucket, PassMemory
from omni_rt.engine.qwen3_omni.spec import DecoderSpec, RopeSpec

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SPEC = DecoderSpec(
    hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, vocab=10, mlp=8, rope=RopeSpec(1e4), eps=1e-6, context=640
)


def memory(pool: KVPool, *, staged: bool) -> PassMemory:
    # with tables it is the general way that writes
    return PassMemory(
        pool, most=8, sequences=8, fields=("token", "heat", "greedy"), floats=("heat",), device=DEVICE,
        tables=not staged, staged=staged,
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "sequences"), [(1, 1), (2, 1), (2, 2), (8, 2), (8, 5), (8, 8)])
def test_packed_numbers_are_those_of_the_general_way(rows: int, sequences: int) -> None:
    rng = np.random.default_rng(rows * 10 + sequences)
    pool = KVPool(SPEC, tokens=4096, page=64, device=DEVICE)
    packed, general = memory(pool, staged=True), memory(pool, staged=False)
    bucket = Bucket(rows, 1, rows)
    staging = packed.staging(bucket)
    assert staging is not None
    assert general.staging(bucket) is None
    for _ in range(3):  # each time what the last one left is underneath
        caches = [pool.new() for _ in range(sequences)]
        for cache in caches:
            length = int(rng.integers(0, 600))
            cache.reserve(length + 1)
            cache.commit(length)
        positions = rng.standard_normal((3, sequences)).astype(np.float32)
        fields = {
            "token": rng.integers(0, 10, sequences).tolist(),
            "heat": rng.random(sequences).astype(np.float32).tolist(),
        }
        for each in (packed, general):
            each.write(bucket, [Span(cache, 1) for cache in caches], positions, fields)
        fetch(staging[0], packed.numbers, staging[1])
        packed.launched()
        ours, theirs = packed.view(bucket), general.view(bucket)
        for name, field in theirs.fields.items():
            assert torch.equal(ours.fields[name], field), name
            assert field.dtype == (torch.float32 if name == "heat" else torch.int32)
        assert torch.equal(ours.positions, theirs.positions)
        assert torch.equal(ours.slots, theirs.slots)
        assert torch.equal(ours.reading.lengths, theirs.reading.lengths)
        live = slice(0, sequences)
        for part in ("first", "counts", "begins", "starts"):
            assert torch.equal(getattr(ours.reading, part)[live], getattr(theirs.reading, part)[live]), part
        assert not ours.reading.counts[sequences:].any()
        held = sum(len(cache.pages) for cache in caches)
        assert torch.equal(ours.reading.pages[:held], theirs.reading.pages[:held])
        for cache in caches:
            cache.close()


def test_a_pass_of_several_rows_a_sequence_is_not_staged() -> None:
    pool = KVPool(SPEC, tokens=640, page=64, device=DEVICE)
    assert memory(pool, staged=True).staging(Bucket(8, 8, 2)) is None


def test_too_many_pages_change_nothing() -> None:
    pool = KVPool(SPEC, tokens=128, page=64, device=DEVICE)
    cache = pool.new()
    cache.reserve(128)
    cache.commit(127)
    packed = PassMemory(pool, most=8, sequences=1, fields=("token",), device=DEVICE, staged=True)
    forks = [cache.fork() for _ in range(7)]
    with pytest.raises(EngineError, match="pages") as raised:
        packed.write(Bucket(8, 1, 8), [Span(each, 1) for each in (cache, *forks)], np.zeros((3, 8), np.float32), {})
    assert raised.value.code == "busy"
