"""What was heard of replies that were cut: the engine says it, the conversation keeps it, the client is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any

from omni_rt.core.conversation import Conversation
from omni_rt.core.playout import Trail
from omni_rt.engine.api import EngineError
from omni_rt.realtime.writer import EventWriter
from omni_rt.session.engine_link import EngineLink
from omni_rt.session.reply import Reply

log = logging.getLogger(__name__)

# A client that reports its loudspeaker says where it fell silent within this time, or its word was lost on the way.
SILENCED_S = 0.5
# Less than this between an estimate and the truth changes no word.
EXACT_MS = 20


class Cut(Enum):
    """Who says how much was heard."""

    SERVER = "server"
    """the server, which plays: the client is told"""
    GUESS = "guess"
    """the server, of a client that plays by itself: for the model alone, until the client has its say"""
    CLIENT = "client"
    """the client, and is answered"""


class HeardWords:
    """`spawn` runs what has to wait, `restore` makes the engine's context anew. Of several cuts of one reply the newest
    counts."""

    def __init__(
        self,
        link: EngineLink,
        conversation: Conversation,
        events: EventWriter,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        restore: Callable[[], None],
    ) -> None:
        self._link = link
        self._conversation = conversation
        self._events = events
        self._spawn = spawn
        self._restore = restore
        self._silenced: asyncio.Future[float] | None = None

    def cut(self, reply: Reply, heard_ms: int, cut: Cut, trail: Trail | None = None) -> None:
        """Keep the first `heard_ms` of a reply. The engine's context is cut at once.

        With a `trail` the client's loudspeaker sounds on until it learns of the stop: `heard_ms` is an estimate then,
        and the client is given `SILENCED_S` to tell how far it got.
        """
        reply.cuts += 1
        if not reply.known:
            self._settled(reply, reply.cuts, heard_ms, reply.estimate_heard(heard_ms), cut)
            self._restore()
            return
        asked = self._keep(reply, heard_ms)
        if trail is None:
            self._spawn(self._settle(reply, reply.cuts, heard_ms, cut, asked))
            return
        self._silenced = asyncio.get_running_loop().create_future()
        self._spawn(self._settle_when_silent(reply, reply.cuts, heard_ms, asked, trail, self._silenced))

    def silenced(self, stream_ms: float) -> None:
        """The client's loudspeaker fell silent at this place of the stream."""
        if self._silenced is not None and not self._silenced.done():
            self._silenced.set_result(stream_ms)

    def _keep(self, reply: Reply, heard_ms: int) -> Awaitable[str] | None:
        engine = self._link.session
        return None if engine is None else engine.keep_heard(reply.generation, round(reply.made_ms(heard_ms)))

    async def _settle_when_silent(
        self,
        reply: Reply,
        number: int,
        heard_ms: int,
        asked: Awaitable[str] | None,
        trail: Trail,
        silenced: asyncio.Future[float],
    ) -> None:
        engine = self._link.session
        told: float | None = None
        with contextlib.suppress(TimeoutError):
            told = trail.heard_ms(await asyncio.wait_for(silenced, SILENCED_S))
        if told is not None and abs(told - heard_ms) > EXACT_MS and number == reply.cuts:
            heard_ms = round(told)
            if asked is not None:
                with contextlib.suppress(EngineError):
                    await asked
                asked = self._keep(reply, heard_ms) if self._link.session is engine else None
        await self._settle(reply, number, heard_ms, Cut.SERVER, asked)

    async def _settle(self, reply: Reply, number: int, heard_ms: int, cut: Cut, asked: Awaitable[str] | None) -> None:
        try:
            heard = await asked if asked is not None else reply.estimate_heard(heard_ms)
        except EngineError as error:
            log.warning("what was heard is estimated: %s", error)
            heard = reply.estimate_heard(heard_ms)
        self._settled(reply, number, heard_ms, heard, cut)

    def _settled(self, reply: Reply, number: int, heard_ms: int, heard: str, cut: Cut) -> None:
        item_id = reply.message_id
        if item_id is None or item_id not in self._conversation or number != reply.cuts:
            return
        heard = heard if heard_ms else ""
        if (cut is Cut.SERVER and not heard) or (cut is Cut.CLIENT and not heard_ms):
            reply.unheard = True
            self._conversation.remove(item_id)
            self._events.item_deleted(item_id)
            return
        if cut is Cut.GUESS:
            self._conversation.suppose(item_id, heard)
            return
        self._conversation.set_transcript(item_id, heard)
        if not heard:
            self._conversation.suppose(item_id, heard)
        self._events.item_truncated(item_id, heard_ms, heard)
