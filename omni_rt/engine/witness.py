"""A second engine that hears the user beside the one that answers, and tells by the words whether a turn is over, and
what is said over a reply.

For an engine that cannot tell the first, and is slower to tell the second. The witness gets what the user says and
nothing else of the conversation, and is asked for a reply of one token that nobody hears, on the way to which it judges
the words. Where there is no witness (another language, no place, its worker is lost) turns end as they do without one,
and the engine overhears.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from omni_rt.config import Settings
from omni_rt.core.phrases import base_language
from omni_rt.engine.api import (
    Capabilities,
    Chunk,
    ContextItem,
    Ending,
    Engine,
    EngineError,
    EngineListener,
    EngineLost,
    EngineSession,
    Mark,
    Pcm,
    RespondOptions,
    Rgb,
    Role,
    SessionSettings,
    Transcript,
)

log = logging.getLogger(__name__)

_CONTEXT_TOKENS = 1024
# Words are wanted in pauses; what is understood in between only makes that quicker.
_PARTIAL_EVERY_MS = 1500


def witness_settings(settings: Settings) -> Settings:
    """What the local engine is started with as a witness."""
    local = settings.local.model_copy(
        update={"eyes": False, "context_tokens": _CONTEXT_TOKENS, "partial_every_ms": _PARTIAL_EVERY_MS}
    )
    engine = settings.engine.model_copy(update={"kind": "local", "witness": "none"})
    return settings.model_copy(update={"engine": engine, "local": local})


class WitnessedEngine:
    """Implements Engine: all of `engine`, `judges_endings` by `witness`, which must, and `overhear` by it where it
    can."""

    def __init__(self, engine: Engine, witness: Engine) -> None:
        self._engine = engine
        self._witness = witness

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._engine.capabilities, judges_endings=True)

    async def start(self) -> None:
        """Raises the EngineError of the one that does not start; neither runs then."""
        starting = [asyncio.ensure_future(each.start()) for each in (self._engine, self._witness)]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.wait(starting)
            await self.close()
            raise

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> WitnessedSession:
        session = WitnessedSession(listener, Testimony(self._witness, session_id, settings.language))
        await session.open(self._engine, session_id, settings)
        return session

    async def close(self) -> None:
        await asyncio.gather(self._engine.close(), self._witness.close())


class Testimony:
    """What the witness says of one conversation; also the listener of its session, which is opened when there is
    something to hear.

    `tell` gets one Ending for each `judge`, later, unless `withdraw` comes before. It knows nothing of an utterance of
    which the witness has not heard everything.
    """

    def __init__(self, witness: Engine, session_id: str, language: str) -> None:
        self.language = language
        self.tell: Callable[[Ending], None] = lambda _: None
        self._witness = witness
        self._id = session_id
        self._session: EngineSession | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[Pcm] = []
        self._missed = False
        self._asking: asyncio.Task[None] | None = None
        self._generation = 0
        self._place: tuple[Mark, Mark] | None = None
        self._commits = 0
        self._item = ""
        self._words: str | None = None
        self._awaited = self._committed = False

    def hear(self, pcm: Pcm) -> None:
        """16 kHz speech. After a commit it is another turn's."""
        if self._committed:
            self.start_over()
        if not self._understands():
            self._missed = True
        elif self._session is not None:
            self._session.append_audio(pcm)
        else:
            self._waiting.append(pcm)
            self._begin()

    def commit(self, item_id: str) -> None:
        self._committed = True
        self._commits += 1
        self._item, self._words = item_id, None
        if self._session is None or not self._understands():
            self._missed = True
        else:
            self._session.commit(str(self._commits))

    def discard(self) -> None:
        self.start_over()

    def mark(self, mark: Mark) -> None:
        self._place = None if self._session is None else (mark, self._session.mark())

    def rollback(self, mark: Mark) -> None:
        if self._session is None or self._place is None or self._place[0] != mark:
            self.start_over()
            self._missed = True
            return
        self.withdraw()
        self._committed = False
        self._session.rollback(self._place[1])

    def start_over(self) -> None:
        """Forget all that was said."""
        self.withdraw()
        self._committed = self._missed = False
        self._place = None
        self._waiting.clear()
        if self._session is not None:
            self._session.restore(())
        elif self._opening is not None and self._opening.done():
            self._opening = None

    def judge(self) -> None:
        """The words of the utterance that was committed last."""
        self.withdraw()
        self._awaited = True
        loop = asyncio.get_running_loop()
        if self._session is None or self._missed:
            loop.call_soon(self._judged, self._commits, None)
            return
        self._generation += 1
        options = RespondOptions(self._generation, audio=False, max_tokens=1, judge_ending=True)
        self._asking = loop.create_task(self._ask(self._session, options, self._commits))

    def withdraw(self) -> None:
        """Nobody waits for a judgement any more."""
        self._awaited = False
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            self._cancel()
        self._asking = None

    async def overhear(self, pcm: Pcm) -> str:
        """The words of a clip, also if nothing has been heard before. Raises EngineError where the witness cannot
        tell."""
        if self._session is None and self._understands():
            await asyncio.shield(self._begin())
        if self._session is not None and self._understands():
            return await self._session.overhear(pcm)
        raise EngineError("no_witness", f"session {self._id} has no witness of what is said over a reply")

    def close(self) -> None:
        self.withdraw()
        if self._opening is not None:
            self._opening.cancel()
        if self._session is not None:
            self._session.close()
            self._session = None

    # -- from the witness

    def on_transcript(self, transcript: Transcript) -> None:
        if transcript.final and transcript.item_id == str(self._commits) and not transcript.error:
            self._words = transcript.text or None

    def on_ending(self, ending: Ending) -> None:
        if ending.item_id == str(self._commits):
            self._judged(self._commits, ending.probability)
            self._cancel()

    def on_error(self, error: EngineError) -> None:
        log.warning("the witness of session %s: %s", self._id, error)

    def on_lost(self, error: EngineLost) -> None:
        log.warning("session %s has lost its witness: %s", self._id, error)
        self._session = self._opening = self._place = None
        self._missed = True

    # -- inside

    def _begin(self) -> asyncio.Task[None]:
        """Opening the witness's session, once."""
        self._opening = self._opening or asyncio.get_running_loop().create_task(self._open())
        return self._opening

    async def _open(self) -> None:
        try:
            self._session = await self._witness.open(self._id, SessionSettings(), self)
        except EngineError as error:
            log.warning("session %s has no witness of how its turns end: %s", self._id, error)
            self._missed = True
        else:
            for pcm in self._waiting:
                self._session.append_audio(pcm)
        self._waiting.clear()

    def _understands(self) -> bool:
        return base_language(self.language) in self._witness.capabilities.languages

    async def _ask(self, session: EngineSession, options: RespondOptions, commit: int) -> None:
        try:
            async for _ in session.respond(options):
                pass
        except EngineError as error:
            log.info("the witness of session %s does not tell: %s", self._id, error)
        self._judged(commit, None)

    def _cancel(self) -> None:
        if self._session is not None:
            self._session.cancel(self._generation)

    def _judged(self, commit: int, probability: float | None) -> None:
        if self._awaited and commit == self._commits:
            self._awaited = False
            self.tell(Ending(self._item, probability, None if self._missed else self._words))


class WitnessedSession(EngineSession):
    """A session of a WitnessedEngine, and the listener of its engine's session.

    An utterance that is committed where a mark was set is judged. That the engine wrote down nothing of it is told
    after what the witness says, as nobody would wait for that otherwise.
    """

    def __init__(self, listener: EngineListener, testimony: Testimony) -> None:
        self._listener = listener
        self._testimony = testimony
        testimony.tell = self.on_ending
        self._marked = False
        self._judged_item = ""
        self._late: Transcript | None = None
        self._session: EngineSession

    async def open(self, engine: Engine, session_id: str, settings: SessionSettings) -> None:
        """Raises what `engine` does."""
        self._session = await engine.open(session_id, settings, self)

    # -- calls

    def configure(self, settings: SessionSettings) -> None:
        self._testimony.language = settings.language
        self._session.configure(settings)

    def append_audio(self, pcm: Pcm) -> None:
        self._marked = False
        self._session.append_audio(pcm)
        self._testimony.hear(pcm)
        self._let_go()

    def append_image(self, rgb: Rgb, at_ms: int) -> None:
        self._session.append_image(rgb, at_ms)

    def append_text(self, text: str, role: Role, item_id: str) -> None:
        self._session.append_text(text, role, item_id)

    def append_tool_result(self, call_id: str, output: str, item_id: str) -> None:
        self._session.append_tool_result(call_id, output, item_id)

    def commit(self, item_id: str) -> None:
        self._let_go()
        self._judged_item = item_id if self._marked else ""
        self._session.commit(item_id)
        self._testimony.commit(item_id)

    def discard(self) -> None:
        self._session.discard()
        self._testimony.discard()

    def mark(self) -> Mark:
        self._marked = True
        mark = self._session.mark()
        self._testimony.mark(mark)
        return mark

    def rollback(self, mark: Mark) -> None:
        self._judged_item, self._late = "", None
        self._session.rollback(mark)
        self._testimony.rollback(mark)

    def respond(self, options: RespondOptions) -> AsyncIterator[Chunk]:
        if options.judge_ending:
            self._testimony.judge()
        else:
            self._let_go()
        return self._session.respond(options)

    def cancel(self, generation: int) -> None:
        self._session.cancel(generation)

    def keep_heard(self, generation: int, audio_ms: int) -> Awaitable[str]:
        return self._session.keep_heard(generation, audio_ms)

    async def overhear(self, pcm: Pcm) -> str:
        try:
            return await self._testimony.overhear(pcm)
        except EngineError as error:
            log.debug("the engine overhears: %s", error)
        return await self._session.overhear(pcm)

    def restore(self, items: Sequence[ContextItem]) -> None:
        self._let_go()
        self._session.restore(items)
        self._testimony.start_over()

    def close(self) -> None:
        self._testimony.close()
        self._session.close()

    # -- from the engine

    def on_transcript(self, transcript: Transcript) -> None:
        if transcript.final and not transcript.text and transcript.item_id == self._judged_item:
            self._late = transcript
        else:
            self._listener.on_transcript(transcript)

    def on_ending(self, ending: Ending) -> None:
        self._listener.on_ending(ending)
        self._let_go()

    def on_error(self, error: EngineError) -> None:
        self._listener.on_error(error)

    def on_lost(self, error: EngineLost) -> None:
        self._testimony.close()
        self._let_go()
        self._listener.on_lost(error)

    def _let_go(self) -> None:
        """Nothing of the witness is waited for any more."""
        self._judged_item = ""
        late, self._late = self._late, None
        if late is not None:
            self._listener.on_transcript(late)
