"""The embedded default engine: Moonshine hears, Qwen2.5 thinks, hibari speaks, SSD-MobileNet and PP-OCR see."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np

from omni_rt.config import Settings
from omni_rt.engine.api import Capabilities, EngineError, EngineListener, SessionSettings
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.chat import ChatModel
from omni_rt.engine.local.eyes import Eyes
from omni_rt.engine.local.gguf import read_facts
from omni_rt.engine.local.parts import LANGUAGES, Parts, Voices
from omni_rt.engine.local.priorities import Priorities
from omni_rt.engine.local.prompt import read_marks, system_text
from omni_rt.engine.local.session import LocalSession
from omni_rt.engine.local.slot import Slot
from omni_rt.engine.local.tts import voices
from omni_rt.engine.memory import available_memory
from omni_rt.models.manifest import ASR, EYES, UnknownModel
from omni_rt.models.store import ModelMissing, ModelStore


class LocalEngine:
    """Implements Engine. Lives on one event loop; its blocking work is done in threads."""

    def __init__(self, settings: Settings, store: ModelStore) -> None:
        self._settings = settings
        self._store = store
        self._parts: Parts | None = None
        self._free: list[Slot] = []
        self._warming: asyncio.Task[None] | None = None
        self._sessions: set[LocalSession] = set()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="local",
            voices=voices(),
            languages=LANGUAGES,
            image_input=self._settings.local.eyes,
            tools=True,
            context_tokens=self._settings.local.context_tokens,
            max_sessions=self._settings.server.max_sessions,
            overhears=True,
            judges_endings=True,
            exact_tools=True,
        )

    async def start(self) -> None:
        local = self._settings.local
        threads = local.threads or max(2, os.cpu_count() or 2)
        # First, so that of several things that are missing always the same one is told.
        chat = await asyncio.to_thread(self._prepare_chat, threads)
        # the recogniser gains little by more threads, and what runs beside it at the end of a turn needs the others
        recogniser, speaking, eyes = await asyncio.gather(
            asyncio.to_thread(self._load_recogniser, max(1, threads // 2)),
            asyncio.to_thread(self._load_voices),
            asyncio.to_thread(self._load_eyes, threads),
        )
        try:
            await chat.start()
            marks = await read_marks(chat)
            beginning = [*marks.system, *await chat.tokenise(system_text("", ()))]
            self._free = [Slot(chat, number) for number in range(chat.slots)]
            while self._free[0].missing(beginning):
                await self._free[0].advance(beginning)
        except BaseException:
            await chat.close()
            raise
        self._parts = Parts(local, Priorities(), chat, marks, recogniser, speaking, eyes)
        self._warming = asyncio.create_task(self._warm(self._free[1:], beginning))

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> LocalSession:
        if self._parts is None:
            raise EngineError("not_started", "the engine is not started, or closed")
        if not self._free:
            raise EngineError(
                "busy",
                f"all {self._settings.server.max_sessions} places are taken (server.max_sessions); try again later",
            )
        self._parts.check(settings)
        slot = min(self._free, key=lambda free: free.number)
        self._free.remove(slot)

        def free() -> None:
            self._free.append(slot)
            self._sessions.discard(session)

        session = LocalSession(self._parts, slot, settings, listener, free)
        self._sessions.add(session)
        return session

    async def close(self) -> None:
        for session in list(self._sessions):
            session.close()
        if self._warming is not None:
            self._warming.cancel()
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.priorities.close()
            await parts.chat.close()

    async def _warm(self, slots: list[Slot], beginning: list[int]) -> None:
        """Until somebody comes, read what every session's prompt begins with into the other slots."""
        for slot in slots:
            while slot.missing(beginning) and not self._sessions:
                async with slot.lock:
                    await slot.advance(beginning)

    def _prepare_chat(self, threads: int) -> ChatModel:
        local, slots = self._settings.local, self._settings.server.max_sessions
        try:
            path = self._store.chat_model(local.chat_model)
        except (ModelMissing, UnknownModel) as error:
            raise EngineError("model_missing", str(error)) from error
        facts = read_facts(path)
        if facts.context_tokens < local.context_tokens:
            raise EngineError(
                "context_too_long",
                f"local.context_tokens is {local.context_tokens}, {path.name} was made for {facts.context_tokens}",
            )
        needed, available = facts.memory(local.context_tokens * slots), available_memory()
        if available is not None and needed > available:
            raise EngineError(
                "too_little_memory",
                f"{path.name} with {slots} sessions of {local.context_tokens} tokens takes {needed:,} bytes of memory, "
                f"{available:,} are free; end other programs, take a smaller local.chat_model, or lower "
                "server.max_sessions or local.context_tokens",
            )
        return ChatModel(path, slots, local.context_tokens, threads)

    def _load_recogniser(self, threads: int) -> Recogniser:
        encoder, decoder, tokenizer = self._files(*ASR)
        recogniser = Recogniser(encoder, decoder, tokenizer, threads)
        recogniser.warm_up()
        return recogniser

    def _load_voices(self) -> Voices:
        speaking = Voices()
        speaking.speak("", "Hello there.")
        return speaking

    def _load_eyes(self, threads: int) -> Eyes | None:
        if not self._settings.local.eyes:
            return None
        detector, graph, labels = self._files(*EYES)
        eyes = Eyes(detector, graph, labels, threads)
        eyes.things(np.zeros((64, 64, 3), np.uint8))
        return eyes

    def _files(self, *names: str) -> list[Path]:
        """Raises EngineError for a file that is not there."""
        try:
            return [self._store.path(name) for name in names]
        except (ModelMissing, UnknownModel) as error:
            raise EngineError("model_missing", str(error)) from error
