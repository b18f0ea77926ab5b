"""How often people who talk behind the speaker stop a reply or are answered, and how soon a person near the microphone
stops it, and whether one is answered.

    python -m tools.bench_crowd --json docs/benchmarks/crowd_local.json

Voice activity, the core and the local recogniser as a session has them, faster than real time, over a reply without
end; words come 96 ms after they were asked for. `words_...`: by the words; `length_...`: by the length of the speech,
as with an engine that cannot tell words; `..._any_...`: the same without the rule that some of the speech must be
beyond doubt (`OverlapPolicy.clear_ms`). `turns_...`: while no reply is heard, with smart-turn's score 64 ms after it
was asked for and no words; each crowd goes on until the end, so that what ends a turn is a moment in which it is
softer. No held-out clip is among them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from omni_rt.client.report import Report, Row
from omni_rt.config import Settings, cache_dir
from omni_rt.core.actions import Duck, Hold, Overhear, StopReply, Unduck
from omni_rt.core.duplex import Duplex, DuplexPolicy
from omni_rt.core.overheard import Meaning, classify
from omni_rt.core.timeline import WINDOW_MS, Activity, EndScore
from omni_rt.core.turns import ScoreWanted, SpeechStarted, TurnDetector, TurnEnded, TurnPolicy
from omni_rt.engine.api import INPUT_RATE, Capabilities, Pcm
from omni_rt.media.end_of_turn import SmartTurn
from omni_rt.media.hearing import root_mean_square
from omni_rt.media.vad import WINDOW, SileroVad, VadState
from omni_rt.models.manifest import HEARING
from omni_rt.models.store import ModelStore
from omni_rt.realtime.settings import WireSession
from omni_rt.session.overhearing import BEFORE_MS
from omni_rt.session.policy import duplex_policy
from tools.bench_overhearing import load_recogniser
from tools.duplex.clips import Clip, for_tuning, read_clips
from tools.duplex.microphone import in_room
from tools.duplex.sounds import crowd

TOLD_MS, SCORED_MS = 96, 64
CROWDS, CROWD_S = 40, 7.0
PERSON_DB = (0, -12)
TURN_DB = (0, -12, -20)
ROOMS = 3
_MS = INPUT_RATE // 1000
_LEAD_MS, _TAIL_MS = 500, 2000

Words = Callable[[Pcm], Meaning]


@dataclass(frozen=True, slots=True)
class Over:
    """Where the reply was stopped, after which there is another, and how long it was held; ms."""

    stops: Sequence[int]
    held_ms: int


def policies() -> dict[str, DuplexPolicy]:
    turn = Settings().turn
    found = {}
    for name, overhears in (("words", True), ("length", False)):
        capabilities = Capabilities("bench", (), (), False, False, 1, 1, overhears=overhears)
        policy = duplex_policy(WireSession(), turn, capabilities)
        found[name] = policy
        found[f"{name}_any"] = replace(policy, overlap=replace(policy.overlap, clear_ms=0))
    return found


def play(pcm: Pcm, policy: DuplexPolicy, vad: SileroVad, words: Words) -> Over:
    """`pcm` over a reply without end."""
    state, duplex = VadState(), _speaking(policy)
    stops, held_ms, held = list[int](), 0, False
    told: list[tuple[int, int, Meaning]] = []
    for start in range(0, len(pcm) - WINDOW + 1, WINDOW):
        now_ms = (start + WINDOW) // _MS
        actions = duplex.activity(Activity(now_ms, vad.step(state, pcm[start : start + WINDOW])))
        while told and told[0][0] <= now_ms:
            _, at_ms, meaning = told.pop(0)
            actions += duplex.overheard(at_ms, meaning)
        for action in actions:
            match action:
                case Overhear(from_ms, to_ms):
                    clip = pcm[max(0, from_ms - BEFORE_MS) * _MS : to_ms * _MS]
                    told.append((now_ms + TOLD_MS, to_ms, words(clip)))
                case Hold() | Duck() | Unduck():
                    held = isinstance(action, Hold)
                case StopReply():
                    stops.append(now_ms)
                    duplex, held = _speaking(policy), False
                    told.clear()
        held_ms += WINDOW_MS * held
    return Over(stops, held_ms)


def turns(pcm: Pcm, policy: TurnPolicy, vad: SileroVad, smart_turn: SmartTurn) -> list[bool]:
    """Of each turn that `pcm` takes while no reply is heard, whether it is answered."""
    state, detector = VadState(), TurnDetector(policy)
    near, began_ms = list[bool](), 0
    scored: list[tuple[int, EndScore]] = []
    for start in range(0, len(pcm) - WINDOW + 1, WINDOW):
        window, now_ms = pcm[start : start + WINDOW], (start + WINDOW) // _MS
        signals = detector.step(Activity(now_ms, vad.step(state, window), root_mean_square(window)))
        while scored and scored[0][0] <= now_ms:
            signals += detector.judge(scored.pop(0)[1])
        for signal in signals:
            match signal:
                case SpeechStarted(at_ms):
                    began_ms = max(0, at_ms - policy.pre_roll_ms)
                case ScoreWanted(at_ms):
                    score = smart_turn.score(pcm[began_ms * _MS : at_ms * _MS])
                    scored.append((now_ms + SCORED_MS, EndScore(at_ms, score)))
                case TurnEnded():
                    near.append(signal.near)
    return near


def _speaking(policy: DuplexPolicy) -> Duplex:
    duplex = Duplex(policy)
    duplex.create_reply()
    duplex.reply_sent(duplex.generation)
    return duplex


def crowds(clips: Sequence[Clip]) -> list[Pcm]:
    readers = [clip for clip in clips if clip.kind == "turn"]
    return [in_room(crowd(readers, CROWD_S, seed).pcm, np.random.default_rng(1000 + seed)) for seed in range(CROWDS)]


def people(clips: Sequence[Clip], db: float) -> Iterator[tuple[Pcm, float]]:
    """Each of them alone in several rooms, and its onset in ms."""
    for clip in clips:
        if clip.kind in ("interruption", "answer", "turn"):
            for seed in range(ROOMS):
                lead = _LEAD_MS * _MS + seed * WINDOW // ROOMS
                pcm = np.concatenate(
                    [_silence(lead), (clip.pcm * 10 ** (db / 20)).astype(np.int16), _silence(_TAIL_MS * _MS)]
                )
                yield in_room(pcm, np.random.default_rng(seed)), (lead + clip.onset) / _MS


def _silence(samples: int) -> Pcm:
    return np.zeros(samples, np.int16)


def measure_turns(clips: Sequence[Clip], vad: SileroVad, smart_turn: SmartTurn) -> list[Row]:
    policy = policies()["words"].turns
    assert policy is not None
    behind = crowds(clips)
    taken = [near for pcm in behind for near in turns(pcm, policy, vad, smart_turn)]
    minutes = len(behind) * CROWD_S / 60
    rows = [
        Row("turns_crowd_taken", "1/min", len(behind), value=round(len(taken) / minutes, 2)),
        Row("turns_crowd_answered", "1/min", len(behind), value=round(sum(taken) / minutes, 2)),
    ]
    for db in TURN_DB:
        found = [turns(pcm, policy, vad, smart_turn) for pcm, _ in people(clips, db)]
        for name, happened in (
            ("missed", [not near for near in found]),
            ("unanswered", [bool(near) and not any(near) for near in found]),
        ):
            share = round(sum(happened) / len(happened), 4)
            rows.append(Row(f"turns_person_{-db}db_{name}", "share", len(happened), value=share))
    return rows


def measure(clips: Sequence[Clip], vad: SileroVad, words: Words) -> list[Row]:
    behind, near = crowds(clips), {db: list(people(clips, db)) for db in PERSON_DB}
    minutes = len(behind) * CROWD_S / 60
    rows: list[Row] = []
    for name, policy in policies().items():
        over = [play(pcm, policy, vad, words) for pcm in behind]
        stops = sum(len(each.stops) for each in over)
        rows.append(Row(f"{name}_crowd_stops", "1/min", len(over), value=round(stops / minutes, 2)))
        held_s = sum(each.held_ms for each in over) / 1000
        rows.append(Row(f"{name}_crowd_held", "share", len(over), value=round(held_s / (60 * minutes), 4)))
        for db, heard in near.items():
            found = [(play(pcm, policy, vad, words).stops, onset) for pcm, onset in heard]
            after = [stops[0] - onset for stops, onset in found if stops]
            rows.append(Row.of(f"{name}_person_{-db}db_stop", "ms", after))
            kept = round(1 - len(after) / len(found), 4)
            rows.append(Row(f"{name}_person_{-db}db_kept", "share", len(found), value=kept))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    arguments = parser.parse_args()
    store = ModelStore(cache_dir())
    vad, smart_turn = SileroVad(store.path(HEARING[0])), SmartTurn(store.path(HEARING[1]))
    clips, recogniser = for_tuning(read_clips()), load_recogniser()
    over = measure(clips, vad, lambda pcm: classify(recogniser.overhear(pcm), "en"))
    report = Report([*over, *measure_turns(clips, vad, smart_turn)])
    print(report.table())
    if arguments.json:
        report.write(arguments.json)


if __name__ == "__main__":
    main()
