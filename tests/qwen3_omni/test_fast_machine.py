"""The fast machine against the plain one with the same tiny weights, and either with every backend: without a GPU the
steps run in Triton's interpreter, one after the other, as the graphs would."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni import random_weights
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.flash import Flash
from omni_rt.engine.qwen3_omni.backends.sdpa import Sdpa
from omni_rt.engine.qwen3_omni.backends.triton import Triton
from omni_rt.engine.qwen3_omni.eight_bit import EVERYTHING, NOTHING, EightBit
from omni_rt.engine.qwen3_omni.fast_machine import FastMachine
from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.machine import Machine, PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.pieces import line
from omni_rt.engine.qwen3_omni.quantised import Quantised
from omni_rt.engine.qwen3_omni.requests import Choice, Chunk, Frame, Line, Listening, Made, Read
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from tests.qwen3_omni.flash_stand_in import FlashStandIn


@pytest.fixture(scope="module")
def omni() -> Omni:
    """Tiny, with fewer layers and 48 samples a frame: the interpreter is slow."""
    config: dict[str, Any] = json.loads((random_weights._PRESETS / "tiny.json").read_text(encoding="utf-8"))
    config["thinker_config"]["text_config"]["num_hidden_layers"] = 3
    config["talker_config"]["text_config"]["num_hidden_layers"] = 1
    config["talker_config"]["code_predictor_config"]["num_hidden_layers"] = 1
    config["talker_config"]["accept_hidden_layer"] = 2
    config["code2wav_config"]["upsample_rates"] = [4, 3]
    spec = OmniSpec.from_config(config)
    with torch.device("meta"):
        made = Omni(spec).eval()
    made.to_empty(device="cpu")
    random_weights.fill_randomly(made, 0)
    return made


@dataclass
class Side:
    """One of the two machines with its caches."""

    machine: Machine
    pool: KVPool
    talker_pool: KVPool
    hidden: list[Tensor] = field(default_factory=list)
    caches: dict[str, tuple[KVCache, KVCache]] = field(default_factory=dict)

    def chunk(
        self, name: str, ids: list[int], features: Tensor | None = None, deepstack: Tensor | None = None
    ) -> Chunk:
        """Rows of a user; the first is not shown to the talker, features stand from the second on."""
        cache, talker_cache = self.caches.setdefault(name, (self.pool.new(), self.talker_pool.new()))
        n, media = len(ids), len(features) if features is not None else 0
        positions = line(n, cache.length)
        listening = Listening(
            talker_cache, talker_cache.length, list(range(1, n)), list(range(media)), line(n - 1, talker_cache.length)
        )
        at = list(range(1, 1 + media))
        return Chunk(
            cache, ids, positions, self._taken, features, at, deepstack, at if deepstack is not None else (), listening
        )

    def _taken(self, hidden: Tensor) -> None:
        self.hidden.append(hidden.clone())

    def line(self, name: str, rows: int, voice: str) -> Line:
        return Line(self.caches[name][1], rows, float(rows), voice)


def rounded(omni: Omni) -> Omni:
    """A copy whose weights are what `EVERYTHING` makes of them, in the model's dtype."""
    copied = copy.deepcopy(omni)
    decoders = re.compile(r"(thinker\.model\.language_model|talker\.model|talker\.code_predictor\.model)\.layers\.")
    heads = re.compile(r"(thinker|talker\.code_predictor)\.lm_head\.")
    found = 0
    for name, weight in copied.named_parameters():
        if weight.dim() > 1 and (heads.match(name) or (decoders.match(name) and "gate.weight" not in name)):
            weight.data = Quantised.of(weight.data).wide(weight.dtype)
            found += weight.numel()
    assert found > 0.5 * sum(weight.numel() for weight in copied.thinker.model.language_model.layers.parameters())
    return copied


def side(omni: Omni, attends: Backend, *, fast: bool, eight_bit: EightBit = NOTHING) -> Side:
    assert omni.spec.talker is not None
    shape: dict[str, Any] = {"tokens": max(512, 4 * attends.page), "page": attends.page}
    pool, talker_pool = KVPool(omni.spec.text, **shape), KVPool(omni.spec.talker.decoder, **shape)
    own = copy.deepcopy(omni)
    machine: Machine = PlainMachine(own, backend=attends)
    if fast:
        machine = FastMachine(
            own, pool, talker_pool, backend=attends, lines=2, batches=(1, 2), rows=(16, 32), eight_bit=eight_bit
        )
    return Side(machine, pool, talker_pool)


def ids(n: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(1000, 100_000, n)]


@dataclass
class Outcome:
    """Of a conversation: tokens and lengths of the caches, hidden states [n, width], samples."""

    told: list[Any]
    hidden: Tensor
    sound: np.ndarray


def converse(side: Side, spec: OmniSpec) -> Outcome:
    """Two sessions that hear, are shown something, answer and speak."""
    generator = torch.Generator().manual_seed(4)
    width, layers = spec.text.hidden, len(spec.vision.deepstack)
    features, deepstack = torch.randn(5, width, generator=generator), torch.randn(layers, 5, width, generator=generator)
    uniform = torch.rand(8, 16, generator=generator)
    run, done = side.machine.run, []
    run([Read(side.chunk("a", ids(12, 0), features, deepstack)), Read(side.chunk("b", ids(9, 1)))])
    first = [
        Read(side.chunk("a", ids(6, 2)), choice=Choice(0.6, "reply", 0.3), line=side.line("a", 16, "Ethan")),
        Read(
            side.chunk("b", ids(4, 3)),
            choice=Choice(0.0, "reply_with_tools", 0.3),
            line=side.line("b", 11, "aiden"),
        ),
    ]
    tokens = run(first)
    done.append(tokens)
    lines = [read.line for read in first]
    assert lines[0] is not None
    assert lines[1] is not None
    sound: list[np.ndarray] = []
    steps = [(1000, 2000), (None, 2001)]
    for number, step in enumerate(steps):
        asked = [
            Frame(one, token, "eos", uniform[2 * number + n])
            for n, (one, token) in enumerate(zip(lines, step, strict=True))
            if one is not None
        ]
        for made in run(asked):
            assert isinstance(made, Made)
            assert made.pcm is not None
            sound.append(made.pcm)
    # alone, as a batch of one
    (made,) = run([Frame(lines[1], None, "pad", uniform[7])])
    assert isinstance(made, Made)
    assert made.pcm is not None
    sound += [made.pcm, side.machine.flush(lines[1])]
    cache = side.caches["a"][0]
    assert isinstance(tokens[0], int)
    alone = Chunk(cache, [tokens[0]], line(1, cache.length), side._taken)
    done.append(run([Read(alone, choice=Choice(0.6, "any", 0.9))]))
    done.append(run([Read(hidden=side.hidden[-1], choice=Choice(0.9, "reply", 0.1))]))
    for each in lines:
        assert each is not None
        side.machine.release(each)
    done.append([cache.length for pair in side.caches.values() for cache in pair])
    return Outcome(done, torch.stack(side.hidden), np.concatenate(sound).astype(np.int32))


def same(found: Outcome, plain: Outcome) -> None:
    assert found.told == plain.told
    torch.testing.assert_close(found.hidden, plain.hidden, rtol=0, atol=1e-4)
    assert len(found.sound) == len(plain.sound)
    assert np.abs(found.sound - plain.sound).max() <= 4


@pytest.fixture(scope="module")
def plain(omni: Omni) -> Outcome:
    with torch.inference_mode():
        return converse(side(omni, Sdpa(), fast=False), omni.spec)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("fast", "attention"),
    [(True, "triton"), (True, "sdpa"), (True, "flash"), (False, "triton"), (False, "flash")],
)
def test_a_conversation_of_two_equals_the_plain_machines(
    omni: Omni, plain: Outcome, fast: bool, attention: str
) -> None:
    # the real one cannot be had here; see there
    stand_in = FlashStandIn((torch.float32,))
    attends: Backend = Flash(stand_in) if attention == "flash" else Triton() if attention == "triton" else Sdpa()
    found = converse(side(omni, attends, fast=fast), omni.spec)
    same(found, plain)
    if attention == "flash":
        assert all(stand_in.calls.values())


@torch.inference_mode()
def test_a_conversation_with_weights_in_8_bit_equals_the_plain_machines(omni: Omni) -> None:
    found = converse(side(omni, Triton(), fast=True, eight_bit=EVERYTHING), omni.spec)
    same(found, converse(side(rounded(omni), Sdpa(), fast=False), omni.spec))


@torch.inference_mode()
def test_what_finds_no_room_fails_alone(omni: Omni) -> None:
    fast = side(omni, Triton(), fast=True)
    full = fast.pool.new()
    full.reserve(512 - 64)
    full.commit(512 - 64)
    good, bad = fast.chunk("a", ids(12, 0)), fast.chunk("b", ids(9, 1))
    results = fast.machine.run([Read(bad), Read(good)])
    assert [type(result) for result in results].count(type(None)) == 1
    assert any(isinstance(result, EngineError) and result.code == "busy" for result in results)
    assert sorted(cache.length for cache, _ in fast.caches.values()) in ([0, 9], [0, 12])
    full.close()
    for pair in fast.caches.values():
        for cache in pair:
            cache.close()
    assert fast.pool.free_tokens == fast.pool.tokens
    assert fast.talker_pool.free_tokens == fast.talker_pool.tokens


@torch.inference_mode()
def test_a_pass_that_is_too_large_is_several(omni: Omni) -> None:
    plain, fast = side(omni, Sdpa(), fast=False), side(omni, Triton(), fast=True)
    for each in (plain, fast):
        each.machine.run([Read(each.chunk("a", ids(20, 0))), Read(each.chunk("b", ids(20, 1)))])
    torch.testing.assert_close(torch.stack(fast.hidden), torch.stack(plain.hidden), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="32 rows at most"):
        fast.machine.run([Read(fast.chunk("c", ids(33, 2)))])


@torch.inference_mode()
def test_a_pass_that_fails_changes_nothing(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    """What chooses tokens fails after the rows were read: they can be read again, each on its own."""
    for each in (side(omni, Sdpa(), fast=False), side(omni, Triton(), fast=True)):
        run = each.machine.run
        run([Read(each.chunk("a", ids(12, 0))), Read(each.chunk("b", ids(9, 1)))])
        before = [cache.length for pair in each.caches.values() for cache in pair]
        reads = [
            Read(each.chunk(name, ids(5, seed)), choice=Choice(0.0, "any", 0.5), line=each.line(name, rows, "Ethan"))
            for name, seed, rows in (("a", 2, 15), ("b", 3, 12))
        ]
        with monkeypatch.context() as broken:
            broken.setattr(type(each.machine), "_choose", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(reads)
        assert [cache.length for pair in each.caches.values() for cache in pair] == before
        assert len(each.hidden) == 2
        assert [read.line.state for read in reads if read.line is not None] == [None, None]
        apart = [result for read in reads for result in run([read])]
        for pair, length in zip(each.caches.values(), (15, 12), strict=True):
            for cache in pair:
                cache.truncate(min(cache.length, length - 3 if cache is pair[1] else length))
        assert all(isinstance(token, int) for token in apart)
