"""The only authority on what of a reply was sent and what was heard.

All positions of a reply are ms of its own audio. A transport says what it sent and where on its outgoing stream; a
client that can, says where on that stream its loudspeaker is. From that the delay between the two is known; before
the first such report it is taken to be `ASSUMED_DELAY_MS`. A delay measured a moment ago is an estimate: how much of a
stopped reply was heard is known when the client tells where on the stream it fell silent, and a `Trail` turns that
into a place of the reply.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# Half a round trip plus a browser's jitter buffer and output device, on a good network.
ASSUMED_DELAY_MS = 80.0
# No report makes the loudspeaker later than this: a player that stands still does not keep a reply from ending.
LONGEST_DELAY_MS = 2000.0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Audio that a loudspeaker without delay plays from `at_ms` on."""

    generation: int
    reply_ms: float
    stream_ms: float
    at_ms: float
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Trail:
    """Where on the outgoing stream a reply's audio lies, in the order it was sent."""

    pieces: tuple[_Piece, ...]

    def heard_ms(self, stream_ms: float) -> float | None:
        """How much of the reply lies before this place; None if all of it lies after it."""
        for piece in reversed(self.pieces):
            if piece.stream_ms <= stream_ms:
                return piece.reply_ms + min(piece.duration_ms, stream_ms - piece.stream_ms)
        return None


class Playout:
    """Follows one session's outgoing audio. `now_ms` arguments are ms of any steady clock, the same in all calls.

    Pieces that are sent faster than they play are heard one after the other, whoever queues them.
    """

    def __init__(self) -> None:
        self._pieces: deque[_Piece] = deque(maxlen=4096)
        self._queued: dict[int, float] = {}
        self._ended: set[int] = set()
        self._sent: dict[int, float] = {}
        self._newest: tuple[float, float] | None = None
        self._delay_ms = ASSUMED_DELAY_MS
        self._reported = False

    @property
    def reported(self) -> bool:
        """Whether the client says where its loudspeaker is."""
        return self._reported

    def queue(self, generation: int, duration_ms: float) -> None:
        """Audio of a reply was handed to the transport."""
        self._queued[generation] = self._queued.get(generation, 0.0) + duration_ms

    def end(self, generation: int) -> None:
        """No more audio of this reply will be queued."""
        self._ended.add(generation)

    def sent(self, generation: int, reply_ms: float, stream_ms: float, duration_ms: float, now_ms: float) -> None:
        """The transport sent a piece just now."""
        at_ms = now_ms
        if self._pieces:
            at_ms = max(at_ms, self._pieces[-1].at_ms + self._pieces[-1].duration_ms)
        self._pieces.append(_Piece(generation, reply_ms, stream_ms, at_ms, duration_ms))
        self._sent[generation] = max(self._sent.get(generation, 0.0), reply_ms + duration_ms)
        self._newest = stream_ms, at_ms

    def report(self, stream_ms: float, now_ms: float) -> None:
        """The client's loudspeaker is at this place of the stream."""
        self._reported = True
        if self._newest is not None:
            newest_ms, at_ms = self._newest
            self._delay_ms = min(LONGEST_DELAY_MS, now_ms - (at_ms + stream_ms - newest_ms))

    def sent_ms(self, generation: int) -> float:
        return self._sent.get(generation, 0.0)

    def heard_ms(self, generation: int, now_ms: float) -> float:
        """How much of the reply has come out of the loudspeaker by now, never more than was sent."""
        played_ms = now_ms - self._delay_ms
        for piece in reversed(self._pieces):
            if piece.generation == generation and piece.at_ms <= played_ms:
                return piece.reply_ms + min(piece.duration_ms, played_ms - piece.at_ms)
        return 0.0

    def trail(self, generation: int) -> Trail:
        return Trail(tuple(piece for piece in self._pieces if piece.generation == generation))

    def started(self, generation: int) -> bool:
        return generation in self._sent

    def finished_sending(self, generation: int) -> bool:
        """Everything of the reply has left; true at once for a reply without audio."""
        return generation in self._ended and self.sent_ms(generation) >= self._queued.get(generation, 0.0) - 0.5

    def finished(self, generation: int, now_ms: float) -> bool:
        """Everything of the reply was sent and, by estimate or report, heard."""
        if not self.finished_sending(generation):
            return False
        return self.heard_ms(generation, now_ms) >= self.sent_ms(generation) - 1.0

    def forget(self, generation: int) -> None:
        """The reply is over; keep no more of it."""
        for table in (self._queued, self._sent):
            table.pop(generation, None)
        self._ended.discard(generation)
        self._pieces = deque((p for p in self._pieces if p.generation != generation), maxlen=self._pieces.maxlen)
