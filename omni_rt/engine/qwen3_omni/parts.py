"""What all sessions of the engine share: the model, the memory of its caches, the tokenizer, the scheduler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omni_rt.engine.api import EngineError, Rgb, Role, SessionSettings
from omni_rt.engine.qwen3_omni import pictures, pieces
from omni_rt.engine.qwen3_omni.audio_stream import AudioStream
from omni_rt.engine.qwen3_omni.context import Context
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.layers import upload
from omni_rt.engine.qwen3_omni.machine import Machine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.pictures import PictureBudget
from omni_rt.engine.qwen3_omni.prompt import Prompt
from omni_rt.engine.qwen3_omni.scheduler import Scheduler
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from omni_rt.engine.qwen3_omni.tokenizer import Tokenizer

if TYPE_CHECKING:  # a benchmark needs no validated settings, and so no pydantic
    from omni_rt.config import QwenSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the vision encoder made of a picture: `grid` in tokens (rows, columns), `features` [rows * columns, hidden],
    `deepstack` [layers, rows * columns, hidden]."""

    grid: tuple[int, int]
    features: Tensor
    deepstack: Tensor


@dataclass(frozen=True, slots=True)
class Parts:
    """`talker_pool` is None for a model that does not speak."""

    settings: QwenSettings
    omni: Omni
    machine: Machine
    tokenizer: Tokenizer
    prompt: Prompt
    scheduler: Scheduler
    pool: KVPool
    talker_pool: KVPool | None
    context_tokens: int
    frames_per_second: float

    @property
    def spec(self) -> OmniSpec:
        return self.omni.spec

    @property
    def device(self) -> torch.device:
        return self.omni.device

    @property
    def voices(self) -> tuple[str, ...]:
        """By the names that clients use; the first is what a session that names none gets."""
        talker = self.spec.talker
        if talker is None:
            return ()
        names = [name.capitalize() for name in talker.voices]
        first = (self.settings.voice or "ethan").capitalize()
        return tuple(sorted(names, key=lambda name: name != first))

    def check(self, settings: SessionSettings) -> None:
        """Raises EngineError for what no session of this engine can be."""
        voices = self.voices
        if settings.voice and voices and settings.voice.capitalize() not in voices:
            raise EngineError("unknown_voice", f"there is no voice {settings.voice!r}; there are: {', '.join(voices)}")
        tokens = len(self.prompt.system(settings.instructions, settings.tools))
        if tokens > self.context_tokens // 2:
            raise EngineError(
                "context_full",
                f"instructions and tools of {tokens} tokens take more than half of a context of {self.context_tokens}; "
                "shorten them, or raise qwen.context_tokens",
            )

    def new_context(self) -> Context:
        talker, pool = self.omni.talker, self.talker_pool
        return Context(self.omni.thinker, self.pool.new(), talker, pool.new() if pool is not None else None)

    def audio_stream(self, prior: float | None) -> AudioStream:
        """For one utterance; `prior` is the loudest cell of those before."""
        window_s = self.settings.audio_window_s
        return AudioStream(self.omni.thinker.model.audio_tower, window_s=window_s, prior=prior)

    def text(self, role: Role, text: str) -> list[pieces.Piece]:
        """A turn of text; none of an empty one."""
        return [pieces.text(self.prompt.turn(role, text))] if text else []

    @property
    def budget(self) -> PictureBudget:
        return PictureBudget(self.settings.frame_tokens, self.settings.turn_frame_tokens)

    def look(self, frames: Sequence[Rgb], size: tuple[int, int]) -> Seen:
        """A picture, or a pair of frames, resized to `size` (height, width in pixels)."""
        patches = pictures.patches(frames, size, self.spec.vision)
        values = upload(patches.values, self.device).to(self.omni.dtype)
        features, deepstack = self.omni.thinker.model.visual.encode(values, patches.grids)
        return Seen(patches.token_grid, features, deepstack)


def told(error: Exception) -> EngineError:
    """What is told of a failure; one that no step should have is logged with its traceback."""
    if isinstance(error, EngineError):
        return error
    log.error("the engine failed", exc_info=error)
    return EngineError("engine_failed", f"{type(error).__name__}: {error}")
