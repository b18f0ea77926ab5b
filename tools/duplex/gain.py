"""How loud a reply was made at each moment: its sound beside what the local engine's voice says of the same text.

The voice makes the same sound of the same words each time, so packet by packet the two can be compared. Of a voice that
is not ours nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omni_rt.engine.api import Pcm
from omni_rt.engine.local.clauses import ClauseCutter
from omni_rt.media.reply_queue import FRAME_MS
from tools.duplex.replies import HeardReply

Wave = npt.NDArray[np.float64]

# Below this, out of 32768, a packet of the voice says nothing of its gain.
_QUIET = 150.0
# So alike are two pieces of the same sound after Opus: many packets, and one of them.
_SAME, _SAME_PACKET = 0.8, 0.6
_BEFORE = 40
# Where within a packet it becomes softer is told by blocks of 5 ms.
_BLOCKS = 4
# A packet is ducked below this gain, and one in full voice is not below the other.
DUCKED, FULL = 0.6, 0.75
# Where the voice pauses for more than a packet it is not known when in the pause it happened.
_LONGEST_GAP_S = 0.05
_PACKET_S = FRAME_MS / 1000


@dataclass(frozen=True, slots=True)
class Gains:
    """Of packets of a reply, their arrival and their gain, and that of each of their `_BLOCKS` blocks; NaN where the
    voice is silent."""

    times: Wave
    gains: Wave
    blocks: Wave

    def ducked_after(self, at: float) -> float | None:
        """When the reply, in full voice at a moment, first became soft after it, for a player that plays at once; None
        if it did not, or if the voice paused where it would tell."""
        known = np.flatnonzero(~np.isnan(self.gains))
        times, gains = self.times[known], self.gains[known]
        before = gains[times <= at]
        soft = np.flatnonzero((times > at) & (gains < DUCKED))
        if not len(before) or before[-1] < FULL or not len(soft):
            return None
        first = int(soft[0])
        if times[first] - times[first - 1] > _LONGEST_GAP_S:
            return None
        return max(at, self._begins_soft(int(known[first])))

    def _begins_soft(self, packet: int) -> float:
        """From where on in a soft packet or the one before it all blocks that tell are soft."""
        near = self.blocks[max(0, packet - 1) : packet + 1].ravel()
        loud = np.flatnonzero(near >= DUCKED)
        begin = int(loud[-1]) + 1 if len(loud) else len(near) - _BLOCKS
        while begin < len(near) and np.isnan(near[begin]):
            begin += 1
        if begin == len(near):
            return float(self.times[packet])
        number, block = divmod(begin, _BLOCKS)
        return float(self.times[max(0, packet - 1) + number]) + block * _PACKET_S / _BLOCKS


def local_speech() -> Callable[[str], Pcm]:
    """The local engine's default voice, clause by clause as a reply is spoken."""
    from omni_rt.engine.local.tts import Voice  # machines that run another engine lack it

    voice = Voice("heart")

    def speak(text: str) -> Pcm:
        cutter = ClauseCutter()
        clauses = [*cutter.feed(text), *cutter.flush()]
        return np.concatenate([np.zeros(0, np.int16), *(voice.speak(clause).pcm for clause in clauses)])

    return speak


def gains(reply: HeardReply, around: float, until: float, speak: Callable[[str], Pcm]) -> Gains | None:
    """Of the packets from 0.8 s before a moment on. None if their sound is not what `speak` makes of the text."""
    packets = [sound for sound in reply.sounds if sound.at <= until]
    here = sum(sound.at <= around for sound in packets)
    packets = packets[max(0, here - _BEFORE) :]
    here = min(here, _BEFORE)
    if not here or len({len(packet.pcm) for packet in packets}) != 1:
        return None
    heard = np.array([packet.pcm for packet in packets], np.float64)
    known = np.concatenate([np.zeros(_BEFORE * heard.shape[1]), speak(reply.text).astype(np.float64)])
    place = find(heard[:here].ravel(), known)
    if place is None:
        return None
    whole = np.concatenate([known, np.zeros(heard.size)])[place : place + heard.size].reshape(heard.shape)
    level, loud = root_mean_square(whole), root_mean_square(heard)
    alike = np.sum(whole * heard, axis=1) > _SAME_PACKET * level * loud * heard.shape[1]
    gain = np.where((level > _QUIET) & alike, loud / np.maximum(level, 1e-9), np.nan)
    parts, sounding = (root_mean_square(each.reshape(heard.shape[0] * _BLOCKS, -1)) for each in (whole, heard))
    blocks = np.where(parts > _QUIET, sounding / np.maximum(parts, 1e-9), np.nan).reshape(-1, _BLOCKS)
    return Gains(np.array([packet.at for packet in packets]), gain, blocks)


def root_mean_square(frames: Wave) -> Wave:
    """Of each row."""
    mean: Wave = np.mean(frames**2, axis=1)
    return np.sqrt(mean)


def find(part: Wave, known: Wave, least: float = _SAME) -> int | None:
    """Where in what is known a part that was heard lies; None if it is nowhere as like it as `least`, of 1."""
    if len(known) < len(part) or float(np.max(np.abs(part), initial=0.0)) < _QUIET:
        return None
    size = 1 << (len(known) + len(part)).bit_length()
    products = np.fft.irfft(np.fft.rfft(known, size) * np.conj(np.fft.rfft(part, size)), size)
    products = products[: len(known) - len(part) + 1]
    energy = np.cumsum(np.concatenate([[0.0], known**2]))
    norms = np.sqrt(np.maximum(energy[len(part) :] - energy[: -len(part)], 1.0)) * float(np.linalg.norm(part))
    place = int(np.argmax(products / norms))
    return place if products[place] / norms[place] > least else None
