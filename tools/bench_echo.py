"""How often the assistant's own voice, leaking back into the microphone, is taken for speech, and how soon a person who
speaks over it is found.

    python -m tools.bench_echo --json docs/benchmarks/echo_local.json

The local engine's voice is played into a room (tools/echo/room.py) with Opus and lost packets both ways, noise, and an
echo that is so many dB below the voice as it was sent. Four ways to judge it in the same run: `plain` is Silero alone,
`gated` Silero times what Echo leaves unexplained, `suppressed` Silero on what Echo leaves of the sound, `echo` both, as
the server does. The person is recorded speech (`--clips`) at so many dB below -24 dB of full scale.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni_rt.client.report import Report, Row
from omni_rt.client.speech import load_vad, read_speech
from omni_rt.core.timeline import WINDOW_MS
from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.engine.local.tts import Voice
from omni_rt.media.echo import PACED_MS, QUEUED_MS, Echo
from omni_rt.media.vad import WINDOW, SileroVad, VadState
from tools.bench_heard import SENTENCES
from tools.echo.room import Room, Sound
from tools.echo.trial import Judged, Sent, judge, paced, queued, replies, turns

LEVELS = (-10, -20, -30)
DELAYS = (40, 120, 250, 400, 600)
QUEUED_DELAYS = (300, 1000, 1700, 3000)
PERSON = (0, -8, -15)
WAYS: dict[str, Callable[[Judged], Sound]] = {
    "plain": lambda judged: judged.plain,
    "gated": lambda judged: judged.gated,
    "suppressed": lambda judged: judged.suppressed,
    "echo": lambda judged: judged.speech,
}
PERSON_DB = -24


@dataclass(frozen=True, slots=True)
class Bench:
    vad: SileroVad
    sentences: Sequence[Pcm]
    clips: Sequence[Pcm]
    seconds: float

    def alone(self, room: Room, send: Callable[[Pcm], list[Sent]] = paced) -> Judged:
        """Echo and nobody there."""
        reply = replies(self.sentences, self.seconds, np.random.default_rng(room.seed))
        echo = Echo(QUEUED_MS if send is queued else PACED_MS)
        return judge(self.vad, room.microphone(reply, _nobody(self.seconds)), send(reply), echo)

    def both(self, room: Room, db: float) -> tuple[Judged, list[float], Sound]:
        """Somebody speaks over a reply without end: also, when each time in ms, and what Silero makes of that alone."""
        person, begins = self._person(db)
        reply = replies(self.sentences, len(person) / INPUT_RATE, np.random.default_rng(room.seed), pause_s=0.2)
        state = VadState()
        whole = person[: len(person) // WINDOW * WINDOW].reshape(-1, WINDOW)
        alone = np.array([self.vad.step(state, window) for window in whole])
        return judge(self.vad, room.microphone(reply, person), paced(reply)), begins, alone

    def _person(self, db: float) -> tuple[Pcm, list[float]]:
        pause = np.zeros(2 * INPUT_RATE, np.int16)
        out, begins = [pause], []
        for clip in self.clips:
            begins.append(sum(map(len, out)) * 1000 / INPUT_RATE)
            loud = np.sqrt(np.mean(clip.astype(np.float64) ** 2)) / 32768
            out += [(clip * (10 ** ((db + PERSON_DB) / 20) / loud)).clip(-32768, 32767).astype(np.int16), pause]
        return np.concatenate(out), begins


def _nobody(seconds: float) -> Pcm:
    return np.zeros(round(seconds * INPUT_RATE), np.int16)


def false_speech(name: str, judged: Iterable[Judged]) -> list[Row]:
    """For each way: ms of speech, utterances and stopped replies for a minute of echo."""
    judged = list(judged)
    rows = []
    for way, of in WAYS.items():
        speech = [of(each) for each in judged]
        minutes = sum(map(len, speech)) * WINDOW_MS / 60_000
        found = [turns(each) for each in speech]
        values = {
            "ms/min": sum(float((each >= 0.5).sum()) for each in speech) * WINDOW_MS,
            "ducks/min": sum(len(each.opened) for each in found),
            "stops/min": sum(len(each.interrupted) for each in found),
        }
        rows += [
            Row(f"{name}_{way}", unit, round(minutes), value=round(value / minutes, 3))
            for unit, value in values.items()
        ]
    return rows


def found(name: str, judged: Judged, begins: Sequence[float], alone: Sound) -> list[Row]:
    """For each way: how much later than in the person's speech alone it ducks and stops, and the share missed."""
    rows = []
    for way, of in WAYS.items():
        for what, least in (("duck", 3), ("stop", 7)):
            wanted = [_first(alone, begin, least) for begin in begins]
            got = [_first(of(judged), begin, least) for begin in begins]
            pairs = [(w, g) for w, g in zip(wanted, got, strict=True) if w is not None]
            late = [float(g - w) for w, g in pairs if g is not None]
            rows.append(Row.of(f"{name}_{way}_{what}_late", "ms", late))
            missed = len(pairs) - len(late)
            rows.append(Row(f"{name}_{way}_{what}_missed", "share", len(pairs), value=missed / len(pairs)))
    return rows


def _first(speech: Sound, begin_ms: float, windows: int) -> float | None:
    """When, within two seconds, so many windows of speech outweigh those of none."""
    first = int(begin_ms / WINDOW_MS)
    run = 0
    for index, probability in enumerate(speech[first : first + 62]):
        run = run + 1 if probability >= 0.5 else max(0, run - 1)
        if run == windows:
            return (first + index + 1) * WINDOW_MS - begin_ms
    return None


def measure(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    seconds: list[float] = []
    seed = 0
    for level in LEVELS:
        judged = []
        for delay in DELAYS:
            seed += 1
            noise, room_s = (-75.0, -65.0, -55.0)[seed % 3], (0.2, 0.35, 0.5)[seed // 3 % 3]
            room = Room([(0, delay)], [(0, level)], room_s, noise, loss=0.05 * (seed % 2), seed=seed)
            judged.append(bench.alone(room))
            name = f"echo_{-level}db_{delay}ms"
            rows += [row for row in false_speech(name, judged[-1:]) if row.name == f"{name}_echo"]
        seconds += [second for each in judged for second in each.seconds]
        rows += false_speech(f"echo_{-level}db", judged)
    louder = [(0, -6), (3000, -15), (6000, -25), (9000, -40)]
    begun = (bench.alone(Room([(0, 100 + 60 * n)], louder, loss=0.05, seed=100 + n)) for n in range(4))
    rows += false_speech("converging", begun)
    moved = [(0, 120), (10_000, 230), (20_000, 150), (30_000, 350), (40_000, 90), (50_000, 200)]
    jumping = (bench.alone(Room(moved, loss=0.05, drift_ppm=100, seed=110 + n)) for n in range(4))
    rows += false_speech("jumping", jumping)
    for delay in QUEUED_DELAYS:
        waiting = bench.alone(Room([(0, delay)], [(0, -10)], loss=None, seed=120), queued)
        rows += false_speech(f"websocket_10db_{delay}ms", [waiting])
    for level in (*LEVELS, -90):
        for db in PERSON:
            room = Room([(0, 200)], [(0, level)], loss=0.02, seed=130 - level)
            rows += found(f"person_{-db}db_echo_{-level}db", *bench.both(room, db))
    idle = judge(bench.vad, Room().microphone(np.zeros(0, np.int16), _nobody(10)), [], plain=False)
    milliseconds = {"window": seconds, "window_idle": list(idle.seconds)}
    return [*rows, *(Row.of(name, "ms", [1000 * value for value in of]) for name, of in milliseconds.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description="measure false speech by echo, and double talk")
    parser.add_argument("--clips", type=Path, default=Path("tests/data/speech"), help="recorded speech, *.wav")
    parser.add_argument("--seconds", type=float, default=60, help="of each echo")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    voice = Voice("heart")
    sentences = [voice.speak(sentence).pcm for sentence in SENTENCES]
    clips = [read_speech(path) for path in sorted(arguments.clips.glob("*.wav"))]
    report = Report(measure(Bench(load_vad(), sentences, clips, arguments.seconds)))
    print(report.table())
    if arguments.json:
        report.write(arguments.json)


if __name__ == "__main__":
    main()
