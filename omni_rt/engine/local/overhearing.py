"""Recognises short clips that are no part of the conversation, before all other work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from omni_rt.engine.api import EngineError, Pcm, SessionClosed
from omni_rt.engine.clip import check_clip
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.priorities import Priorities, Work


class Overhearing:
    """Those of one session."""

    def __init__(self, recogniser: Recogniser, priorities: Priorities) -> None:
        self._recogniser = recogniser
        self._priorities = priorities
        self._closed = False
        self._asked: dict[asyncio.Future[str], asyncio.Task[None]] = {}

    def hear(self, pcm: Pcm) -> Awaitable[str]:
        """The words of a clip; what goes wrong is raised when it is awaited."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(SessionClosed())
            return answer
        task = self._asked[answer] = asyncio.create_task(self._answer(answer, pcm))
        answer.add_done_callback(lambda _: task.cancel())
        task.add_done_callback(lambda _: self._asked.pop(answer))
        return answer

    def close(self) -> None:
        self._closed = True
        for answer in list(self._asked):
            if not answer.done():
                answer.set_exception(SessionClosed())

    async def _answer(self, answer: asyncio.Future[str], pcm: Pcm) -> None:
        try:
            check_clip(pcm)
            text = await self._priorities.run(Work.OVERHEAR, lambda: partial(self._recogniser.overhear, pcm))
        except EngineError as error:
            _fail(answer, error)
        except Exception as error:
            _fail(answer, EngineError("recognition_failed", f"a clip could not be recognised: {error}"))
        else:
            if not answer.done():
                answer.set_result(text)


def _fail(answer: asyncio.Future[str], error: EngineError) -> None:
    if not answer.done():
        answer.set_exception(error)
