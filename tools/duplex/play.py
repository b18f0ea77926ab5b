"""Plays a scene to a server in real time and records both sides.

The script waits for the server where a person would: a question is said when it is quiet, an overlap so long after the
reply's first sound. What is said has its exact times all the same, as the microphone's samples are counted.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx

from omni_rt.transport.caller import Arrival, Caller, CallError
from tests.support.loss_proxy import LossProxy
from tools.duplex.echo import Echo
from tools.duplex.microphone import ScriptedMicrophone, time_of
from tools.duplex.policies import Policy
from tools.duplex.recording import FORGOT, HUSHED, Event, Recording, Said, audible
from tools.duplex.scenes import Exchange, Scene
from tools.duplex.serving import underruns
from tools.duplex.sounds import Sound

_LEAD_S = 1.2
_QUIET_S = 0.7
_LONGEST_REPLY_S = 45.0
# After this long without an answer a person would say something else.
PATIENCE_S = 10.0
# A reply sounds as long as its last sound is no older.
_SOUNDING_S = 0.2
_DRY_S = 3.0
# A reply that had to be asked for again is talked over so long after its first sound.
_AGAIN_AT_S = 1.5
# What follows a reply that was stopped is listened to so long.
_STOPPED_S = 2.0


async def play(scene: Scene, url: str, policy: Policy) -> Recording:
    """The whole conversation. What ends it early is told in the recording's `fault`. Raises CallError if no call can be
    made."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(LossProxy()) if scene.loss else None
        player = _Player(scene, url, policy, proxy)
        try:
            await player.caller.connect()
            reader = asyncio.create_task(player.read_events())
            try:
                await player.run()
            except CallError as error:
                player.recording.fault = str(error)
            finally:
                player.recording.underruns = await asyncio.to_thread(underruns, url)
                reader.cancel()
        finally:
            await player.caller.close()
        return player.finished()


class _Player:
    def __init__(self, scene: Scene, url: str, policy: Policy, proxy: LossProxy | None) -> None:
        self.recording = Recording(scene.name, scene.group, policy.name)
        self._scene = scene
        self._echo = Echo(scene.echo_db) if scene.echo_db is not None else None
        self._microphone = ScriptedMicrophone(self._echo)
        self._session = policy.session(scene.instructions, scene.tokens)
        self._url = url
        self._proxy = proxy
        self.caller = Caller(
            url,
            microphone=self._microphone,
            on_audio=self._hear,
            session=self._session,
            exchange=self._through_proxy if proxy else None,
        )
        self._placed: list[tuple[int, Sound, int, bool]] = []
        self._said: list[Said] = []
        self._skipped: list[Said] = []
        self._sounded_at = self._first_at = 0.0
        self._awaited_from: float | None = None
        self._first: str | None = None
        self._items: list[str] = []
        self._speaking = False
        self._making: set[str] = set()
        self._playing: set[str] = set()
        self._gone = False

    async def run(self) -> None:
        scene = self._scene
        await asyncio.sleep(_LEAD_S)
        if self._proxy is not None:
            self._proxy.up.loss = self._proxy.down.loss = scene.loss
        if scene.idle is not None:
            await self._until_sample(self._say(scene.idle, -1, over=False)[1])
            await self._quiet()
        for number, exchange in enumerate(scene.exchanges):
            if self._gone:
                self.recording.fault = "the call was cut"
                return
            await self._exchange(number, exchange)
        await asyncio.sleep(0.3)

    async def read_events(self) -> None:
        while (event := await self.caller.events.get()) is not None:
            self.recording.events.append(Event(time.perf_counter(), event))
            self._follow(event)
        self._gone = True

    def finished(self) -> Recording:
        """The recording on a clock of its own, that begins with the first microphone frame."""
        recording, microphone = self.recording, self._microphone
        times = microphone.times
        zero = times[0] - 0.02
        for start, sound, exchange, over in self._placed:
            spans = tuple(
                (time_of(times, start + begin) - zero, time_of(times, start + end) - zero) for begin, end in sound.spans
            )
            self._said.append(
                Said(sound.name, sound.kind, spans, exchange, over, sound.words, sound.made, sound.pause_s)
            )
        recording.said = sorted([*self._said, *self._skipped], key=lambda said: said.onset)
        recording.heard = [Arrival(a.at - zero, a.rtp, a.pcm, a.concealed) for a in recording.heard if a.at >= zero]
        recording.events = [Event(event.at - zero, event.body) for event in recording.events]
        recording.microphone = [(at - zero, pcm) for at, pcm in zip(times, microphone.frames, strict=True)]
        return recording

    # -- the script

    async def _exchange(self, number: int, exchange: Exchange) -> None:
        answered = await self._begin(number, exchange)
        for cue in exchange.cues:
            await self._until(self._first_at + cue.after_s)
            if answered and not await self._reply_goes_on():
                self._hush()
                answered = await self._begin(number, exchange)
                await self._until(self._first_at + _AGAIN_AT_S)
            if not answered or not await self._reply_goes_on():
                self._skip(cue.sound, number)
                continue
            _, end = self._say(cue.sound, number, over=True)
            await self._until_sample(end)
        if exchange.listen_s is not None:
            await self._quiet(exchange.listen_s)
            self._hush()
        elif self._first is not None and self._first not in self._playing:
            await self._quiet(_STOPPED_S)
            self._hush()
        await self._quiet(_LONGEST_REPLY_S)
        if not self._is_quiet():
            self._hush()
            await self._quiet(3.0)

    async def _begin(self, number: int, exchange: Exchange) -> bool:
        """Say or ask for what the reply is to; whether one sounds."""
        await self._quiet()
        self._awaited_from = None
        if exchange.turn is not None:
            _, end = self._say(exchange.turn, number, over=False)
            await self._until_sample(end)
        elif not self._gone:
            self._forget()
            content = [{"type": "input_text", "text": exchange.ask}]
            item = {"type": "message", "role": "user", "content": content}
            self.caller.send_event({"type": "conversation.item.create", "item": item})
            self.caller.send_event({"type": "response.create"})
        self._awaited_from, self._first_at, self._first = time.perf_counter(), 0.0, None
        deadline = time.perf_counter() + PATIENCE_S
        while not self._first_at and time.perf_counter() < deadline and not self._gone:
            await self._microphone.beat()
        return bool(self._first_at)

    def _forget(self) -> None:
        """Delete the conversation: the chat model takes a story that was cut off for the way to tell the next one."""
        for item in self._items:
            self.recording.events.append(Event(time.perf_counter(), {"type": FORGOT, "item_id": item}))
            self.caller.send_event({"type": "conversation.item.delete", "item_id": item})
        self._items.clear()

    def _say(self, sound: Sound, exchange: int, *, over: bool) -> tuple[int, int]:
        """The samples of its first and last sound."""
        start = self._microphone.place(sound)
        self._placed.append((start, sound, exchange, over))
        return start + sound.onset, start + sound.offset

    async def _until_sample(self, sample: int) -> None:
        while self._microphone.position < sample and not self._gone:
            await self._microphone.beat()

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))

    def _skip(self, sound: Sound, exchange: int) -> None:
        at = time.perf_counter() - self._microphone.times[0]
        self._skipped.append(Said(sound.name, sound.kind, ((at, at),), exchange, True, made=sound.made, skipped=True))

    async def _reply_goes_on(self) -> bool:
        """Whether a reply is being heard; one that has run dry may come back."""
        deadline = time.perf_counter() + _DRY_S
        while self._playing and time.perf_counter() < deadline and not self._gone:
            if time.perf_counter() - self._sounded_at < _SOUNDING_S:
                return True
            await self._microphone.beat()
        return False

    def _is_quiet(self) -> bool:
        silent = time.perf_counter() - self._sounded_at > _QUIET_S
        return silent and not (self._speaking or self._making or self._playing)

    async def _quiet(self, limit_s: float = PATIENCE_S) -> None:
        """Until nobody has spoken for a while and nobody is about to."""
        deadline = time.perf_counter() + limit_s
        quiet_since: float | None = None
        while time.perf_counter() < deadline and not self._gone:
            now = time.perf_counter()
            quiet_since = (quiet_since or now) if self._is_quiet() else None
            if quiet_since is not None and now - quiet_since > _QUIET_S / 2:
                return
            await self._microphone.beat()

    def _hush(self) -> None:
        """The client ends what is being said."""
        if not self._gone:
            self.recording.events.append(Event(time.perf_counter(), {"type": HUSHED}))
            if self._making:
                self.caller.send_event({"type": "response.cancel"})
            if self._playing:
                self.caller.send_event({"type": "output_audio_buffer.clear"})

    # -- what comes back

    def _hear(self, arrival: Arrival) -> None:
        self.recording.heard.append(arrival)
        if self._echo is not None:
            self._echo.hear(arrival.at, arrival.pcm)
        if not arrival.concealed and audible(arrival.pcm) is not None:
            self._sounded_at = arrival.at
            if self._awaited_from is not None and not self._first_at and self._playing:
                self._first_at, self._first = arrival.at, next(iter(self._playing))

    def _follow(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "input_audio_buffer.speech_started":
                self._speaking = True
            case "input_audio_buffer.speech_stopped" | "input_audio_buffer.committed":
                self._speaking = False
            case "conversation.item.added":
                self._items.append(event["item"]["id"])
            case "conversation.item.deleted":
                self._items = [item for item in self._items if item != event["item_id"]]
            case "response.created":
                self._making.add(event["response"]["id"])
            case "response.done":
                self._making.discard(event["response"]["id"])
            case "output_audio_buffer.started":
                self._playing.add(event["response_id"])
            case "output_audio_buffer.stopped" | "output_audio_buffer.cleared":
                self._playing.discard(event["response_id"])

    async def _through_proxy(self, offer: str) -> str:
        assert self._proxy is not None
        parts = {
            "sdp": (None, self._proxy.offer(offer), "application/sdp"),
            "session": (None, json.dumps(self._session), "application/json"),
        }
        try:
            async with httpx.AsyncClient(timeout=15.0) as http:
                reply = await http.post(f"{self._url}/v1/realtime/calls", files=parts)
                reply.raise_for_status()
        except httpx.HTTPError as error:
            raise CallError("unreachable", f"{self._url} does not answer ({error})") from error
        return self._proxy.answer(reply.text)
