"""The process that hosts an engine: `python -m omni_rt.engine.worker`, started and spoken to by `engine/link.py`.

Messages come on standard input and leave on what was standard output; anything else the process prints goes to standard
error. It ends when its input ends, however its parent came to die, and leaves Ctrl-C to the parent.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

from omni_rt.config import Settings, cache_dir
from omni_rt.engine.api import (
    Ending,
    Engine,
    EngineError,
    EngineLost,
    EngineSession,
    Mark,
    ReplyEnd,
    SessionClosed,
    Transcript,
)
from omni_rt.engine.channel import (
    AppendAudio,
    AppendImage,
    AppendText,
    AppendToolResult,
    CallFailed,
    Cancel,
    Channel,
    ChannelStuck,
    CloseSession,
    Command,
    CommandFailed,
    Commit,
    Configure,
    Discard,
    Event,
    Host,
    Judged,
    KeepHeard,
    Kept,
    Meaning,
    Open,
    Opened,
    Overhear,
    Ping,
    Pong,
    ReplyChunk,
    Respond,
    Restore,
    Rollback,
    SessionCommand,
    SetMark,
    Shutdown,
    Started,
    StartFailed,
    Understood,
)

log = logging.getLogger(__name__)

_SWITCH_S = 0.0005

STACK_SIGNAL = getattr(signal, "SIGUSR1", None)
"""Makes a worker write the stacks of all its threads to standard error; None where the system has no such signal."""


def build(settings: Settings, factory: str = "") -> Engine:
    """The engine that the settings, or a factory `module:callable`, name. Raises EngineError."""
    if factory:
        module, _, name = factory.partition(":")
        try:
            make = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise EngineError("engine_import", f"cannot load the engine {factory!r}: {error}") from error
        engine: Engine = make(settings)
        return engine
    match settings.engine.kind:
        case "local":
            try:
                from omni_rt.engine.local.engine import LocalEngine
                from omni_rt.models.store import ModelStore
            except ImportError as error:
                message = f"cannot load the local engine: {error}; `omni-rt doctor` says what is missing"
                raise EngineError("engine_import", message) from error
            return LocalEngine(settings, ModelStore(cache_dir()))
        case "qwen3_omni":
            try:
                from omni_rt.engine.qwen3_omni.engine import QwenEngine
                from omni_rt.models.store import ModelStore
            except ImportError as error:
                message = f"cannot load the engine 'qwen3_omni': {error}; install the extra 'omni-rt[qwen]'"
                raise EngineError("engine_import", message) from error
            return QwenEngine(settings, ModelStore(cache_dir()))


class _Hosted:
    """One session in the worker: its engine session, the engine's marks by serial, what is being answered."""

    def __init__(self, worker: _Worker, key: int) -> None:
        self.worker = worker
        self.key = key
        self.session: EngineSession
        self.marks: dict[int, Mark] = {}
        self.answers: set[asyncio.Task[None]] = set()
        self.lost = ""

    def on_transcript(self, transcript: Transcript) -> None:
        self.worker.post(Understood(self.key, transcript))

    def on_ending(self, ending: Ending) -> None:
        self.worker.post(Judged(self.key, ending))

    def on_error(self, error: EngineError) -> None:
        self.worker.post(CommandFailed(self.key, error.code, str(error)))

    def on_lost(self, error: EngineLost) -> None:
        self.lost = str(error)
        self.on_error(error)
        asyncio.get_running_loop().call_soon(self.worker.drop, self.key)

    def apply(self, command: SessionCommand) -> None:
        session = self.session
        match command:
            case AppendAudio():
                session.append_audio(command.pcm)
            case AppendImage():
                session.append_image(command.rgb, command.at_ms)
            case AppendText():
                session.append_text(command.text, command.role, command.item_id)
            case AppendToolResult():
                session.append_tool_result(command.call_id, command.output, command.item_id)
            case Commit():
                session.commit(command.item_id)
            case Discard():
                session.discard()
            case SetMark():
                self.marks[command.serial] = session.mark()
            case Rollback():
                if command.serial not in self.marks:
                    raise EngineError("unknown_mark", f"mark {command.serial} was never set in this session")
                session.rollback(self.marks[command.serial])
            case Cancel():
                session.cancel(command.generation)
            case Configure():
                session.configure(command.settings)
            case Restore():
                session.restore(command.items)
            case CloseSession():
                self.worker.drop(self.key)

    def close(self) -> None:
        try:
            self.session.close()
        finally:
            for answer in self.answers:
                answer.cancel()


class _Worker:
    """Takes the messages one after the other, so that calls take effect in the order in which they were made."""

    def __init__(self) -> None:
        self._inbox: asyncio.Queue[Command] = asyncio.Queue()
        self._sessions: dict[int, _Hosted] = {}
        self._opening: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._engine: Engine | None = None
        self._channel: Channel

    async def run(self, incoming: io.RawIOBase, outgoing: io.RawIOBase) -> NoReturn:
        """Serve until told to stop; the process ends here, without the interpreter's shutdown, which would wait for
        threads of native libraries."""
        loop = asyncio.get_running_loop()

        def deliver(message: Command) -> None:
            loop.call_soon_threadsafe(self._inbox.put_nowait, message)

        self._channel = Channel(incoming, outgoing, deliver, lambda _: os._exit(1))
        try:
            while not isinstance(message := await self._inbox.get(), Shutdown):
                if task := self._take(message):
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                    await asyncio.sleep(0)  # its first step comes before the next message
            if self._engine is not None:
                await self._engine.close()
        except Exception:
            log.exception("the worker failed")
            os._exit(1)
        self._channel.finish(1.0)
        os._exit(0)

    def post(self, event: Event) -> None:
        try:
            self._channel.post(event)
        except ChannelStuck as error:
            log.error("the server does not read: %s", error)
            os._exit(1)

    def drop(self, key: int) -> None:
        """Close a session; one that is just being opened is closed once it is open."""
        self._opening.discard(key)
        if hosted := self._sessions.pop(key, None):
            hosted.close()

    def _take(self, message: Command) -> asyncio.Task[None] | None:
        """Do it, or start a task that does."""
        match message:
            case Ping():
                self.post(Pong(message.serial))
            case Host():
                return asyncio.create_task(self._start(message))
            case Open():
                self._opening.add(message.session)
                return asyncio.create_task(self._answer(message, self._open(message)))
            case KeepHeard():
                return asyncio.create_task(self._answer(message, self._keep_heard(message)))
            case Respond() | Overhear():
                work = self._reply(message) if isinstance(message, Respond) else self._overhear(message)
                task = asyncio.create_task(self._answer(message, work))
                if hosted := self._sessions.get(message.session):
                    hosted.answers.add(task)
                    task.add_done_callback(hosted.answers.discard)
                return task
            case Shutdown():
                pass
            case _:
                self._command(message)
        return None

    def _command(self, command: SessionCommand) -> None:
        hosted = self._sessions.get(command.session)
        try:
            if hosted is not None:
                hosted.apply(command)
            elif isinstance(command, CloseSession):
                self.drop(command.session)
        except Exception as error:
            self.post(CommandFailed(command.session, *_explain(error, type(command).__name__)))

    async def _start(self, host: Host) -> None:
        sys.path[:] = host.path
        logging.basicConfig(level=host.log_level, format="%(levelname)s %(name)s: %(message)s", force=True)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        try:
            engine = build(host.settings, host.factory)
            await engine.start()
        except Exception as error:
            self.post(StartFailed(*_explain(error, "start")))
        else:
            self._engine = engine
            self.post(Started(engine.capabilities))

    async def _answer(self, message: Open | KeepHeard | Overhear | Respond, work: Coroutine[Any, Any, Event]) -> None:
        try:
            event = await work
        except Exception as error:
            event = CallFailed(message.call, *_explain(error, type(message).__name__))
        self.post(event)

    async def _open(self, message: Open) -> Event:
        hosted = _Hosted(self, message.session)
        assert self._engine is not None
        try:
            hosted.session = await self._engine.open(message.session_id, message.settings, hosted)
        except BaseException:
            self._opening.discard(message.session)
            raise
        if message.session in self._opening:
            self._opening.discard(message.session)
            self._sessions[message.session] = hosted
        else:
            hosted.close()
        return Opened(message.call)

    async def _keep_heard(self, message: KeepHeard) -> Event:
        session = self._hosted(message.session).session
        return Kept(message.call, await session.keep_heard(message.generation, message.audio_ms))

    async def _overhear(self, message: Overhear) -> Event:
        hosted = self._hosted(message.session)
        try:
            return Meaning(message.call, await hosted.session.overhear(message.pcm))
        except asyncio.CancelledError:
            raise (EngineLost(hosted.lost) if hosted.lost else SessionClosed()) from None

    async def _reply(self, message: Respond) -> Event:
        """Send all chunks of a reply but its end, which is returned. The engine is not held back by a slow reader."""
        hosted = self._hosted(message.session)
        generation = message.options.generation
        end = ReplyEnd(generation, "failed", error="the engine stopped without ending the reply")
        try:
            async for chunk in hosted.session.respond(message.options):
                if isinstance(chunk, ReplyEnd):
                    end = chunk
                else:
                    self.post(ReplyChunk(message.call, chunk))
        except asyncio.CancelledError:
            end = ReplyEnd(generation, "failed" if hosted.lost else "cancelled", error=hosted.lost)
        except EngineError:
            raise
        except Exception as error:
            end = ReplyEnd(generation, "failed", error=_explain(error, "Respond")[1])
        return ReplyChunk(message.call, end)

    def _hosted(self, session: int) -> _Hosted:
        if hosted := self._sessions.get(session):
            return hosted
        raise SessionClosed()


def _explain(error: Exception, doing: str) -> tuple[str, str]:
    """Code and message of an error; one that no engine should raise is logged with its traceback."""
    if isinstance(error, EngineError):
        return error.code, str(error)
    log.error("the engine failed in %s", doing, exc_info=error)
    return "engine_failed", f"the engine failed in {doing}: {type(error).__name__}: {error}"


def _take_pipes() -> tuple[io.FileIO, io.FileIO]:
    """The message pipes, out of reach of prints, of native code and of processes that the engine may start."""
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return io.FileIO(incoming, "rb"), io.FileIO(outgoing, "wb")


def main() -> None:
    # an engine's thread that computes shall not hold up messages, nor these that thread, for the usual 5 ms
    sys.setswitchinterval(_SWITCH_S)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    if STACK_SIGNAL is not None:
        faulthandler.register(STACK_SIGNAL)
    asyncio.run(_Worker().run(*_take_pipes()))


if __name__ == "__main__":
    main()
