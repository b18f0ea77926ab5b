"""The tokenizer that the tests of the engine share."""

from __future__ import annotations

from functools import cache

from omni_rt.engine.qwen3_omni.tokenizer import Tokenizer
from omni_rt.models.manifest import QWEN_TOKENIZER
from tests.support.speech import model


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_ranks(model(QWEN_TOKENIZER))
