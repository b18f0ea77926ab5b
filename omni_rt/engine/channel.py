"""The message channel between the server and an engine's worker: ordered, both ways, never blocking either event loop.

A message is a frozen dataclass; numpy arrays inside travel as their bytes. An array of 32 KiB and more is not copied
when it is posted: like everywhere behind the engine's seam, an array once handed over is not written to again.

Messages are pickled. Unpickling can run any code the sender names, which gives neither end a power it lacks: the pipe
is anonymous, made by the server for the one child that it starts from its own installation under its own user, and what
clients send is never unpickled, only carried as a value. Nothing else may be connected to a Channel.
"""

from __future__ import annotations

import io
import pickle
import queue
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from omni_rt.config import Settings
from omni_rt.engine.api import (
    Capabilities,
    Chunk,
    ContextItem,
    Ending,
    Pcm,
    RespondOptions,
    Rgb,
    Role,
    SessionSettings,
    Transcript,
)

# --- server to worker. `session` and `call` are numbers given by the server, unique within one worker.


@dataclass(frozen=True, slots=True)
class Host:
    """The first message: which engine to load. `factory` (`module:callable`, called with the settings) overrides
    `settings.engine.kind`; `path` is the module search path, `log_level` the least level to log."""

    settings: Settings
    factory: str
    path: tuple[str, ...]
    log_level: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The last message: close the engine and exit."""


@dataclass(frozen=True, slots=True)
class Ping:
    serial: int


@dataclass(frozen=True, slots=True)
class Open:
    call: int
    session: int
    session_id: str
    settings: SessionSettings


@dataclass(frozen=True, slots=True)
class Configure:
    session: int
    settings: SessionSettings


@dataclass(frozen=True, slots=True)
class AppendAudio:
    session: int
    pcm: Pcm


@dataclass(frozen=True, slots=True)
class AppendImage:
    session: int
    rgb: Rgb
    at_ms: int


@dataclass(frozen=True, slots=True)
class AppendText:
    session: int
    text: str
    role: Role
    item_id: str


@dataclass(frozen=True, slots=True)
class AppendToolResult:
    session: int
    call_id: str
    output: str
    item_id: str


@dataclass(frozen=True, slots=True)
class Commit:
    session: int
    item_id: str


@dataclass(frozen=True, slots=True)
class Discard:
    session: int


@dataclass(frozen=True, slots=True)
class SetMark:
    """`serial` is what the server calls the place; the worker remembers the engine's own mark by it."""

    session: int
    serial: int


@dataclass(frozen=True, slots=True)
class Rollback:
    session: int
    serial: int


@dataclass(frozen=True, slots=True)
class Respond:
    call: int
    session: int
    options: RespondOptions


@dataclass(frozen=True, slots=True)
class Cancel:
    session: int
    generation: int


@dataclass(frozen=True, slots=True)
class KeepHeard:
    call: int
    session: int
    generation: int
    audio_ms: int


@dataclass(frozen=True, slots=True)
class Overhear:
    call: int
    session: int
    pcm: Pcm


@dataclass(frozen=True, slots=True)
class Restore:
    session: int
    items: tuple[ContextItem, ...]


@dataclass(frozen=True, slots=True)
class CloseSession:
    session: int


SessionCommand = (
    Configure
    | AppendAudio
    | AppendImage
    | AppendText
    | AppendToolResult
    | Commit
    | Discard
    | SetMark
    | Rollback
    | Cancel
    | Restore
    | CloseSession
)
Command = Host | Shutdown | Ping | Open | Respond | KeepHeard | Overhear | SessionCommand

# --- worker to server


@dataclass(frozen=True, slots=True)
class Started:
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class StartFailed:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Pong:
    serial: int


@dataclass(frozen=True, slots=True)
class Opened:
    call: int


@dataclass(frozen=True, slots=True)
class Kept:
    call: int
    text: str


@dataclass(frozen=True, slots=True)
class Meaning:
    call: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyChunk:
    call: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class CallFailed:
    """An Open, KeepHeard, Overhear or Respond raised EngineError."""

    call: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CommandFailed:
    """A SessionCommand raised, or the engine told its listener of an error. Code `engine_lost`: the session is gone."""

    session: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Understood:
    session: int
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Judged:
    session: int
    ending: Ending


Event = (
    Started
    | StartFailed
    | Pong
    | Opened
    | Kept
    | Meaning
    | ReplyChunk
    | CallFailed
    | CommandFailed
    | Understood
    | Judged
)
Message = Command | Event


class ChannelStuck(Exception):
    """The other end has stopped reading and too much is queued for it."""


_HEAD = struct.Struct("<II")
_SIZE = struct.Struct("<Q")
_COPY_BELOW = 32 * 1024
_WRITE_AT_ONCE = 1024 * 1024


class Channel:
    """Two threads around the two ends of a pipe, given as raw (unbuffered) files that the channel owns from then on.

    `deliver` gets every message; `ended` comes once after the last with the reason in words, empty when the other end
    just closed. Both are called on the reading thread.
    """

    def __init__(
        self,
        incoming: io.RawIOBase,
        outgoing: io.RawIOBase,
        deliver: Callable[[Any], None],
        ended: Callable[[str], None],
        *,
        queued_bytes: int = 64 * 2**20,
        stalled_s: float = 2.0,
    ) -> None:
        self._incoming = io.BufferedReader(incoming, 64 * 1024)
        self._outgoing = outgoing
        self._deliver = deliver
        self._ended = ended
        self._queued_bytes = queued_bytes
        self._stalled_s = stalled_s
        self._outbox: queue.SimpleQueue[tuple[bytes | memoryview, ...]] = queue.SimpleQueue()
        self._posted = 0
        self._written = 0
        self._last_write = 0.0
        self._reader = threading.Thread(target=self._read, name="engine-channel-read", daemon=True)
        self._writer = threading.Thread(target=self._write, name="engine-channel-write", daemon=True)
        self._reader.start()
        self._writer.start()

    def post(self, message: Message) -> None:
        """Queue a message and return. Raises ChannelStuck when more than `queued_bytes` wait and none moved for
        `stalled_s`: a large burst alone (sessions restored together) is no fault."""
        queued = self._posted - self._written
        if queued <= 0:
            self._last_write = time.monotonic()
        elif queued > self._queued_bytes and time.monotonic() - self._last_write > self._stalled_s:
            raise ChannelStuck(f"{queued >> 20} MiB are queued and nothing was read for {self._stalled_s:g} s")
        frame = _pack(message)
        self._posted += sum(map(len, frame))
        self._outbox.put(frame)

    def finish(self, timeout_s: float) -> None:
        """Write what is queued, waiting at most `timeout_s` for it, and close the outgoing end."""
        self._outbox.put(())
        self._writer.join(timeout_s)

    def _write(self) -> None:
        with suppress(OSError), self._outgoing:  # an error means that the other end is gone: the reading thread tells
            while frame := self._outbox.get():
                for part in frame:
                    rest = memoryview(part)
                    while rest:
                        count = self._outgoing.write(rest[:_WRITE_AT_ONCE]) or 0
                        rest = rest[count:]
                        self._written += count
                        self._last_write = time.monotonic()

    def _read(self) -> None:
        reason = ""
        try:
            with self._incoming:
                while True:
                    self._deliver(_unpack(self._incoming))
        except (EOFError, OSError):
            pass
        except Exception as error:
            reason = f"unreadable message ({type(error).__name__}: {error})"
        self._outbox.put(())
        self._ended(reason)


def _pack(message: Message) -> tuple[bytes | memoryview, ...]:
    """One frame: count of buffers and length of the pickle, length of each buffer, pickle, buffers."""
    buffers: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _COPY_BELOW:
            return True
        buffers.append(raw)
        return False

    body = pickle.dumps(message, protocol=5, buffer_callback=keep_inside)
    sizes = b"".join(_SIZE.pack(buffer.nbytes) for buffer in buffers)
    return (_HEAD.pack(len(buffers), len(body)) + sizes + body, *buffers)


def _unpack(file: io.BufferedReader[io.RawIOBase]) -> Any:
    """The next message. Raises EOFError at the end of the stream, also inside a message."""
    count, length = _HEAD.unpack(_exactly(file, _HEAD.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_exactly(file, count * _SIZE.size))]
    body = _exactly(file, length)
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if file.readinto(buffer) < len(buffer):
            raise EOFError
    return pickle.loads(body, buffers=buffers)


def _exactly(file: io.BufferedReader[io.RawIOBase], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
