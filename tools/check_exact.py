"""The streaming engine against Hugging Face's model with the same random weights, both in float32 on the CPU.

    python3 -m tools.check_exact --seed 7 --seeds 3 --json result.json

Every seed draws a model of its own, and clips, pictures, chunks and turns. Ends with an error if a line of the table
does not hold or a part fails. Needs torch, transformers, NumPy and Pillow; a seed takes about a minute on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from omni_rt.client.report import Report, describe_machine
from tools.exact import (
    after_speech,
    audio,
    code2wav,
    conversation,
    decoder,
    loading,
    mel,
    positions,
    sampling,
    sessions,
    talker,
    thinker,
    vision,
)
from tools.exact.lines import Line

Lines = Callable[[int], list[Line]]

# What must hold, and the parts that show it.
TABLE: dict[str, dict[str, Lines]] = {
    "streamed mel = whole-clip mel, any chunking of the samples": {"mel": mel.lines},
    "audio encoder, any clip length": {"audio": audio.lines},
    "vision, frame by frame = whole clip": {"vision": vision.lines},
    "thinker, streamed in random chunks = one-shot `generate`": {
        "positions": positions.lines,
        "decoder": decoder.lines,
        "thinker": thinker.lines,
    },
    "talker: 48 frames x 16 codes, greedy": {"talker": talker.lines},
    "Code2Wav, frame by frame = `forward` of the whole": {"code2wav": code2wav.lines},
    "sampling: the reference processors' distribution": {"sampling": sampling.lines},
    "five turns with rollback, barge-in and fork = a fresh prefill": {"conversation": conversation.lines},
    "two sessions interleaved = each alone": {"sessions": sessions.lines},
    "what is computed after the end of speech": {"after_speech": after_speech.lines},
    "checkpoint folders load": {"loading": loading.lines},
}


@dataclass(slots=True)
class Part:
    """One part over all seeds: its lines, each with the worst error seen, and what failed."""

    name: str
    lines: dict[str, Line] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, check: Lines, seed: int) -> None:
        begun = time.monotonic()
        try:
            for line in check(seed):
                self._add(line, seed)
        except Exception as error:
            traceback.print_exc()
            self.failures.append(f"seed {seed}: {type(error).__name__}: {error}")
        self.seconds += time.monotonic() - begun

    @property
    def holds(self) -> bool:
        return bool(self.lines) and not self.failures and all(line.holds for line in self.lines.values())

    def _add(self, line: Line, seed: int) -> None:
        """A line of several seeds is the one with the largest error, which may be no number, over all that was
        compared; it never holds if one of them does not."""
        if not line.holds:
            line = replace(line, note=f"seed {seed}; {line.note}")
        old = self.lines.get(line.what)
        if old is not None:
            worse = line if (old.holds, -old.error) > (line.holds, -line.error) else old
            line = replace(worse, n=old.n + line.n if worse.n else 0)
        self.lines[line.what] = line


def table(parts: dict[str, list[Part]]) -> str:
    """For people to read: what must hold, and under it what was compared."""
    out = []
    for what, group in parts.items():
        seconds = ", ".join(f"{part.name} {part.seconds:.0f} s" for part in group)
        out.append(f"{'ok  ' if all(part.holds for part in group) else 'FAIL'}  {what}  [{seconds}]")
        for part in group:
            out += [f"        {line}" for line in part.lines.values()]
            out += [f"        FAIL  {part.name}: {failure}" for failure in part.failures]
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the first seed (1)")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="how many seeds (1)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    names = [name for group in TABLE.values() for name in group]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    seeds = range(arguments.seed, arguments.seed + max(1, arguments.seeds))
    begun = time.monotonic()
    parts = {what: [Part(name) for name in group if name in arguments.only] for what, group in TABLE.items()}
    for seed in seeds:
        for what, group in parts.items():
            for part in group:
                print(f"[{time.monotonic() - begun:6.1f} s] seed {seed}: {part.name}", file=sys.stderr, flush=True)
                part.run(TABLE[what][part.name], seed)
    parts = {what: group for what, group in parts.items() if group}
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    report = Report(
        [], machine=f"{describe_machine()}, {versions}", details={"seeds": list(seeds), "table": _as_json(parts)}
    )
    print(f"{report.machine}; commit {report.commit}; {report.date}")
    print(f"seeds {seeds[0]} to {seeds[-1]}, {time.monotonic() - begun:.0f} s\n{table(parts)}")
    if arguments.json:
        report.write(arguments.json)
    wrong = [part.name for group in parts.values() for part in group if not part.holds]
    sys.exit(f"not as it must be: {', '.join(wrong)}" if wrong else 0)


def _as_json(parts: dict[str, list[Part]]) -> list[dict[str, Any]]:
    return [
        {
            "what": what,
            "holds": all(part.holds for part in group),
            "seconds": round(sum(part.seconds for part in group), 1),
            "lines": [
                {
                    "part": part.name,
                    "what": line.what,
                    "bound": line.bound,
                    # JSON knows no infinity
                    "error": line.error if abs(line.error) < float("inf") else str(line.error),
                    "n": line.n,
                    "holds": line.holds,
                    "note": line.note,
                }
                for part in group
                for line in part.lines.values()
            ],
            "failures": [f"{part.name}, {failure}" for part in group for failure in part.failures],
        }
        for what, group in parts.items()
    ]


if __name__ == "__main__":
    main()
