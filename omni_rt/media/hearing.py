"""A session's ears: microphone audio in on the event loop, judgements back on it, the models in threads beside it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from omni_rt.core.timeline import SAMPLES_PER_MS, Activity, EarlyActivity, EndScore, Heard
from omni_rt.engine.api import Pcm
from omni_rt.media.echo import PACED_MS, QUEUED_MS, Echo
from omni_rt.media.end_of_turn import SPAN_MS, SmartTurn
from omni_rt.media.vad import PEEK, WINDOW, WINDOW_MS, SileroVad, VadState

logger = logging.getLogger(__name__)

Report = Callable[[Heard], None]

_BATCH = 16  # windows judged before another session has its turn, about 2 ms of work
_BACKLOG_MS = 300_000
_BACKLOG = _BACKLOG_MS // WINDOW_MS
# A microphone that gave nothing for so long does not run: no echo comes, and its clock stands still.
_DEAF_S = 0.5
_HISTORY = (SPAN_MS + 2000) // WINDOW_MS

# Before a window is full is looked while a reply is sent as it is played, until so long after.
_SOUNDING_S = 0.5


class Ears:
    """The models and their threads, shared by all sessions of a process: one for activity, one for ends of turn, so
    that no session's activity waits behind another's end of turn. With `echo` the assistant's own voice in the
    microphone is no activity."""

    def __init__(self, vad: SileroVad, smart_turn: SmartTurn, echo: bool = True) -> None:
        self.vad = vad
        self.smart_turn = smart_turn
        self.echo = echo
        self.activity_thread = ThreadPoolExecutor(1, "activity")
        self.score_thread = ThreadPoolExecutor(1, "end-of-turn")

    @classmethod
    def load(cls, vad_model: Path, smart_turn_model: Path, echo: bool = True) -> Ears:
        """Blocks for some 0.3 s; not for the event loop."""
        return cls(SileroVad(vad_model), SmartTurn(smart_turn_model), echo)

    def listen(self, report: Report) -> Hearing:
        """A new session's hearing; call it on the event loop, where `report`, which must not raise, will be called."""
        return Hearing(self, report)

    def close(self) -> None:
        """Stop the threads; every Hearing must be closed before."""
        self.activity_thread.shutdown(cancel_futures=True)
        self.score_thread.shutdown(cancel_futures=True)


class Hearing:
    """One session's hearing. All methods belong to the event loop and return at once.

    Every 32 ms window is reported as one Activity, in order, whatever happens. Audio may come faster than real time;
    once 300 s wait to be judged, the oldest waiting windows are reported unjudged, with the last known probability,
    and the log says so. While a reply is sent as it is played, and nothing of it is heard, an EarlyActivity of the
    latest 32 ms comes with each piece that is fed, unless windows wait.
    """

    def __init__(self, ears: Ears, report: Report) -> None:
        self._ears = ears
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._state = VadState()
        self._echo: Echo | None = None  # from the first sound that was sent
        self._told: list[Callable[[Echo], None]] = []
        self._fed_at = self._played_at = -math.inf
        self._hears_nothing_played = True
        self._rest: Pcm = np.zeros(0, np.int16)
        self._fed = 0
        self._history: deque[Pcm] = deque()
        self._waiting: deque[Pcm] = deque()
        self._judging = False
        self._unjudged = 0
        self._last = Activity(0, 0.0)
        self._scoring: asyncio.Future[float] = self._loop.create_future()
        self._closed = False

    def feed(self, pcm: Pcm) -> None:
        """Hear the next 16 kHz samples, any number of them; after `close` they are ignored.

        Raises TypeError when they are not integers of 16 bits.
        """
        if self._closed:
            return
        self._fed_at = self._loop.time()
        samples = np.concatenate([self._rest, pcm], dtype=np.int16, casting="safe")
        whole = len(samples) // WINDOW * WINDOW
        self._rest = samples[whole:]
        for window in samples[:whole].reshape(-1, WINDOW):
            self._fed += WINDOW
            self._history.append(window)
            self._waiting.append(window)
            if len(self._waiting) > _BACKLOG and self._judging:
                self._skip()
            elif len(self._waiting) >= _BATCH:
                self._judge_next()
        self._judge_next()
        self._judge_early()

    def played(self, pcm: Pcm, stream_ms: float, paced: bool) -> None:
        """24 kHz sound of a reply was sent just now; `stream_ms` is its start on the outgoing track. `paced`: it is
        sent as it is played, not queued by the client."""
        if paced:
            self._played_at = self._loop.time()
        now = self._fed + len(self._rest)
        if self._ears.echo and not self._closed and self._loop.time() - self._fed_at < _DEAF_S:
            self._echo = self._echo or Echo(PACED_MS if paced else QUEUED_MS)
            self._told.append(lambda echo: echo.played(pcm, stream_ms, now))

    def stopped(self) -> None:
        """The reply was stopped just now: of what was sent, the client plays no more than it is playing."""
        now = self._fed + len(self._rest)
        if self._echo is not None and not self._closed and self._loop.time() - self._fed_at < _DEAF_S:
            self._told.append(lambda echo: echo.stopped(now))

    def score_end(self, at_ms: int, from_ms: int = 0) -> None:
        """Ask whether the turn that began at `from_ms` is over, judged on its last 8 s up to `at_ms`.

        The EndScore follows, unless another is asked for before this one has its turn. Whole windows count, from 10 s
        before the last one reported.
        """
        first = self._fed - len(self._history) * WINDOW
        heard = np.concatenate([*self._history, np.zeros(0, np.int16)])
        turn = heard[max(0, from_ms * SAMPLES_PER_MS - first) : max(0, at_ms * SAMPLES_PER_MS - first)]

        def scored(done: asyncio.Future[float]) -> None:
            if not done.cancelled():
                self._tell(EndScore(at_ms, done.result()))

        self._scoring.cancel()
        self._scoring = self._loop.run_in_executor(self._ears.score_thread, self._ears.smart_turn.score, turn)
        self._scoring.add_done_callback(scored)

    def reset(self) -> None:
        """Forget what the detector adapted to (another microphone, a reconnect); the timeline runs on."""
        self._state = VadState()
        self._forget_echo()

    def close(self) -> None:
        """Report nothing more; safe to call twice."""
        self._closed = True
        self._waiting.clear()
        self._forget_echo()

    def _judge_next(self) -> None:
        if self._judging or not self._waiting:
            return
        self._judging = True
        at = self._fed - len(self._waiting) * WINDOW
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        step, state, echo = self._ears.vad.step, self._state, self._echo
        told, self._told = self._told, []

        def judge() -> tuple[list[tuple[float, float]], bool]:
            if echo is None:
                return [(step(state, window), root_mean_square(window)) for window in batch], True
            for tell in told:
                tell(echo)
            found: list[tuple[float, float]] = []
            for index, window in enumerate(batch):
                heard = echo.hear(window, at + index * WINDOW)
                found.append((step(state, heard.pcm) * (1 - heard.explained), root_mean_square(heard.pcm)))
            return found, echo.delay_ms is None and not heard.explained

        def judged(done: asyncio.Future[tuple[list[tuple[float, float]], bool]]) -> None:
            self._judging = False
            if done.cancelled() or self._closed:
                return
            if error := done.exception():
                logger.error("voice activity failed, %d windows go unjudged", len(batch), exc_info=error)
                self._unjudged += len(batch)
                self._state = VadState()
                self._forget_echo()
            found, self._hears_nothing_played = ([], True) if error else done.result()
            self._advance(found)
            self._judge_next()

        self._loop.run_in_executor(self._ears.activity_thread, judge).add_done_callback(judged)

    def _judge_early(self) -> None:
        """Judge the latest audio, if there is reason to, though it is no whole window."""
        sounding = self._loop.time() - self._played_at < _SOUNDING_S
        if not sounding or not self._hears_nothing_played or self._waiting or len(self._history) < 2:
            return
        latest = np.concatenate([self._history[-2], self._history[-1], self._rest])[-PEEK:]
        at_ms = (self._fed + len(self._rest)) // SAMPLES_PER_MS
        # in the thread the window before it, if that is being judged, comes first, and is told first

        def judged(done: asyncio.Future[float]) -> None:
            if done.cancelled() or self._closed:
                return
            if error := done.exception():
                logger.error("voice activity failed before its window was full", exc_info=error)
                return
            if self._hears_nothing_played:
                self._tell(EarlyActivity(at_ms, done.result(), root_mean_square(latest[-WINDOW:])))

        judging = self._loop.run_in_executor(self._ears.activity_thread, self._ears.vad.peek, self._state, latest)
        judging.add_done_callback(judged)

    def _forget_echo(self) -> None:
        self._echo = None
        self._told = []

    def _advance(self, judged: list[tuple[float, float]]) -> None:
        """The probability of speech and the level of the next windows."""
        found = [*judged, *[None] * self._unjudged]
        self._unjudged = 0
        for each in found:
            speech, level = each or (self._last.speech, None)
            self._last = Activity(self._last.at_ms + WINDOW_MS, speech, level)
            self._tell(self._last)
        while len(self._history) > _HISTORY + len(self._waiting):
            self._history.popleft()

    def _skip(self) -> None:
        # what is skipped directly follows the batch being judged, and is reported after it
        self._waiting.popleft()
        self._unjudged += 1
        if self._unjudged == 1:
            logger.warning("hearing is %d s behind and skips what waits longest", _BACKLOG_MS // 1000)

    def _tell(self, event: Heard) -> None:
        if not self._closed:
            self._report(event)


def root_mean_square(window: Pcm) -> float:
    """Its level out of 32768."""
    samples = window.astype(np.float32)
    return float(np.sqrt(samples @ samples / len(samples)))
