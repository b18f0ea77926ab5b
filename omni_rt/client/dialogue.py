"""Saying something to a server and waiting for what comes back, with the times of it all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from omni_rt.client.speech import Utterance
from omni_rt.engine.api import OUTPUT_RATE, Rgb
from omni_rt.transport.caller import Arrival, Caller, CallError

# Decoded silence is below this, out of 32768; a voice is above it within its first milliseconds.
AUDIBLE = 100
# The server may have more to say, or hear more, for this long after all seemed over.
_SETTLE_S = 0.4
_LONGEST_ANSWER_S = 180.0
# One machine's clock gives notes this age at most; another machine's is off by more.
_SAME_CLOCK_MS = 2000.0


@dataclass(slots=True)
class Answer:
    """One response of the server. Times are seconds of `perf_counter`; those named `_at` are arrivals here.

    `moments` are the server's own, in its monotonic ms. `first_sound_at` counts up to the first audible sample in the
    packet. `status` is the protocol's, empty while it is being made.
    """

    id: str
    created_at: float
    text: str = ""
    status: str = ""
    first_text_at: float | None = None
    started_at: float | None = None
    first_sound_at: float | None = None
    stopped: bool = False
    moments: dict[str, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return bool(self.status) and (self.stopped or self.started_at is None)


@dataclass(slots=True)
class Exchange:
    """One utterance and all that followed. `speech_end` is when the last sound of speech left, `decided_at` when the
    last end of a turn was announced; `shared_clock` says that the server's times and ours are of one clock."""

    said_at: float
    speech_end: float = 0.0
    decided_at: float | None = None
    understood: dict[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    shared_clock: bool = True

    @property
    def understood_text(self) -> str:
        return " ".join(text for text in self.understood.values() if text)

    @property
    def answer(self) -> Answer | None:
        """The last response, to the whole of what was said."""
        return self.answers[-1] if self.answers else None

    @property
    def answered(self) -> bool:
        return any(answer.text or answer.first_sound_at is not None for answer in self.answers)

    @property
    def cut_in(self) -> bool:
        """The server spoke before the speech had ended."""
        return any(a.first_sound_at is not None and a.first_sound_at < self.speech_end for a in self.answers)

    def span_ms(self, moment: str) -> float | None:
        """From the end of speech to a moment of the last answer: by the server's clock where it is ours too, else by
        arrival. `first_audio_received` is ours."""
        answer = self.answer
        if answer is None:
            return None
        arrived = {
            "turn_end_decided": self.decided_at,
            "first_text": answer.first_text_at,
            "first_audio_sent": answer.started_at,
            "first_audio_received": answer.first_sound_at,
        }[moment]
        if self.shared_clock and moment in answer.moments:
            return answer.moments[moment] - _monotonic_ms(self.speech_end)
        return None if arrived is None else (arrived - self.speech_end) * 1000


class NoAnswer(Exception):
    """The server was spoken to and nothing came back; the message says how far it got."""

    def __init__(self, message: str, exchange: Exchange) -> None:
        super().__init__(message)
        self.exchange = exchange


class Dialogue:
    """A call in which utterances are said one after the other, in real time. Raises CallError when the call can't be
    made or is cut. `on_audio` gets all that arrives."""

    def __init__(
        self,
        server: str,
        *,
        camera: Iterator[Rgb] | None = None,
        camera_fps: float = 5.0,
        api_key: str = "",
        on_audio: Callable[[Arrival], None] = lambda _: None,
    ) -> None:
        self._on_audio = on_audio
        self.caller = Caller(server, camera=camera, camera_fps=camera_fps, api_key=api_key, on_audio=self._listen)
        self._exchange = Exchange(time.perf_counter())
        self._speaking = self._awaiting = False
        self._news = asyncio.Event()
        self._changed_at = 0.0
        self._cut = False
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.caller.connect()
        self._readers = [asyncio.create_task(self._read_events()), asyncio.create_task(self._read_notes())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers:
            reader.cancel()
        await self.caller.close()

    async def say(self, utterance: Utterance, wait_s: float) -> Exchange:
        """Play the utterance, wait until the answer to it has ended. Raises NoAnswer if after its speech nothing is
        heard for `wait_s`, and CallError."""
        exchange = self._exchange = Exchange(time.perf_counter())
        spoken = self.caller.speak(utterance.pcm[: utterance.speech_end])
        played = self.caller.speak(utterance.pcm[utterance.speech_end :])
        try:
            exchange.speech_end = await spoken
            await played
        except CallError as error:
            raise _cut_off(exchange) from error
        first = exchange.speech_end + wait_s
        while not self._over():
            now = time.perf_counter()
            heard = any(answer.first_sound_at or answer.over for answer in exchange.answers)
            if self._cut:
                raise _cut_off(exchange)
            if now > first and not heard:
                told = f"no answer within {wait_s:g} s: {self._progress()}{_reasons(exchange)}"
                raise NoAnswer(told, exchange)
            if now > first + _LONGEST_ANSWER_S:
                break
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _SETTLE_S / 2)
        if not exchange.answered:
            last = exchange.answers[-1].status
            raise NoAnswer(f"no answer: the server's response was {last} and empty{_reasons(exchange)}", exchange)
        return exchange

    def _over(self) -> bool:
        exchange = self._exchange
        settled = time.perf_counter() - max(self._changed_at, exchange.speech_end) > _SETTLE_S
        answered = bool(exchange.answers) and all(answer.over for answer in exchange.answers)
        return settled and answered and not self._speaking and not self._awaiting

    def _progress(self) -> str:
        exchange = self._exchange
        if exchange.answers:
            return "a response was begun, but no sound came"
        if self._speaking:
            return "the server still takes you to be speaking"
        if exchange.decided_at is not None:
            return f"the server heard a turn end ({exchange.understood_text or 'no words'}) and made no response"
        return "the server heard no speech"

    def _listen(self, arrival: Arrival) -> None:
        self._on_audio(arrival)
        answer = self._exchange.answer
        if answer is None or answer.first_sound_at is not None or arrival.concealed:
            return
        audible = np.flatnonzero(np.abs(arrival.pcm.astype(np.int32)) >= AUDIBLE)
        if len(audible):
            answer.first_sound_at = arrival.at + int(audible[0]) / OUTPUT_RATE
            self._news.set()

    async def _read_events(self) -> None:
        while (event := await self.caller.events.get()) is not None:
            self._changed_at = time.perf_counter()
            self._take(event, self._changed_at)
            self._news.set()
        self._cut = True
        self._news.set()

    async def _read_notes(self) -> None:
        while True:
            note = await self.caller.notes.get()
            age = _monotonic_ms(time.perf_counter()) - float(note["clock_ms"])
            if not -_SAME_CLOCK_MS < age < _SAME_CLOCK_MS:
                self._exchange.shared_clock = False
            if answer := self._find(note["response_id"]):
                answer.moments.update(note["moments"])

    def _take(self, event: dict[str, Any], at: float) -> None:
        exchange = self._exchange
        answer = self._find(event.get("response_id", ""))
        match event["type"]:
            case "input_audio_buffer.speech_started":
                self._speaking = True
                exchange.understood.setdefault(event["item_id"], "")
            case "input_audio_buffer.speech_stopped":
                self._speaking, self._awaiting = False, True
                exchange.decided_at = at
            case "conversation.item.input_audio_transcription.completed":
                exchange.understood[event["item_id"]] = event["transcript"]
            case "response.created":
                self._awaiting = False
                exchange.answers.append(Answer(event["response"]["id"], at))
            case "response.output_audio_transcript.delta" | "response.output_text.delta" if answer:
                answer.first_text_at = answer.first_text_at or at
                answer.text += event["delta"]
            case "output_audio_buffer.started" if answer:
                answer.started_at = answer.started_at or at
            case "output_audio_buffer.stopped" | "output_audio_buffer.cleared" if answer:
                answer.stopped = True
            case "response.done":
                if done := self._find(event["response"]["id"]):
                    done.status = event["response"]["status"]
            case "error":
                exchange.errors.append(event["error"]["message"])

    def _find(self, response_id: str) -> Answer | None:
        return next((answer for answer in self._exchange.answers if answer.id == response_id), None)


def _cut_off(exchange: Exchange) -> CallError:
    return CallError("closed", f"the server or the network ended the call{_reasons(exchange)}")


def _reasons(exchange: Exchange) -> str:
    return f" (the server says: {'; '.join(exchange.errors)})" if exchange.errors else ""


def _monotonic_ms(at: float) -> float:
    """A time of `perf_counter` on the clock that other processes of this machine share, in ms."""
    return (at + time.monotonic() - time.perf_counter()) * 1000
