"""Everything that attends over pages gives the same: against plain attention in float64, and so against each other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.attention import Span, planned, write
from omni_rt.engine.qwen3_omni.backends import choose as choosing
from omni_rt.engine.qwen3_omni.backends import flash, sdpa
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.choose import choose, page_of
from omni_rt.engine.qwen3_omni.backends.flash import Flash
from omni_rt.engine.qwen3_omni.backends.sdpa import Sdpa
from omni_rt.engine.qwen3_omni.backends.triton import Triton
from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.passes import BLOCK, Bucket, PassMemory, Reading, Tables
from omni_rt.engine.qwen3_omni.spec import DecoderSpec, RopeSpec
from tests.qwen3_omni.flash_stand_in import FlashStandIn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPEC = DecoderSpec(
    hidden=16, layers=2, heads=6, kv_heads=2, head_dim=24, vocab=10, mlp=8, rope=RopeSpec(1e4), eps=1e-6, context=900
)
HERE: dict[str, Callable[[], Backend]] = {
    "triton": Triton,
    "sdpa": Sdpa,
    "flash": lambda: Flash(FlashStandIn((torch.float32,))),
}
Rows = tuple[Tensor, Tensor]
"""Keys and values [n, kv_heads, head_dim]."""


@dataclass
class Sequences:
    """Caches over one pool and, kept beside them, what each must hold."""

    rng: np.random.Generator
    pool: KVPool
    held: dict[KVCache, Rows]

    @classmethod
    def drawn(cls, seed: int, page: int, dtype: torch.dtype = torch.float32) -> Sequences:
        """Some caches, some of them forks that went another way. What nobody wrote is no number."""
        pool = KVPool(SPEC, tokens=4096, page=page, device=DEVICE, dtype=dtype)
        pool.keys.fill_(torch.nan)
        pool.values.fill_(torch.nan)
        made = cls(np.random.default_rng(seed), pool, {})
        for _ in range(int(made.rng.integers(2, 5))):
            made.append(pool.new(), int(made.rng.integers(0, 400)))
        for cache in list(made.held):
            if made.rng.random() < 0.6:
                twin = cache.fork()
                keep = int(made.rng.integers(0, cache.length + 1))
                twin.truncate(keep)
                k, v = made.held[cache]
                made.held[twin] = k[:keep], v[:keep]
                made.append(twin, int(made.rng.integers(0, 40)))
        return made

    def rows(self, n: int) -> Rows:
        shape = 2, n, SPEC.kv_heads, SPEC.head_dim
        k, v = torch.from_numpy(self.rng.standard_normal(shape)).to(DEVICE, self.pool.keys.dtype)
        return k, v

    def append(self, cache: KVCache, n: int) -> None:
        none = self.rows(0)
        k, v = self.held.get(cache, none)
        more = self.rows(n)
        if n:
            with planned([Span(cache, n)]) as plan:
                for layer in range(SPEC.layers):
                    write(plan, layer, *more)
        self.held[cache] = torch.cat((k, more[0])), torch.cat((v, more[1]))

    def spans(self, *, decoding: bool) -> list[Span]:
        caches = list(self.held)
        self.rng.shuffle(caches)
        caches = caches[: int(self.rng.integers(1, len(caches) + 1))]
        spans = [Span(cache, 1 if decoding else int(self.rng.integers(1, 21))) for cache in caches]
        return spans if decoding else [*spans[:-1], replace(spans[-1], rows=int(self.rng.integers(2, 21)))]

    def expected(self, spans: list[Span], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """In float64, row by row, over what was kept."""
        group = SPEC.heads // SPEC.kv_heads
        out = []
        start = 0
        for span in spans:
            own = slice(start, start + span.rows)
            start += span.rows
            before = self.held[span.cache]
            keys, values = (
                torch.cat((old, new[own])).double().repeat_interleave(group, dim=1)
                for old, new in zip(before, (k, v), strict=True)
            )
            for row, query in enumerate(q[own].double()):
                seen = slice(len(before[0]) + row + 1)
                scores = torch.einsum("hd,thd->ht", query, keys[seen]) * SPEC.head_dim**-0.5
                out.append(torch.einsum("ht,thd->hd", scores.softmax(-1), values[seen]))
        return torch.stack(out).to(q.dtype)


def captured(backend: Backend, pool: KVPool, bucket: Bucket, spans: list[Span]) -> Callable[..., Tensor]:
    """As the fast machine does it; the memory holds rubbish where nothing of this pass stands."""
    device = pool.keys.device
    memory = PassMemory(pool, most=128, sequences=16, fields=("token",), device=device, tables=backend.tables)
    memory.numbers.fill_(0x7F7F7F7F)
    rows = sum(span.rows for span in spans)
    memory.write(bucket, spans, np.zeros((3, rows), np.float32), {"token": range(rows)})
    return backend.captured(pool, bucket, memory.view(bucket))


@pytest.mark.parametrize("decoding", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "page"), [("triton", 16), ("sdpa", 16), ("triton", 256), ("sdpa", 256), ("flash", 256)]
)
def test_a_pass_by_itself_and_a_captured_one(name: str, page: int, seed: int, decoding: bool) -> None:
    backend, sequences = HERE[name](), Sequences.drawn(seed, page)
    pool, spans = sequences.pool, sequences.spans(decoding=decoding)
    n = sum(span.rows for span in spans)
    k, v = sequences.rows(n)
    q = torch.from_numpy(sequences.rng.standard_normal((n, SPEC.heads, SPEC.head_dim))).to(DEVICE, torch.float32)
    expected = sequences.expected(spans, q, k, v)
    bucket = Bucket(16, 1, 16) if decoding else Bucket(128, BLOCK, 16)
    with planned(spans) as plan:
        keys, values = write(plan, 1, k, v)
        torch.testing.assert_close(backend.eager(plan)(q, keys, values), expected, rtol=1e-5, atol=1e-5)
        attend = captured(backend, pool, bucket, spans)
        padded = torch.cat((q, torch.ones(bucket.rows - n, *q.shape[1:], device=DEVICE)))
        out = attend(padded, keys, values)
    torch.testing.assert_close(out[:n], expected, rtol=1e-5, atol=1e-5)
    assert bucket.rows > n
    assert not out[n:].any(), "rows that are none must give zeros"


def test_sdpa_gathers_in_parts_what_is_too_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa, "_GATHERED_BYTES", 3 * 2 * SPEC.context * SPEC.kv_heads * SPEC.head_dim * 4)
    test_a_pass_by_itself_and_a_captured_one("sdpa", 16, 1, decoding=False)


@pytest.mark.parametrize("decoding", [True, False])
def test_flash_in_sixteen_bits_is_called_as_it_must_be(decoding: bool) -> None:
    """The stand-in checks dtypes, shapes and the multiple of the page, as the real functions do."""
    stand_in = FlashStandIn()
    sequences = Sequences.drawn(3, flash.PAGE, torch.bfloat16)
    spans = sequences.spans(decoding=decoding)
    n = sum(span.rows for span in spans)
    k, v = sequences.rows(n)
    q = torch.randn(n, SPEC.heads, SPEC.head_dim, generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.bfloat16)
    bucket = Bucket(16, 1, 16) if decoding else Bucket(128, BLOCK, 16)
    with planned(spans) as plan:
        keys, values = write(plan, 0, k, v)
        plain = Sdpa().eager(plan)(q, keys, values)
        ours = Flash(stand_in).eager(plan)(q, keys, values)
        step = captured(Flash(stand_in), sequences.pool, bucket, spans)
        in_step = step(torch.cat((q, q.new_ones(bucket.rows - n, *q.shape[1:]))), keys, values)[:n]
    torch.testing.assert_close(ours, plain, rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(in_step, ours, rtol=0, atol=0)
    assert stand_in.calls == ({"with_kvcache": 2, "varlen": 0} if decoding else {"with_kvcache": 0, "varlen": 2})


def test_flash_refuses_pages_of_another_size() -> None:
    sequences = Sequences.drawn(0, 64)
    spans = sequences.spans(decoding=True)
    with planned(spans) as plan, pytest.raises(ValueError, match="multiple of 256 tokens, not of 64"):
        Flash(FlashStandIn()).eager(plan)


@pytest.mark.parametrize("name", ["sdpa", "flash"])
@pytest.mark.parametrize("bucket", [Bucket(4, 1, 4), Bucket(32, BLOCK, 4)])
def test_a_captured_step_never_looks_at_what_the_memory_holds(name: str, bucket: Bucket) -> None:
    """On tensors without numbers: to read one, as the host would by waiting for a GPU, is an error."""
    pool = KVPool(SPEC, tokens=2048, page=256)
    # what the functions of flash-attn do inside is not ours
    functions = SimpleNamespace(
        flash_attn_with_kvcache=lambda q, *_, **__: torch.empty_like(q),
        flash_attn_varlen_func=lambda q, *_, **__: torch.empty_like(q),
    )
    backend = Sdpa() if name == "sdpa" else Flash(functions)
    memory = PassMemory(pool, most=32, sequences=4, fields=(), device=pool.keys.device, tables=True)
    given = memory.view(bucket)
    assert given.tables is not None
    mode = FakeTensorMode()

    def fake(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor)

    reading, tables = (
        [fake(getattr(of, field)) for field in of.__dataclass_fields__] for of in (given.reading, given.tables)
    )
    unknown = replace(given, reading=Reading(*reading), tables=Tables(*tables))
    with mode:
        queries = torch.empty(bucket.rows, SPEC.heads, SPEC.head_dim)
        out = backend.captured(pool, bucket, unknown)(queries, fake(pool.keys)[0], fake(pool.values)[0])
        assert out.shape == queries.shape
        with pytest.raises(DataDependentOutputException):
            unknown.reading.lengths.max().item()


# -- the setting


def chosen(name: choosing.Name, *, fast: bool = False, device: str = DEVICE, **more: object) -> Backend:
    of = {"dtype": torch.bfloat16, "head_dims": (128, 128)} | more
    return choose(name, fast=fast, device=torch.device(device), **of)  # type: ignore[arg-type]


def test_each_machine_has_its_own_default() -> None:
    assert isinstance(chosen("auto", fast=True), Triton)
    assert isinstance(chosen("auto"), Sdpa)
    assert isinstance(chosen("sdpa", fast=True), Sdpa)
    assert isinstance(chosen("triton"), Triton)


def test_pages_are_as_large_as_the_backend_wants_them() -> None:
    for name, make in HERE.items():
        assert page_of(name) == make().page  # type: ignore[arg-type]
    assert page_of("auto") == Triton.page == Sdpa.page


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"device": "cpu"}, "needs a GPU, not cpu"),
        ({"dtype": torch.float32}, "not in float32"),
        ({"head_dims": (128, 320)}, "these weights have 320"),
        ({"head_dims": (128, 100)}, "these weights have 100"),
        ({}, "pip install"),
    ],
)
def test_flash_that_cannot_be_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, object], says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(EngineError, match=says) as refused:
        chosen("flash", **{"device": "cuda", **more})  # type: ignore[arg-type]
    assert refused.value.code == "no_flash"
    assert "set qwen.attention to 'auto'" in str(refused.value)


def test_flash_of_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(EngineError, match=r"not Tesla T4; set qwen\.attention"):
        chosen("flash", device="cuda")


def test_flash_that_is_there_is_taken_and_one_that_is_broken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in as the package: what the machine with the real one is asked for."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(sys.modules, "flash_attn", FlashStandIn())
    assert isinstance(chosen("flash", device="cuda"), Flash)
    # the package is there and its extension module was not built: it then lacks its functions
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace())
    with pytest.raises(EngineError, match=r"does not load .*flash_attn_with_kvcache") as refused:
        chosen("flash", device="cuda")
    assert refused.value.code == "no_flash"


def test_triton_that_is_missing_or_has_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "find_spec", lambda _: None)
        with pytest.raises(EngineError, match="pip install triton, or set it to 'sdpa'") as refused:
            chosen("triton")
        assert refused.value.code == "no_triton"
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(EngineError, match="needs a GPU, not cpu"):
        chosen("triton", device="cpu")
