"""One worker process as the server sees it: started, fed, listened to, watched, and declared lost at most once."""

from __future__ import annotations

import asyncio
import io
import itertools
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from omni_rt.config import Settings
from omni_rt.engine.api import (
    Capabilities,
    Chunk,
    EngineError,
    EngineListener,
    EngineLost,
    Pcm,
    ReplyEnd,
    RespondOptions,
    SessionClosed,
    SessionSettings,
)
from omni_rt.engine.channel import (
    CallFailed,
    Cancel,
    Channel,
    ChannelStuck,
    CloseSession,
    Command,
    CommandFailed,
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
    SessionCommand,
    Shutdown,
    Started,
    StartFailed,
    Understood,
)
from omni_rt.engine.worker import STACK_SIGNAL

log = logging.getLogger(__name__)

_STACK_S = 0.5  # for a hung worker to write its stacks before it is killed
_EXIT_S = 2.0  # for a worker that closed its pipe to end


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker counts as lost.

    Its event loop must answer a ping every `beat_s`; `hung_beats` unanswered ones (`start_beats` while it imports and
    loads) make it hung. Pings are counted, not seconds, so that a server which was itself stopped accuses nobody.
    A queue of more than `queued_bytes` of which nothing moved for `stalled_s` makes it hung too. `close_s` is how long
    it may take to leave when asked; `backoff_s` is the pause before the second restart, doubled for each further one.
    """

    beat_s: float = 1.0
    hung_beats: int = 10
    start_beats: int = 120
    queued_bytes: int = 64 * 2**20
    stalled_s: float = 2.0
    close_s: float = 5.0
    backoff_s: float = 0.5


class Link:
    """Lives on the event loop it was made on. `started` gives the engine's capabilities or raises its EngineError;
    `lost` is empty until the worker is lost or closed; `gone` is set when its process has ended and was reaped.

    `on_lost(reason)` is called if the worker is lost after it had started, before any session hears of it.
    """

    def __init__(self, settings: Settings, factory: str, limits: Limits, on_lost: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._on_lost = on_lost
        self._serials = itertools.count(1)
        self._listeners: dict[int, EngineListener] = {}
        self._opening: set[int] = set()
        self._calls: dict[int, asyncio.Future[str]] = {}
        self._replies: dict[int, Inbox] = {}
        self._pinged = self._ponged = 0
        self._last_line = ""
        self.lost = ""
        self.started: asyncio.Future[Capabilities] = self._loop.create_future()
        self.gone = asyncio.Event()
        # A session (process group) of its own: a terminal's Ctrl-C goes to the server alone.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "omni_rt.engine.worker"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=sys.platform != "win32",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.pid = self._process.pid
        assert isinstance(self._process.stdin, io.FileIO)
        assert isinstance(self._process.stdout, io.FileIO)
        self._stderr = threading.Thread(target=self._forward_stderr, name="engine-stderr", daemon=True)
        self._stderr.start()
        self._channel = Channel(
            self._process.stdout,
            self._process.stdin,
            self._pipe_brought,
            self._pipe_ended,
            queued_bytes=limits.queued_bytes,
            stalled_s=limits.stalled_s,
        )
        self._channel.post(Host(settings, factory, tuple(sys.path), logging.getLogger().getEffectiveLevel()))
        self._timer = self._loop.call_later(limits.beat_s, self._beat)

    # --- what sessions do

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> int:
        """Open a session; returns its number. Raises EngineError; EngineLost, and then the listener is not told."""
        session = next(self._serials)
        self._listeners[session] = listener
        self._opening.add(session)
        try:
            await self._call(lambda call: Open(call, session, session_id, settings))
            if session not in self._listeners:
                raise EngineLost(self.lost or "the session was lost as soon as it was open")
        except BaseException:
            self.close_session(session)
            raise
        finally:
            self._opening.discard(session)
        return session

    def command(self, command: SessionCommand) -> None:
        """Pass a session's command on; those of a session that is closed or lost are dropped."""
        if command.session in self._listeners:
            self._post(command)

    def respond(self, session: int, options: RespondOptions) -> Inbox:
        """Ask for a reply; its chunks come into the inbox, the last being a ReplyEnd or an EngineError."""
        inbox = Inbox(next(self._serials), session, options.generation)
        if session in self._listeners:
            self._replies[inbox.call] = inbox
            self._post(Respond(inbox.call, session, options))
        else:
            inbox.fail(self._absent())
        return inbox

    def abandon(self, inbox: Inbox) -> None:
        """Cancel a reply whose chunks nobody will read."""
        if self._replies.pop(inbox.call, None):
            self.command(Cancel(inbox.session, inbox.generation))

    def keep_heard(self, session: int, generation: int, audio_ms: int) -> asyncio.Future[str]:
        return self._call_of(session, lambda call: KeepHeard(call, session, generation, audio_ms))

    def overhear(self, session: int, pcm: Pcm) -> asyncio.Future[str]:
        return self._call_of(session, lambda call: Overhear(call, session, pcm))

    def close_session(self, session: int) -> None:
        self.command(CloseSession(session))
        self._listeners.pop(session, None)

    # --- what the engine does

    async def close(self) -> None:
        """Let the engine close and the process end within `close_s`, or kill it. Sessions are not told."""
        if not self.lost:
            self._post(Shutdown())
            self._drop_all("the engine was closed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), self._limits.close_s)
        await self.abort()

    async def abort(self) -> None:
        """Kill the process, whatever it is doing, and see it gone. Sessions are not told."""
        self._drop_all(self.lost or "the engine was closed")
        if not self.gone.is_set():
            self._process.kill()
        await self.reaped()

    async def reaped(self) -> None:
        """Wait until a killed process is gone, with its memory; at most `close_s`."""
        try:
            await asyncio.wait_for(self.gone.wait(), self._limits.close_s)
        except TimeoutError:
            log.error("worker %d was killed and is still there; its memory is not free", self.pid)

    # --- inside

    def _call_of(self, session: int, make: Callable[[int], Command]) -> asyncio.Future[str]:
        if session in self._listeners:
            return self._call(make)
        absent: asyncio.Future[str] = self._loop.create_future()
        absent.set_exception(self._absent())
        return absent

    def _call(self, make: Callable[[int], Command]) -> asyncio.Future[str]:
        """Post a command now; its answer comes later."""
        future: asyncio.Future[str] = self._loop.create_future()
        if self.lost:
            future.set_exception(EngineLost(self.lost))
            return future
        call = next(self._serials)
        self._calls[call] = future
        future.add_done_callback(lambda _: self._calls.pop(call, None))
        self._post(make(call))
        return future

    def _post(self, command: Command) -> None:
        if self.lost:
            return
        try:
            self._channel.post(command)
        except ChannelStuck as error:
            # Never from within a session's call: its owner does not expect to hear on_lost there.
            self._loop.call_soon(self._lose_hung, f"does not read its messages: {error}")

    def _receive(self, event: Event) -> None:
        if self.lost:
            return
        match event:
            case ReplyChunk():
                inbox = self._replies.get(event.call)
                if inbox is not None:
                    inbox.put(event.chunk)
                    if isinstance(event.chunk, ReplyEnd):
                        del self._replies[event.call]
            case Understood():
                if listener := self._listeners.get(event.session):
                    listener.on_transcript(event.transcript)
            case Judged():
                if listener := self._listeners.get(event.session):
                    listener.on_ending(event.ending)
            case Kept() | Meaning():
                self._settle(event.call, event.text)
            case Opened():
                self._settle(event.call, "")
            case CallFailed():
                error = _error(event.code, event.message)
                self._settle(event.call, error)
                if inbox := self._replies.pop(event.call, None):
                    inbox.put(error)
            case CommandFailed():
                self._session_error(event.session, _error(event.code, event.message))
            case Pong():
                self._ponged = event.serial
            case Started():
                self._ponged = self._pinged
                self.started.set_result(event.capabilities)
            case StartFailed():
                self._lose("could not start", _error(event.code, event.message))

    def _settle(self, call: int, result: str | EngineError) -> None:
        future = self._calls.get(call)
        if future is None or future.done():
            return
        if isinstance(result, EngineError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def _session_error(self, session: int, error: EngineError) -> None:
        if isinstance(error, EngineLost):
            listener = self._listeners.pop(session, None)
            if listener is not None and session not in self._opening:
                listener.on_lost(error)
        elif listener := self._listeners.get(session):
            listener.on_error(error)

    def _beat(self) -> None:
        waiting = self._pinged - self._ponged
        if self._process.poll() is not None:
            self._lose(_last_words(self._process.returncode, self._last_line))
        elif waiting >= (self._limits.hung_beats if self.started.done() else self._limits.start_beats):
            self._lose_hung(f"has not answered for {waiting * self._limits.beat_s:g} s")
        else:
            self._pinged += 1
            self._post(Ping(self._pinged))
            self._timer = self._loop.call_later(self._limits.beat_s, self._beat)

    def _lose_hung(self, reason: str) -> None:
        if self.lost:
            return
        if STACK_SIGNAL is not None:
            self._process.send_signal(STACK_SIGNAL)
        self._loop.call_later(_STACK_S, self._process.kill)
        self._lose(reason)

    def _lose(self, reason: str, start_error: EngineError | None = None) -> None:
        """The worker is of no use any more; tell everybody, once."""
        if self.lost:
            return
        reason = f"the engine's worker (process {self.pid}) {reason}"
        log.error("%s", start_error or reason)
        listeners = self._drop_all(reason)
        if not self.started.done():
            self.started.set_exception(start_error or EngineError("engine_down", f"{reason} while it was starting"))
            self._process.kill()
            return
        self._on_lost(reason)
        for listener in listeners:
            try:
                listener.on_lost(EngineLost(reason))
            except Exception:
                log.exception("a session failed in on_lost")

    def _drop_all(self, reason: str) -> list[EngineListener]:
        """End every reply and fail every call; returns the listeners of the sessions that were open."""
        self.lost = reason
        self._timer.cancel()
        for inbox in self._replies.values():
            inbox.fail(EngineLost(reason))
        for future in self._calls.values():
            if not future.done():
                future.set_exception(EngineLost(reason))
        listeners = [listener for session, listener in self._listeners.items() if session not in self._opening]
        self._replies.clear()
        self._calls.clear()
        self._listeners.clear()
        return listeners

    def _absent(self) -> EngineError:
        if self.lost:
            return EngineLost(self.lost)
        return SessionClosed()

    def _pipe_brought(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._receive, event)

    def _pipe_ended(self, problem: str) -> None:
        """On the reading thread: wait for the process to end, so that it is reaped and its end can be told."""
        if problem:
            self._process.kill()
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._stderr.join(_EXIT_S)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._process_ended, problem or _last_words(code, self._last_line))

    def _process_ended(self, reason: str) -> None:
        self.gone.set()
        self._lose(reason)

    def _forward_stderr(self) -> None:
        assert self._process.stderr is not None
        with io.TextIOWrapper(self._process.stderr, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._last_line = line.strip() or self._last_line
                with suppress(OSError, ValueError):  # whatever becomes of it, the worker must not wait for us
                    print(f"[worker {self.pid}] {line}", end="", file=sys.stderr, flush=True)


class Inbox:
    """The chunks of one reply that were not read yet; an EngineError among them is for the reader to raise."""

    def __init__(self, call: int, session: int, generation: int) -> None:
        self.call = call
        self.session = session
        self.generation = generation
        self._queue: asyncio.Queue[Chunk | EngineError] = asyncio.Queue()
        self.put = self._queue.put_nowait
        self.get = self._queue.get

    def fail(self, error: EngineError) -> None:
        self.put(ReplyEnd(self.generation, "failed", error=str(error)))


def _error(code: str, message: str) -> EngineError:
    return EngineLost(message) if code == "engine_lost" else EngineError(code, message)


def _last_words(code: int, line: str) -> str:
    if code >= 0:
        return f"ended with exit code {code}; the last it said: {line}"
    if -code == getattr(signal, "SIGKILL", None):
        return "was killed (by hand, or by the system because memory ran out)"
    return f"died of {signal.Signals(-code).name}"
