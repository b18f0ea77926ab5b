"""How a running server takes turns: scripted conversations of recorded speech, beside the peers' policy.

    python -m tools.bench_duplex --json docs/benchmarks/duplex_local.json --pictures DIR
    python -m tools.bench_duplex --only wait,pause --quick

Starts `omni-rt serve` twice on loopback, once as it comes and once with the peers' policy (Silero, 500 ms of silence,
any speech interrupts), and holds each conversation with the one and then with the other. A third of the clips
(tools/duplex/clips.py says which) is played only with `--held-out`: it is for the final report, and nothing is tuned
on it. docs/benchmarks/README.md says what the rows are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from omni_rt.client.exits import run_client
from omni_rt.client.report import Report
from omni_rt.client.speech import UnreadableFile
from omni_rt.transport.caller import CallError
from tools.duplex.analysis import Analysis, analyse
from tools.duplex.clips import FOLDER, for_tuning, held_out, read_clips
from tools.duplex.gain import local_speech
from tools.duplex.heard_words import transcript
from tools.duplex.play import play
from tools.duplex.policies import OURS, PEERS, Policy
from tools.duplex.recording import Recording
from tools.duplex.rows import details, rows_of
from tools.duplex.scenes import GROUPS, Scene, scenes
from tools.duplex.serving import ServerFailed, serving
from tools.duplex.timeline import picture

FULL, QUICK = 4, 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=FOLDER, metavar="DIR", help="sounds, listed in its clips.json")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    parser.add_argument("--only", default=",".join(GROUPS), metavar="GROUP,...", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="a fourth of each; to see that it works")
    parser.add_argument("--size", type=int, default=FULL, help=f"how much of each; {FULL} is a full run")
    parser.add_argument(
        "--held-out", action="store_true", help="play the clips kept for the final report, and only them"
    )
    parser.add_argument("--url", default="", help="of a server that runs already, in place of our own")
    parser.add_argument("--policy-url", default="", help="of one that runs with the peers' policy")
    parser.add_argument("--no-policy", action="store_true", help="leave the peers' policy out")
    parser.add_argument("--times-only", action="store_true", help="leave out what the local engine's models tell")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="section.key=value", help="for both")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="a timeline of each conversation goes there")
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="both channels and all events go there")
    arguments = parser.parse_args()
    return run_client(_bench(arguments))


async def _bench(arguments: argparse.Namespace) -> int:
    groups = [group for group in arguments.only.split(",") if group]
    if unknown := [group for group in groups if group not in GROUPS]:
        raise UnreadableFile(f"there is no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    every = read_clips(arguments.clips)
    clips = held_out(every) if arguments.held_out else for_tuning(every)
    script = scenes(clips, groups, QUICK if arguments.quick else arguments.size)
    policies = [OURS] if arguments.no_policy else [OURS, PEERS]
    for folder in (arguments.pictures, arguments.recordings):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        recordings = await _record(arguments, script, policies)
    except ServerFailed as error:
        raise UnreadableFile(str(error)) from error
    took_s = time.monotonic() - began
    analyses = _analyse(arguments, recordings)
    told = details(analyses, every, clips)
    report = Report(rows_of(analyses), details={**told, "recorded_s": round(took_s), "held_out": arguments.held_out})
    print(report.table())
    if arguments.json is not None:
        report.write(arguments.json)
    return 0


async def _record(
    arguments: argparse.Namespace, script: Sequence[Scene], policies: Sequence[Policy]
) -> list[Recording]:
    """Each scene with each policy, one after the other, so that both meet the same load."""
    given = {OURS.name: arguments.url, PEERS.name: arguments.policy_url}
    recordings = []
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {}
        for policy in policies:
            started = serving(logs / policy.name, [*arguments.overrides, *policy.overrides])
            urls[policy.name] = given[policy.name].rstrip("/") or stack.enter_context(started)
        for number, scene in enumerate(script):
            for policy in policies:
                print(f"{number + 1}/{len(script)} {scene.name}, {policy.name}", file=sys.stderr, flush=True)
                try:
                    recording = await play(scene, urls[policy.name], policy)
                except CallError as error:
                    print(f"  no call: {error}", file=sys.stderr, flush=True)
                    continue
                if recording.fault:
                    print(f"  {recording.fault}", file=sys.stderr, flush=True)
                recordings.append(recording)
    return recordings


def _analyse(arguments: argparse.Namespace, recordings: Sequence[Recording]) -> list[Analysis]:
    speak, hear = (None, None) if arguments.times_only else (local_speech(), transcript)
    found = []
    for recording in recordings:
        analysis = analyse(recording, speak, hear)
        found.append(analysis)
        if arguments.pictures is not None:
            path = arguments.pictures / f"{recording.scene}-{recording.policy}.svg"
            path.write_text(picture(analysis), encoding="utf-8")
        if arguments.recordings is not None:
            recording.write(arguments.recordings)
    return found


if __name__ == "__main__":
    sys.exit(main())
