"""A context that was edited in every way holds what a fresh prefill of the same turns would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.model import Omni
from tools.exact.draw import draw
from tools.exact.whole import ours


class Speaker:
    """Makes turns of drawn content."""

    def __init__(self, seed: int, hidden: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.hidden = hidden

    def text(self) -> pieces.Piece:
        return pieces.text(self.rng.integers(0, 150_000, self.rng.integers(1, 12)).tolist())

    def features(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.standard_normal((*shape, self.hidden), dtype=np.float32))

    def piece(self) -> pieces.Piece:
        match self.rng.integers(3):
            case 0:
                return pieces.audio(151675, self.features(self.rng.integers(1, 14)))
            case 1:
                rows, columns = (int(n) for n in self.rng.integers(1, 5, 2))
                n = rows * columns
                grid = (rows, columns)
                return pieces.picture(151655, (151652,), (151653,), grid, self.features(n), self.features(3, n))
            case _:
                return self.text()

    def turn(self) -> Turn:
        role = ("system", "user", "assistant", "user")[self.rng.integers(4)]
        body = [self.piece() for _ in range(self.rng.integers(1, 5))] if role == "user" else [self.text()]
        return Turn(role, body)  # type: ignore[arg-type]


def fresh(omni: Omni, pools: tuple[KVPool, KVPool]) -> Context:
    return Context(omni.thinker, pools[0].new(), omni.talker, pools[1].new())


def held(cache: KVCache) -> torch.Tensor:
    slots = torch.tensor([page * cache.pool.page + n for page in cache.pages for n in range(cache.pool.page)])
    return torch.stack([cache.pool.keys, cache.pool.values])[:, :, slots[: cache.length]]


def fill(context: Context, chunk: int) -> None:
    while context.advance(chunk):
        pass


@torch.inference_mode()
@pytest.mark.parametrize("seed", [1, 2])
def test_an_edited_context_equals_a_fresh_one(seed: int) -> None:
    omni = ours(draw(seed))
    assert omni.talker is not None
    assert omni.spec.talker is not None
    pools = (
        KVPool(omni.spec.text, tokens=6000, page=16),
        KVPool(omni.spec.talker.decoder, tokens=6000, page=16),
    )
    speaker = Speaker(seed, omni.spec.text.hidden)
    rng, context = speaker.rng, fresh(omni, pools)
    for _ in range(40):
        turns = context.turns
        at = int(rng.integers(len(turns))) if turns else 0
        match rng.integers(7):
            case 0 if turns:
                turns.pop(at)
            case 1 if turns:
                turns[at].pieces.append(speaker.piece() if turns[at].role == "user" else speaker.text())
            case 2 if turns and turns[at].pieces:
                turns[at].pieces.pop()
            case 3 if turns:
                whole = [token for piece in turns[at].pieces for token in piece.ids if not piece.media]
                turns[at].pieces = [pieces.text(whole[: rng.integers(1, len(whole) + 1)])] if whole else []
            case 4:
                turns.insert(at, speaker.turn())
            case _:
                turns.append(speaker.turn())
        context.changed()
        for _ in range(rng.integers(3)):
            context.advance(int(rng.integers(1, 20)))
    context.turns.append(Turn("user", [speaker.text()]))
    context.changed()
    fill(context, 13)

    again = fresh(omni, pools)
    again.turns = context.turns
    again.changed()
    fill(again, 512)
    assert context.rows == again.rows == context.cache.length > 50
    assert context.talker_place() == again.talker_place()
    torch.testing.assert_close(context.last_hidden(), again.last_hidden(), rtol=0, atol=1e-4)
    torch.testing.assert_close(held(context.cache), held(again.cache), rtol=0, atol=1e-4)
    assert context.talker_cache is not None
    assert again.talker_cache is not None
    assert context.talker_cache.length == context.talker_place().rows
    torch.testing.assert_close(held(context.talker_cache), held(again.talker_cache), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_last_row_can_be_read_again_after_a_cut() -> None:
    omni = ours(draw(1))
    assert omni.spec.talker is not None
    pools = KVPool(omni.spec.text, tokens=500), KVPool(omni.spec.talker.decoder, tokens=500)
    speaker, context = Speaker(3, omni.spec.text.hidden), fresh(omni, pools)
    context.turns += [speaker.turn(), speaker.turn(), Turn("user", [speaker.text()])]
    context.changed()
    fill(context, 7)
    before = context.last_hidden()
    context.turns.append(Turn("assistant", [speaker.text()]))
    context.changed()
    fill(context, 7)
    context.turns.pop()
    context.changed()
    computed = context.computed
    torch.testing.assert_close(context.last_hidden(), before, rtol=0, atol=1e-5)
    assert context.computed == computed + 1
