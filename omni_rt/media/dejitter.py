"""From packets as the network brings them to sound as it was spoken, without waiting when nothing is missing.

A recogniser has no loudspeaker to keep busy, so there is no playout delay: packets in order leave at once, only a hole
waits, and only for so long. Then the hole is filled from the next packet's error correction, or invented, or silence.
The sum of what comes out follows the sender's RTP clock.

Pure and synchronous. Times (`now`) are milliseconds of any steady clock; RTP timestamps count 48 kHz samples.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from omni_rt.engine.api import Pcm
from omni_rt.media.opus import CLOCK_RATE, OpusDecoder, OpusError, recovers

_PER_MS = CLOCK_RATE // 1000
_STEP = CLOCK_RATE // 400
"""Concealment comes in steps of 2.5 ms."""
_FRAME = 20 * _PER_MS

STALL_MS = 500
"""How long the microphone may be mute before its time is filled with silence; after a DTX packet `reorder_ms` do."""
LONGEST_SILENCE_MS = 2000
"""The most silence a jump of the RTP clock is filled with; a longer one is a new clock, not a pause."""
_RESTART = 500
"""A sequence number this far back is a sender that began anew, not a late packet."""
_OLD_SOURCE_MS = 1000


@dataclass(frozen=True, slots=True)
class Sound:
    """Mono int16 audio; `rtp` is the timestamp of its first sample, `concealed` marks what was made up."""

    pcm: Pcm
    rtp: int
    concealed: bool


@dataclass(frozen=True, slots=True)
class DejitterStats:
    """Counts of packets, but for: `concealed_ms` invented for lost or corrupt ones, `filled_ms` silence for pauses,
    `restarts` new sources or clocks, `buffered_ms` held behind a hole now, `buffered_max_ms` ever."""

    packets: int = 0
    lost: int = 0
    recovered: int = 0
    late: int = 0
    duplicate: int = 0
    reordered: int = 0
    corrupt: int = 0
    restarts: int = 0
    concealed_ms: int = 0
    filled_ms: int = 0
    buffered_ms: int = 0
    buffered_max_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Packet:
    rtp: int
    payload: bytes
    arrived: float


def nearest(value: int, reference: int, bits: int) -> int:
    """The number closest to `reference` that has `value` as its low `bits`."""
    half = 1 << (bits - 1)
    return reference + ((value - reference + half) & ((1 << bits) - 1)) - half


class Dejitter:
    """One incoming Opus stream, decoded to mono at `rate` (16, 24 or 48 kHz).

    A hole waits for `reorder_packets` following packets or `reorder_ms`, whichever is first. At most
    `conceal_limit_ms` on end are invented, the rest of a hole is silence.
    """

    def __init__(self, rate: int, *, reorder_packets: int, reorder_ms: int, conceal_limit_ms: int) -> None:
        self._decoder = OpusDecoder(rate)
        self._reorder_packets = reorder_packets
        self._reorder_ms = reorder_ms
        self._conceal_limit = conceal_limit_ms * _PER_MS
        self._counts: Counter[str] = Counter()
        self._buffered_max_ms = 0
        self._source: int | None = None
        self._old_source: tuple[int, float] | None = None
        self._next_seq: int | None = None
        self._newest_seq = 0
        self._next_rtp = 0
        self._frame = _FRAME
        self._invented = 0
        self._waiting: dict[int, _Packet] = {}
        self._given_up: deque[int] = deque(maxlen=256)
        self._quiet_since: float | None = None
        self._patience: float = STALL_MS
        self._out: list[Sound] = []

    @property
    def stats(self) -> DejitterStats:
        return DejitterStats(**self._counts, buffered_ms=self._buffered_ms, buffered_max_ms=self._buffered_max_ms)

    @property
    def _buffered_ms(self) -> int:
        return len(self._waiting) * self._frame // _PER_MS

    def push(self, source: int, seq: int, rtp: int, payload: bytes, now: float) -> list[Sound]:
        """Take one packet (SSRC, 16-bit sequence number, 32-bit timestamp); gives the sound it sets free."""
        self._counts["packets"] += 1
        if source != self._source and not self._switch(source, now):
            return self._take()
        if self._next_seq is None:
            self._next_seq = self._newest_seq = seq
            self._next_rtp = rtp
        at = nearest(seq, self._next_seq, 16)
        if at < self._next_seq - _RESTART:
            self._restart(at, nearest(rtp, self._next_rtp, 32))
        if at < self._next_seq or at in self._waiting:
            self._counts["late" if at in self._given_up else "duplicate"] += 1
            return self._take()
        if at < self._newest_seq:
            self._counts["reordered"] += 1
        self._newest_seq = max(self._newest_seq, at)
        self._waiting[at] = _Packet(nearest(rtp, self._next_rtp, 32), payload, now)
        self._quiet_since = now
        self._patience = self._reorder_ms if len(payload) <= 2 else STALL_MS
        self._drain(now)
        return self._take()

    def poll(self, now: float) -> list[Sound]:
        """Call every 20 ms or so: gives up holes that nothing follows, and fills the time of a mute microphone."""
        self._drain(now)
        if self._quiet_since is None:
            self._quiet_since = now
        if not self._waiting and now - self._quiet_since > self._patience:
            frames = int((now - self._quiet_since - self._patience) * _PER_MS) // _FRAME
            if frames:
                self._silence(frames * _FRAME, concealed=True)
                self._patience += frames * _FRAME / _PER_MS
        return self._take()

    def _switch(self, source: int, now: float) -> bool:
        """Go over to another source, unless it is a straggler of the one before."""
        if self._old_source is not None and source == self._old_source[0] and now < self._old_source[1]:
            self._counts["late"] += 1
            return False
        if self._source is not None:
            self._drain(now, give_up=True)
            self._old_source = (self._source, now + _OLD_SOURCE_MS)
            self._counts["restarts"] += 1
            self._decoder.reset()
        self._source = source
        self._next_seq = None
        return True

    def _restart(self, seq: int, rtp: int) -> None:
        self._drain(0.0, give_up=True)
        self._next_seq = self._newest_seq = seq
        self._next_rtp = rtp
        self._decoder.reset()
        self._counts["restarts"] += 1

    def _drain(self, now: float, give_up: bool = False) -> None:
        assert self._next_seq is not None or not self._waiting
        while self._waiting and self._next_seq is not None:
            packet = self._waiting.pop(self._next_seq, None)
            if packet is not None:
                self._play(packet, lost=0)
                self._next_seq += 1
                continue
            oldest = min(held.arrived for held in self._waiting.values())
            if not give_up and len(self._waiting) < self._reorder_packets and now - oldest < self._reorder_ms:
                break
            follows = min(self._waiting)
            self._counts["lost"] += follows - self._next_seq
            self._given_up.extend(range(max(self._next_seq, follows - 256), follows))
            self._play(self._waiting.pop(follows), lost=follows - self._next_seq)
            self._next_seq = follows + 1
        self._buffered_max_ms = max(self._buffered_max_ms, self._buffered_ms)

    def _play(self, packet: _Packet, lost: int) -> None:
        if not packet.payload:
            return
        gap = packet.rtp - self._next_rtp
        if gap > 0:
            self._bridge(packet.payload, gap, lost)
        self._next_rtp = packet.rtp
        try:
            pcm = self._decoder.decode(packet.payload)
        except OpusError:
            self._counts["corrupt"] += 1
            self._invent(self._frame)
            return
        self._frame = len(pcm) * CLOCK_RATE // self._decoder.rate
        self._invented = 0
        self._put(pcm, self._frame, concealed=False)

    def _bridge(self, payload: bytes, gap: int, lost: int) -> None:
        """Fill `gap` samples of RTP clock before `payload`, `lost` packets of which were sent and never came."""
        restored = recovers(payload) if lost else 0
        if restored > gap:
            restored = 0
        missing = min(gap - restored, lost * self._frame - restored)
        pause = gap - restored - max(0, missing)
        if missing > 0:
            self._invent(missing)
        if pause > 0:
            self._silence(min(pause, LONGEST_SILENCE_MS * _PER_MS), concealed=False)
            if pause > LONGEST_SILENCE_MS * _PER_MS:
                self._counts["restarts"] += 1
        if restored:
            try:
                pcm = self._decoder.recover(payload, self._samples(restored))
            except OpusError:
                self._invent(restored)
                return
            self._counts["recovered"] += 1
            self._put(pcm, restored, concealed=False)

    def _invent(self, length: int) -> None:
        """Conceal `length` 48 kHz samples; silence once the run has reached its limit."""
        left = length
        while left >= _STEP and self._invented < self._conceal_limit:
            part = min(left, self._frame, self._conceal_limit - self._invented) // _STEP * _STEP
            if not part:
                break
            self._put(self._decoder.conceal(self._samples(part)), part, concealed=True)
            self._invented += part
            left -= part
        self._counts["concealed_ms"] += (length - left) // _PER_MS
        self._silence(min(left, LONGEST_SILENCE_MS * _PER_MS), concealed=True)

    def _silence(self, length: int, concealed: bool) -> None:
        if length > 0:
            self._put(np.zeros(self._samples(length), np.int16), length, concealed)
            self._counts["filled_ms"] += length // _PER_MS

    def _put(self, pcm: Pcm, length: int, concealed: bool) -> None:
        self._out.append(Sound(pcm, self._next_rtp & 0xFFFFFFFF, concealed))
        self._next_rtp += length

    def _samples(self, length: int) -> int:
        return length * self._decoder.rate // CLOCK_RATE

    def _take(self) -> list[Sound]:
        out, self._out = self._out, []
        return out
