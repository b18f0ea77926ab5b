"""Parts of an engine with tiny random weights, and what tests do with a conversation on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from omni_rt.config import QwenSettings
from omni_rt.engine.api import INPUT_RATE, Chunk, EngineError, Pcm, ReplyEnd, RespondOptions, Transcript
from omni_rt.engine.qwen3_omni import random_weights
from omni_rt.engine.qwen3_omni.context import Context
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.machine import PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni, load
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.prompt import Prompt
from omni_rt.engine.qwen3_omni.reply import Reply
from omni_rt.engine.qwen3_omni.scheduler import Scheduler
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from tests.qwen3_omni.qwen_tokenizer import tokenizer


@cache
def tiny() -> Omni:
    return load("random:tiny", device="cpu", dtype=torch.float32)


@cache
def mute() -> Omni:
    """Tiny random weights without a talker."""
    preset = random_weights._PRESETS / "tiny.json"
    config: dict[str, Any] = json.loads(preset.read_text(encoding="utf-8"))
    config["enable_audio_output"] = False
    del config["talker_config"]
    del config["code2wav_config"]
    with torch.device("meta"):
        omni = Omni(OmniSpec.from_config(config)).eval()
    omni.to_empty(device="cpu")
    random_weights.fill_randomly(omni, 0)
    return omni


def parts(
    omni: Omni, *, context_tokens: int = 2048, tokens: int = 8192, frames_per_second: float = 1.0, **settings: Any
) -> Parts:
    """Whose scheduler is not started."""
    words, spec, machine = tokenizer(), omni.spec, PlainMachine(omni)
    return Parts(
        settings=QwenSettings(**settings),
        omni=omni,
        machine=machine,
        tokenizer=words,
        prompt=Prompt(words),
        scheduler=Scheduler(machine.run),
        pool=KVPool(spec.text, tokens=tokens),
        talker_pool=KVPool(spec.talker.decoder, tokens=tokens) if spec.talker is not None else None,
        context_tokens=context_tokens,
        frames_per_second=frames_per_second,
    )


def all_free(shared: Parts) -> bool:
    pools = [pool for pool in (shared.pool, shared.talker_pool) if pool is not None]
    return all(pool.free_tokens == pool.tokens for pool in pools)


@dataclass(slots=True)
class Told:
    """Implements Tells."""

    transcripts: list[Transcript] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)

    def transcript(self, transcript: Transcript) -> None:
        self.transcripts.append(transcript)

    def error(self, error: EngineError) -> None:
        self.errors.append(error)

    @property
    def items(self) -> list[str]:
        """Of the final transcripts."""
        return [transcript.item_id for transcript in self.transcripts if transcript.final]


@dataclass(slots=True)
class Answer:
    """One reply with its chunks."""

    reply: Reply
    chunks: list[Chunk]

    @property
    def ends(self) -> list[ReplyEnd]:
        return [chunk for chunk in self.chunks if isinstance(chunk, ReplyEnd)]

    @property
    def reason(self) -> str:
        (end,) = self.ends
        assert self.chunks[-1] is end
        return end.reason


def answer(conversation: Conversation, generation: int, **options: Any) -> Answer:
    """Ask for a reply."""
    chunks: list[Chunk] = []
    reply = Reply(conversation._parts, RespondOptions(generation, **options), chunks.append)
    conversation.respond(reply)
    return Answer(reply, chunks)


def settle(conversation: Conversation) -> None:
    """Work until nothing is left to do."""
    for _ in range(5000):
        if conversation.deadline(0.0) is None:
            return
        try:
            conversation.step()
        except Exception as error:
            conversation.failed(error)
    raise AssertionError("the conversation never comes to rest")


def sound(seconds: float, seed: int = 0) -> Pcm:
    """Noise of changing loudness, 16 kHz."""
    rng = np.random.default_rng(seed)
    n = round(seconds * INPUT_RATE)
    loudness = np.repeat(rng.uniform(10, 6000, n // 1600 + 1), 1600)[:n]
    pcm: Pcm = (rng.standard_normal(n) * loudness).clip(-32768, 32767).astype(np.int16)
    return pcm


def assert_as_fresh(conversation: Conversation) -> None:
    """The context at rest holds what a fresh prefill of its turns would; for the thinker's and the talker's cache."""
    shared, context = conversation._parts, conversation.context
    while context.advance(512):
        pass
    fresh = shared.new_context()
    try:
        fresh.turns = list(context.turns)
        fresh.changed()
        while fresh.advance(512):
            pass
        assert context.rows == fresh.rows == context.cache.length
        if not context.rows:
            return
        assert context.talker_place() == fresh.talker_place()
        torch.testing.assert_close(held(context.cache), held(fresh.cache), rtol=0, atol=1e-4)
        torch.testing.assert_close(context.last_hidden(), fresh.last_hidden(), rtol=0, atol=1e-4)
        if context.talker_cache is not None and fresh.talker_cache is not None:
            assert context.talker_cache.length >= context.talker_place().rows
            context.talker_cache.truncate(context.talker_place().rows)
            torch.testing.assert_close(held(context.talker_cache), held(fresh.talker_cache), rtol=0, atol=1e-4)
    finally:
        fresh.close()


def held(kept: KVCache) -> torch.Tensor:
    """Keys and values of all rows."""
    slots = torch.tensor([page * kept.pool.page + n for page in kept.pages for n in range(kept.pool.page)])
    return torch.stack([kept.pool.keys, kept.pool.values])[:, :, slots[: kept.length].long()]


def ids(context: Context) -> list[int]:
    return [token for turn in context.turns for piece in turn.pieces for token in piece.ids]
