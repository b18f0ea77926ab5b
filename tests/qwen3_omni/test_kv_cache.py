"""Sequences in shared pages behave like lists of their own."""

import numpy as np
import pytest
import torch

from omni_rt.engine.qwen3_omni.kv_cache import CacheFull, KVCache, KVPool
from omni_rt.engine.qwen3_omni.spec import DecoderSpec, RopeSpec


def spec(context: int = 1000) -> DecoderSpec:
    return DecoderSpec(
        hidden=8,
        layers=2,
        heads=1,
        kv_heads=1,
        head_dim=2,
        vocab=10,
        mlp=8,
        rope=RopeSpec(1e4),
        eps=1e-6,
        context=context,
    )


def pool_of(tokens: int, page: int = 4, context: int = 1000) -> KVPool:
    return KVPool(spec(context), tokens=tokens, page=page)


def write(cache: KVCache, values: list[int]) -> None:
    """Appends tokens whose key is the value in layer 0, its negative in layer 1, and the values the other way."""
    cache.reserve(len(values))
    slots = torch.from_numpy(cache.slots(len(values)))
    numbers = torch.tensor(values, dtype=torch.float32)[:, None, None].expand(-1, 1, 2)
    for layer, sign in enumerate((1, -1)):
        cache.pool.keys[layer].index_copy_(0, slots, sign * numbers)
        cache.pool.values[layer].index_copy_(0, slots, -sign * numbers)
    cache.commit(len(values))


def read(cache: KVCache) -> list[int]:
    page = cache.pool.page
    slots = [number * page + row for number in cache.pages for row in range(page)][: cache.length]
    found = cache.pool.keys[0, slots, 0, 0]
    assert torch.equal(cache.pool.keys[1, slots, 0, 1], -found)
    assert torch.equal(cache.pool.values[0, slots, 0, 0], -found)
    return [int(each) for each in found]


@pytest.mark.parametrize("seed", range(20))
def test_any_course_of_events_equals_plain_lists(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = pool_of(int(rng.integers(40, 120)), page=int(rng.integers(1, 9)))
    alive: list[tuple[KVCache, list[int]]] = [(pool.new(), [])]
    written = refused = 0
    for step in range(300):
        cache, model = alive[rng.integers(len(alive))]
        act = rng.choice(["append", "append", "append", "truncate", "fork", "close", "new", "fail"])
        values = list(range(written, written + int(rng.integers(0, 20))))
        if act in ("append", "fail"):
            before = pool.free_tokens, cache.length, cache.pages
            try:
                if act == "append":
                    write(cache, values)
                    model += values
                    written += len(values)
                else:
                    cache.reserve(len(values))
                    cache.truncate(cache.length)
            except CacheFull:
                refused += 1
                assert (pool.free_tokens, cache.length, cache.pages) == before
        elif act == "truncate":
            del model[int(rng.integers(len(model) + 1)) :]
            cache.truncate(len(model))
        elif act == "fork" and len(alive) < 6:
            alive.append((cache.fork(), list(model)))
        elif act == "close" and len(alive) > 1:
            cache.close()
            alive = [each for each in alive if each[0] is not cache]
        elif act == "new" and len(alive) < 6:
            alive.append((pool.new(), []))
        for each, expected in alive:
            assert each.length == len(expected)
            assert read(each) == expected, f"step {step}: {act}"
        used = {page for each, _ in alive for page in each.pages}
        assert pool.free_tokens == pool.tokens - len(used) * pool.page
    assert written
    assert refused
    for each, _ in alive:
        each.close()
    assert pool.free_tokens == pool.tokens


def test_a_fork_takes_no_room_until_it_writes() -> None:
    pool = pool_of(64)
    cache = pool.new()
    write(cache, list(range(10)))
    free = pool.free_tokens
    twin = cache.fork()
    assert pool.free_tokens == free
    write(twin, [77])
    assert pool.free_tokens == free - pool.page  # a copy of the last page, which had room
    assert twin.pages[:2] == cache.pages[:2]
    assert read(cache) == list(range(10))
    assert read(twin) == [*range(10), 77]


def test_full_pages_are_never_copied() -> None:
    pool = pool_of(64)
    cache = pool.new()
    write(cache, list(range(8)))
    twin = cache.fork()
    write(twin, [77])
    assert twin.pages[:2] == cache.pages


def test_a_sequence_longer_than_the_model_allows_is_refused_by_name() -> None:
    cache = pool_of(64, context=20).new()
    write(cache, list(range(18)))
    with pytest.raises(CacheFull, match="3 more tokens would make 21, the limit is 20") as caught:
        cache.reserve(3)
    assert (caught.value.code, caught.value.needed, caught.value.free) == ("context_full", 3, 2)
    cache.reserve(2)


def test_a_full_pool_names_what_is_needed_and_what_is_free() -> None:
    pool = pool_of(16)
    first, second = pool.new(), pool.new()
    write(first, list(range(9)))
    with pytest.raises(CacheFull, match="8 tokens of cache memory are needed and 4 of 16 are free") as caught:
        second.reserve(5)
    assert (caught.value.code, caught.value.needed, caught.value.free) == ("busy", 8, 4)
    first.close()
    second.reserve(5)


def test_closing_twice_gives_back_once_and_nothing_is_written_afterwards() -> None:
    pool = pool_of(16)
    cache = pool.new()
    write(cache, [1, 2, 3])
    twin = cache.fork()
    cache.close()
    cache.close()
    assert read(twin) == [1, 2, 3]
    assert pool.free_tokens == 12
    with pytest.raises(RuntimeError, match="closed"):
        cache.reserve(1)
    with pytest.raises(RuntimeError, match="closed"):
        cache.fork()


@pytest.mark.parametrize("length", [-1, 4])
def test_truncating_to_a_length_that_is_not_there_is_refused(length: int) -> None:
    cache = pool_of(16).new()
    write(cache, [1, 2, 3])
    with pytest.raises(ValueError, match="cannot truncate 3 tokens"):
        cache.truncate(length)
