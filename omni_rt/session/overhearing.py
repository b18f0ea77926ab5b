"""What is said over a reply, told before it is anybody's turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from omni_rt.core.overheard import Meaning, classify, repeats
from omni_rt.engine.api import EngineError, Pcm
from omni_rt.session.engine_link import EngineLink

log = logging.getLogger(__name__)

BEFORE_MS = 240
"""How much of the sound before the onset is listened to: voice activity begins with a word's vowel, not with the
consonants before it."""


class Overhearing:
    """`report` gets the place up to which it was asked for, and what the words are, on the event loop. Nothing is
    reported of what the engine could not tell. `own_words` are those of the assistant whose echo may not be told from a
    person's voice: who says nothing else is taken for it, unless it is to stop."""

    def __init__(
        self,
        link: EngineLink,
        language: Callable[[], str],
        own_words: Callable[[], str],
        report: Callable[[int, Meaning], None],
    ) -> None:
        self._link = link
        self._language = language
        self._own_words = own_words
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, pcm: Pcm, at_ms: int) -> None:
        """For the words of 16 kHz audio that ends at `at_ms`."""
        task = asyncio.get_running_loop().create_task(self._hear(pcm, at_ms))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hear(self, pcm: Pcm, at_ms: int) -> None:
        session = self._link.session
        if session is None:
            return
        try:
            text = await session.overhear(pcm)
        except EngineError as error:
            log.warning("what was said over a reply is not known: %s", error)
            return
        kind = classify(text, self._language())
        if kind == "words" and repeats(text, self._own_words()):
            kind = "nothing"
        log.debug("over a reply: %r, %s", text, kind)
        self._report(at_ms, kind)
