"""What serving with given settings takes, found out without reading or allocating any weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from omni_rt.config import QwenSettings, Settings
from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.choose import choose, page_of
from omni_rt.engine.qwen3_omni.checkpoint import read_headers, read_spec
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.random_weights import RandomSource
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from omni_rt.engine.qwen3_omni.tokenizer import Tokenizer
from omni_rt.engine.qwen3_omni.weights import free_memory, plan

_RELEASED = "random:30b-a3b"
# Cache for transcripts, whose forks need pages of their own, beside the sessions' contexts.
_SPARE_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model would run, and whether by the fast machine. `name` of a GPU; `free` bytes, None where the system
    does not say."""

    device: torch.device
    dtype: torch.dtype
    fast: bool
    name: str
    free: int | None


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of all weights and of all caches, in numbers of `dtype`; `tokens` is what the caches hold, all sessions
    together. `head_dims` are those of the decoders that have caches."""

    dtype: torch.dtype
    weights: int
    caches: int
    tokens: int
    head_dims: tuple[int, ...]

    @property
    def kind(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def bytes(self) -> int:
        return self.weights + self.caches


def place(qwen: QwenSettings) -> Place:
    """Raises EngineError `no_device`."""
    device = _device(qwen.device)
    free = free_memory(device)
    by_default = torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(qwen.dtype, by_default)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    fit = device.type == "cuda" and dtype == torch.bfloat16
    fast = qwen.machine == "fast" or (qwen.machine == "auto" and fit)
    return Place(device, dtype, fast, name, free)


def released(settings: Settings) -> Needs:
    """Of a released model on a GPU."""
    return _needs(settings, torch.bfloat16, _RELEASED)


def needs(settings: Settings, dtype: torch.dtype) -> Needs:
    """Of the weights that the settings name; the files of a checkpoint are checked against its config.json.

    Raises EngineError as `model.load` does, for everything that can be told without reading weights.
    """
    return _needs(settings, dtype, settings.qwen.weights)


def cache_tokens(settings: Settings, spec: OmniSpec) -> int:
    """What the caches hold, all sessions together, in whole pages."""
    context = min(settings.qwen.context_tokens, spec.text.context)
    tokens = settings.qwen.cache_tokens or settings.server.max_sessions * context + _SPARE_TOKENS
    page = page_of(settings.qwen.attention)
    return -(-tokens // page) * page


def backend(settings: Settings, where: Place, wanted: Needs) -> Backend:
    """What attends. Raises EngineError as `choose` does."""
    return choose(
        settings.qwen.attention, fast=where.fast, device=where.device, dtype=where.dtype, head_dims=wanted.head_dims
    )


def check_tokenizer(qwen: QwenSettings) -> None:
    """Read the tokenizer of a checkpoint folder; random weights take another one. Raises EngineError `tokenizer`."""
    if RandomSource.parse(qwen.weights) is None:
        Tokenizer.from_folder(Path(qwen.weights))


def _needs(settings: Settings, dtype: torch.dtype, source: str) -> Needs:
    chance = RandomSource.parse(source)
    spec = read_spec(Path(source)) if chance is None else chance.spec()
    with torch.device("meta"):
        model = Omni(spec)
    if chance is None:
        plan(model, read_headers(Path(source)))
    tokens = cache_tokens(settings, spec)
    decoders = [spec.text] if spec.talker is None else [spec.text, spec.talker.decoder]
    numbers = sum(decoder.kv_bytes_per_token for decoder in decoders) // 2
    weights = sum(parameter.numel() for parameter in model.parameters())
    spare = page_of(settings.qwen.attention)  # a page of each cache is never handed out
    head_dims = tuple(decoder.head_dim for decoder in decoders)
    return Needs(dtype, weights * dtype.itemsize, (tokens + spare) * numbers * dtype.itemsize, tokens, head_dims)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise EngineError("no_device", f"qwen.device {name!r} names no device: cuda, cuda:N or cpu") from error
