"""How many people one GPU talks with: N talkers, each a loop of 4 s of speech, fed in real time, and a reply of 6 s,
heard in real time, begun at random moments; real shapes, random weights, on the engine without a server.

    python3 -m tools.bench_sessions --json docs/benchmarks/sessions_h200.json
    python3 -m tools.bench_sessions --tiny --plain --sessions 2 --seconds 12      # that it runs, on a CPU

`first_packet_N`: from the end of speech being committed to the first frame's samples in hand. `underruns_N`: how often
a listener, who hears a reply from its first packet on, has to wait, of so many replies. Random weights never end what
they say: a reply is ended after 75 frames, of 25 tokens. Transcripts are written as in a server.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from omni_rt.client.report import Report, Row
from omni_rt.engine.qwen3_omni import speech
from omni_rt.engine.qwen3_omni.model import load
from omni_rt.engine.qwen3_omni.parts import Parts
from tools.check_gpu import machine_of
from tools.gpu.engine import Answer, Talker, blocks, engine, noise, picture
from tools.gpu.weights import HELP, Weights

SPEECH_S = 4.0
REPLY_S = 6.0
TOKENS = 25
FRAMES = 75
BLOCK_S = 0.1


@dataclass
class Loop:
    """One person: speaks, asks, listens, again. `due` is when the next thing happens."""

    talker: Talker
    rng: np.random.Generator
    camera: bool
    due: float
    said: list[np.ndarray] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def step(self, now: float) -> None:
        if not self.said:
            self.said = list(blocks(noise(self.rng, SPEECH_S)))
        if self.camera and len(self.said) % 10 == 0:
            self.talker.show(picture(self.rng))
        self.talker.hear(self.said.pop(0))
        self.due += BLOCK_S
        if not self.said:
            self.answers.append(self.talker.ask(max_tokens=TOKENS))
            self.due = now + REPLY_S + float(self.rng.uniform(0.2, 0.6))


def run(parts: Parts, count: int, seconds: float, *, camera: bool) -> list[Row]:
    begun = time.perf_counter()
    rng = np.random.default_rng(count)
    spread = SPEECH_S + REPLY_S
    loops = [
        Loop(Talker(parts, number), np.random.default_rng(number), camera, begun + float(rng.uniform(0, spread)))
        for number in range(count)
    ]
    busy: list[float] = []
    end = begun + seconds
    while (now := time.perf_counter()) < end:
        for loop in loops:
            if loop.due <= now:
                loop.step(now)
        if torch.cuda.is_available() and len(busy) < (now - begun) * 4:
            busy.append(float(torch.cuda.utilization()))
        time.sleep(max(0.0, min(0.005, min(loop.due for loop in loops) - time.perf_counter())))
    for loop in loops:
        loop.talker.close()
    errors = [error for loop in loops for error in loop.talker.errors]
    # those asked in the last moments may not have had their time
    answers = [answer for loop in loops for answer in loop.answers if answer.asked_at < end - 1.0]
    first = [answer.first_ms for answer in answers if answer.first_ms is not None]
    late = sum(answer.underruns() for answer in answers)
    name = f"camera_{count}" if camera else f"{count}"
    reasons = Counter(answer.error or "no sound" for answer in answers if answer.first_ms is None)
    reasons += Counter(str(error) for error in errors)
    failed = reasons.total()
    p95 = np.percentile(first or [0], 95)
    print(f"  {name}: {len(first)} replies, p95 {p95:.1f} ms, {late} underruns, {failed} failed", flush=True)
    for reason, times in reasons.items():
        print(f"    {times} x {reason}", flush=True)
    return [
        Row.of(f"first_packet_{name}", "ms", first),
        Row(f"underruns_{name}", "replies' pauses", len(answers), value=late),
        Row(f"failed_{name}", "replies", len(answers), value=failed),
        Row(f"gpu_use_{name}", "%", len(busy), value=round(float(np.mean(busy)), 1) if busy else 0.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--context", type=int, default=4096, help="tokens of context for each")
    parser.add_argument("--camera", action="store_true", help="also with a picture a second")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--plain", action="store_true", help="the plain machine")
    parser.add_argument("--no-transcripts", action="store_true")
    parser.add_argument("--weights", type=Weights.parse, default="bfloat16", help=f"{HELP} (bfloat16)")
    parser.add_argument("--commit", help="where the files are no checkout: the commit they are of")
    arguments = parser.parse_args()
    sys.setswitchinterval(0.0005)  # as the engine's process does
    device = torch.device("cpu" if arguments.tiny else "cuda")
    dtype = torch.float32 if arguments.tiny else torch.bfloat16
    speech._FRAMES_AT_LEAST, speech._FRAMES_PER_TOKEN = 0, FRAMES // TOKENS
    most = max(arguments.sessions)
    with torch.inference_mode():
        source, eight_bit = "random:tiny" if arguments.tiny else "random:30b-a3b", arguments.weights.eight_bit
        omni = load(source, device=device, dtype=dtype, eight_bit=eight_bit)
        parts, start = engine(
            omni, tokens=(most + 1) * arguments.context, context=arguments.context, sessions=most,
            plain=arguments.plain, eight_bit=eight_bit, transcripts=not arguments.no_transcripts,
        )  # fmt: skip
    print(f"started in {start:.1f} s", flush=True)
    parts.scheduler.start()
    rows: list[Row] = []
    for camera in (False, True) if arguments.camera else (False,):
        for count in arguments.sessions:
            rows += run(parts, count, arguments.seconds, camera=camera)
    parts.scheduler.close()
    commit = arguments.commit or Report([]).commit
    rows = [replace(row, name=row.name + arguments.weights.suffix) for row in rows]
    report = Report(rows, machine=machine_of(device), commit=commit, details={"seconds": arguments.seconds})
    print(report.table())
    if arguments.json:
        report.write(arguments.json)


if __name__ == "__main__":
    main()
