"""What serving with given settings takes, found out without reading or allocating any weight."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from omni_rt.config import QwenSettings, Settings
from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.choose import choose, page_of
from omni_rt.engine.qwen3_omni.checkpoint import read_headers, read_spec
from omni_rt.engine.qwen3_omni.eight_bit import EVERYTHING, NOTHING, EightBit, copies
from omni_rt.engine.qwen3_omni.fast_needs import FastNeeds, fast_needs
from omni_rt.engine.qwen3_omni.model import Omni, shape
from omni_rt.engine.qwen3_omni.random_weights import RandomSource
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from omni_rt.engine.qwen3_omni.tokenizer import Tokenizer
from omni_rt.engine.qwen3_omni.weights import free_memory, plan

_RELEASED = "random:30b-a3b"
# Cache for transcripts, whose forks need pages of their own, and for clips that are overheard, beside the sessions'
# contexts.
_SPARE_TOKENS = 2048
_LEAST_CONTEXT = 512
# Of the GPUs that convert FP8 numbers themselves.
_FP8_SINCE = (8, 9)


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
    """Bytes of all weights and of all caches, in numbers of `dtype` but for what is in 8 bit; `tokens` is what the
    caches hold, all sessions together, in pages of `page`. `head_dims` are those of the decoders that have caches.
    `machine` is None for the plain one, whose work is not counted."""

    dtype: torch.dtype
    eight_bit: EightBit
    weights: int
    caches: int
    tokens: int
    page: int
    head_dims: tuple[int, ...]
    machine: FastNeeds | None

    @property
    def kind(self) -> str:
        wide = str(self.dtype).removeprefix("torch.")
        return wide if self.eight_bit == NOTHING else f"fp8 and {wide}"

    @property
    def bytes(self) -> int:
        return self.weights + self.caches + (self.machine.bytes if self.machine else 0)

    def __str__(self) -> str:
        """Every part, in bytes."""
        parts = [f"the weights {self.weights:,}", f"the caches of {self.tokens:,} tokens {self.caches:,}"]
        if self.machine is not None:
            parts += [
                f"copies of weights for the kernels {self.machine.copies:,}",
                f"what spoken replies remember {self.machine.replies:,}",
                f"passes {self.machine.passes:,}",
                f"the driver's kernels and graphs about {self.machine.driver:,}",
            ]
        return f"{self.bytes:,} bytes: {', '.join(parts)}"

    def room(self, free: int) -> int:
        """How many tokens the caches can hold in `free` bytes beside all the rest, in whole pages; below zero if not
        even the rest fits."""
        each = self.caches // (self.tokens + self.page)
        return ((free - (self.bytes - self.caches)) // each // self.page - 1) * self.page


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


def quantisation(qwen: QwenSettings, place: Place) -> EightBit:
    """What the settings want in 8 bit. Raises EngineError `no_fp8` where that cannot be had."""
    if qwen.quantisation == "none":
        return NOTHING
    if qwen.machine == "plain":
        cause, remedy = "qwen.machine is 'plain', and only the fast machine reads it", "set qwen.machine to 'auto'"
    elif place.device.type != "cuda":
        cause, remedy = f"the model would run on {place.device}", "take a GPU (qwen.device)"
    elif place.dtype != torch.bfloat16:
        cause, remedy = "qwen.dtype is 'float32', and only bfloat16 goes with it", "set qwen.dtype to 'auto'"
    elif find_spec("triton") is None:
        cause, remedy = "Triton is not installed", "pip install triton"
    elif (since := torch.cuda.get_device_capability(place.device)) < _FP8_SINCE:
        cause = f"{place.name} has compute capability {since[0]}.{since[1]}, and it takes 8.9"
        remedy = "take a GPU of the Ada or Hopper generation or later"
    else:
        return EVERYTHING
    raise EngineError("no_fp8", f"qwen.quantisation 'fp8' cannot be had: {cause}; {remedy}, or set it to 'none'")


def released(settings: Settings) -> Needs:
    """Of a released model on a GPU."""
    eight_bit = EVERYTHING if settings.qwen.quantisation == "fp8" else NOTHING
    return _needs(settings, torch.bfloat16, _RELEASED, eight_bit, fast=settings.qwen.machine != "plain")


def needs(settings: Settings, where: Place, eight_bit: EightBit = NOTHING) -> Needs:
    """Of the weights that the settings name; the files of a checkpoint are checked against its config.json.

    Raises EngineError as `model.load` does, for everything that can be told without reading weights.
    """
    return _needs(settings, where.dtype, settings.qwen.weights, eight_bit, fast=where.fast)


def smaller(settings: Settings, wanted: Needs, free: int) -> str:
    """Which settings would make `wanted` fit into `free` bytes, with numbers, for people; empty if none does."""
    tokens, sessions = wanted.room(free), settings.server.max_sessions
    if tokens < _LEAST_CONTEXT + _SPARE_TOKENS:
        return ""
    if settings.qwen.cache_tokens:
        return f"qwen.cache_tokens={tokens}"
    found = [f"qwen.cache_tokens={tokens} for all sessions together"]
    context = (tokens - _SPARE_TOKENS) // sessions // wanted.page * wanted.page
    if context >= _LEAST_CONTEXT:
        found.insert(0, f"qwen.context_tokens={context}")
    own = (wanted.tokens - _SPARE_TOKENS) // sessions
    if fewer := (tokens - _SPARE_TOKENS) // own:
        found.insert(0, f"server.max_sessions={fewer}")
    return ", or ".join(found)


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


def _needs(settings: Settings, dtype: torch.dtype, source: str, eight_bit: EightBit, *, fast: bool) -> Needs:
    chance = RandomSource.parse(source)
    spec = read_spec(Path(source)) if chance is None else chance.spec()
    with torch.device("meta"):
        model = Omni(spec)
    if chance is None:
        plan(model, read_headers(Path(source)))
    tokens = cache_tokens(settings, spec)
    decoders = [spec.text] if spec.talker is None else [spec.text, spec.talker.decoder]
    numbers = sum(decoder.kv_bytes_per_token for decoder in decoders) // 2
    shape(model, dtype, eight_bit)
    weights = sum(parameter.nbytes for parameter in model.parameters()) + copies(model, model.heads, eight_bit)
    page = page_of(settings.qwen.attention)
    caches = (tokens + page) * numbers * dtype.itemsize  # a page of each is never handed out
    head_dims = tuple(decoder.head_dim for decoder in decoders)
    machine = fast_needs(model, dtype, settings.server.max_sessions) if fast else None
    return Needs(dtype, eight_bit, weights, caches, tokens, page, head_dims, machine)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise EngineError("no_device", f"qwen.device {name!r} names no device: cuda, cuda:N or cpu") from error
