"""Qwen3-Omni behind the engine seam: loads the model, shares its memory out, opens sessions."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from omni_rt.config import Settings
from omni_rt.engine.api import Capabilities, EngineError, EngineListener, SessionSettings
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.eight_bit import EightBit
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.machine import Machine, PlainMachine
from omni_rt.engine.qwen3_omni.model import Omni, load, loading_bar
from omni_rt.engine.qwen3_omni.needs import Needs, Place, backend, cache_tokens, needs, place, quantisation, smaller
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.prompt import Prompt
from omni_rt.engine.qwen3_omni.random_weights import RandomSource
from omni_rt.engine.qwen3_omni.scheduler import Scheduler
from omni_rt.engine.qwen3_omni.session import QwenSession
from omni_rt.engine.qwen3_omni.tokenizer import Tokenizer
from omni_rt.models.manifest import QWEN_TOKENIZER, UnknownModel
from omni_rt.models.store import ModelMissing, ModelStore

log = logging.getLogger(__name__)

LANGUAGES = ("en", "zh", "ko", "ja", "de", "ru", "it", "fr", "es", "pt")
"""Those that the released models both understand and speak."""


class QwenEngine:
    """Implements Engine. Lives on one event loop; one thread of its own computes."""

    def __init__(self, settings: Settings, store: ModelStore) -> None:
        self._settings = settings
        self._store = store
        self._parts: Parts | None = None
        self._sessions: set[QwenSession] = set()
        self._seeds = itertools.count(secrets.randbits(62))

    @property
    def capabilities(self) -> Capabilities:
        parts = self._started()
        return Capabilities(
            name="qwen3_omni",
            voices=parts.voices,
            languages=LANGUAGES,
            image_input=True,
            tools=True,
            context_tokens=parts.context_tokens,
            max_sessions=self._settings.server.max_sessions,
            overhears=True,
            transcribes=self._settings.qwen.transcripts,
        )

    async def start(self) -> None:
        self._parts = await asyncio.to_thread(self._load)
        self._parts.scheduler.start()

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> QwenSession:
        parts = self._started()
        if len(self._sessions) >= self._settings.server.max_sessions:
            raise EngineError(
                "busy",
                f"all {self._settings.server.max_sessions} places are taken (server.max_sessions); try again later",
            )
        session = QwenSession(parts, settings, listener, next(self._seeds), lambda: self._sessions.discard(session))
        self._sessions.add(session)
        return session

    async def close(self) -> None:
        for session in list(self._sessions):
            session.close()
        parts, self._parts = self._parts, None
        if parts is not None:
            await asyncio.to_thread(parts.scheduler.close)

    # -- inside

    def _started(self) -> Parts:
        if self._parts is None:
            raise EngineError("not_started", "the engine is not started, or closed")
        return self._parts

    def _load(self) -> Parts:
        qwen = self._settings.qwen
        if not qwen.weights:
            raise EngineError(
                "weights_missing",
                "the engine 'qwen3_omni' needs weights: --weights FOLDER of a checkpoint, or random:tiny to try it out",
            )
        where = place(qwen)
        device, dtype = where.device, where.dtype
        narrow = quantisation(qwen, where)
        wanted = needs(self._settings, where, narrow)
        if where.fast and find_spec("triton") is None:
            raise EngineError("no_triton", "qwen.machine 'fast' needs Triton: pip install triton, or set it to 'plain'")
        attention = backend(self._settings, where, wanted)
        _check_memory(self._settings, where, wanted)
        if device.type == "cpu":  # the server's own process needs a core, too
            torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
        tokenizer = self._tokenizer(qwen.weights)
        with loading_bar(sys.stderr) as progress:
            omni = load(qwen.weights, device=device, dtype=dtype, eight_bit=narrow, progress=progress)
        if device.type != "cpu":  # what is left to the host is too little to be shared among threads
            torch.set_num_threads(1)
        spec = omni.spec
        tokens = cache_tokens(self._settings, spec)
        decoders = [spec.text] if spec.talker is None else [spec.text, spec.talker.decoder]
        pools = [
            KVPool(decoder, tokens=tokens, page=attention.page, device=device, dtype=dtype) for decoder in decoders
        ]
        machine = self._machine(omni, pools, attention, narrow, fast=where.fast)
        parts = Parts(
            settings=qwen,
            omni=omni,
            machine=machine,
            tokenizer=tokenizer,
            prompt=Prompt(tokenizer),
            scheduler=Scheduler(machine.run),
            pool=pools[0],
            talker_pool=pools[1] if spec.talker is not None else None,
            context_tokens=min(qwen.context_tokens, spec.text.context),
            frames_per_second=self._settings.media.frames_per_second,
        )
        if qwen.voice:
            parts.check(SessionSettings(voice=qwen.voice))
        return parts

    def _machine(self, omni: Omni, pools: list[KVPool], attention: Backend, narrow: EightBit, *, fast: bool) -> Machine:
        if not fast:
            return PlainMachine(omni, backend=attention)
        from omni_rt.engine.qwen3_omni.fast_machine import FastMachine

        begun = time.monotonic()
        with torch.inference_mode():
            machine = FastMachine(
                omni,
                pools[0],
                pools[1] if len(pools) > 1 else None,
                backend=attention,
                lines=self._settings.server.max_sessions,
                audio_window_s=self._settings.qwen.audio_window_s,
                eight_bit=narrow,
                progress=lambda part: log.info("%s", part),
            )
        log.info("%d graphs captured in %.1f s", machine.graphs, time.monotonic() - begun)
        return machine

    def _tokenizer(self, weights: str) -> Tokenizer:
        if RandomSource.parse(weights) is None:
            return Tokenizer.from_folder(Path(weights))
        try:
            return Tokenizer.from_ranks(self._store.path(QWEN_TOKENIZER))
        except (ModelMissing, UnknownModel) as error:
            raise EngineError("model_missing", str(error)) from error


def _check_memory(settings: Settings, where: Place, wanted: Needs) -> None:
    if where.free is None or wanted.bytes <= where.free:
        return
    changed = smaller(settings, wanted, where.free)
    remedy = f", or set {changed}" if changed else "; smaller caches would not be enough"
    raise EngineError(
        "too_little_memory",
        f"serving takes {wanted}; on {where.device} {where.free:,} are free; end other programs, or take a larger "
        f"device{remedy}",
    )
