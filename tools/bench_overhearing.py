"""What the local engine makes of clips over a reply, and what that takes.

    python -m tools.bench_overhearing --json docs/benchmarks/overhearing_local.json

The clips of `tools/duplex/clips.py` that are not held out, each with five noises of a quiet room, up to their end or
100 ms longer, and (`..._first_...`) as they are first asked for, after 384 ms; and pieces of a crowd.
`interruption_nothing`: the share of interruptions that are taken for noise; one is obeyed if it is `stop` or `words`,
what is `backchannel` or `nothing` keeps the reply. `alone_...`: by the recogniser alone, without `spotting.py`.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omni_rt.client.report import Report, Row
from omni_rt.config import cache_dir
from omni_rt.core.overheard import classify
from omni_rt.engine.api import INPUT_RATE, Pcm
from omni_rt.engine.local.asr import Recogniser
from omni_rt.models.manifest import ASR
from omni_rt.models.store import ModelStore
from omni_rt.session.overhearing import BEFORE_MS
from tools.duplex.clips import Clip, for_tuning, read_clips
from tools.duplex.microphone import in_room
from tools.duplex.sounds import crowd

_MS = INPUT_RATE // 1000
_NOISES = 5
_AFTER_MS, _FIRST_MS, _LONGEST_MS = (0, 100), 384, 1700
_KINDS = ("interruption", "backchannel", "cough", "typing")
_MEANINGS = ("stop", "words", "backchannel", "nothing")
_CROWDS, _CROWD_S = 20, 7.0
_CROWD_AT_MS, _CROWD_LENGTHS_MS = (500, 1000, 2000, 3500, 5000), (400, 650, 900)


def pieces() -> Iterator[tuple[str, Pcm]]:
    clips = for_tuning(read_clips())
    rng = np.random.default_rng(5)
    for clip in clips:
        if clip.kind in _KINDS:
            for part in _parts(clip):
                name = clip.kind if part is not None else f"{clip.kind}_first"
                for _ in range(_NOISES):
                    yield name, in_room(_cut(clip, part), rng)
    readers = [clip for clip in clips if clip.kind == "turn"]
    for seed in range(_CROWDS):
        pcm = crowd(readers, _CROWD_S, seed).pcm
        for at in _CROWD_AT_MS:
            for length in _CROWD_LENGTHS_MS:
                yield "crowd", in_room(pcm[at * _MS : (at + length) * _MS], rng)


def _parts(clip: Clip) -> list[int | None]:
    longer = clip.offset - clip.onset > _FIRST_MS * _MS and clip.kind != "typing"
    return [*_AFTER_MS, *([None] if longer else [])]


def _cut(clip: Clip, after_ms: int | None) -> Pcm:
    """From before the onset, as a session does; None: as it is asked for first."""
    end = clip.onset + _FIRST_MS * _MS if after_ms is None else clip.offset + after_ms * _MS
    return clip.pcm[max(0, clip.onset - BEFORE_MS * _MS) : end][: _LONGEST_MS * _MS]


def measure(recogniser: Recogniser) -> list[Row]:
    heard = list(pieces())
    rows: list[Row] = []
    for prefix, spotting in (("", True), ("alone_", False)):
        meanings, took = defaultdict[str, list[str]](list), defaultdict[str, list[float]](list)
        for name, pcm in heard:
            begun = time.perf_counter()
            meanings[name].append(classify(recogniser.overhear(pcm, spotting=spotting), "en"))
            took[name].append((time.perf_counter() - begun) * 1000)
        for name, found in meanings.items():
            for meaning in _MEANINGS:
                share = round(found.count(meaning) / len(found), 4)
                rows.append(Row(f"{prefix}{name}_{meaning}", "share", len(found), value=share))
        rows += [Row.of(f"{prefix}{name}_takes", "ms", times) for name, times in took.items()]
    return rows


def load_recogniser() -> Recogniser:
    """The local engine's, on one thread, from files that are there."""
    store = ModelStore(cache_dir())
    encoder, decoder, tokenizer = (store.path(name) for name in ASR)
    return Recogniser(encoder, decoder, tokenizer, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    arguments = parser.parse_args()
    report = Report(measure(load_recogniser()))
    print(report.table())
    if arguments.json:
        report.write(arguments.json)


if __name__ == "__main__":
    main()
