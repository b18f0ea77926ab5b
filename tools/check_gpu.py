"""Real shapes on a GPU: our numbers against Hugging Face's with the same random weights, and what each step costs.

    python3 -m tools.check_gpu --json result.json     # 30B-A3B in bfloat16: 75 GB of GPU memory, minutes
    python3 -m tools.check_gpu --tiny                 # tiny shapes on the CPU, in float32

Needs torch, transformers, NumPy and Pillow. Ends with an error if a line of the table does not hold or a part fails.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import torch
import transformers

from omni_rt.client.report import Report, describe_commit, describe_machine
from tools.gpu import correct, costs, fast, spoken
from tools.gpu.lines import Compared, table
from tools.gpu.models import Pair, build, question
from tools.gpu.weights import HELP, Weights, settle


@dataclass(slots=True)
class Parts:
    """Runs one part after the other; one that fails is told and does not stop the others."""

    device: torch.device
    failed: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def __call__(self, name: str, part: Callable[[], Any]) -> Any:
        print(f"[{time.monotonic() - self.begun:6.1f} s] {name}", flush=True)
        try:
            with torch.inference_mode():
                return part()
        except Exception:
            self.failed.append(name)
            traceback.print_exc(file=sys.stdout)
            return None
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def check(parts: Parts, pair: Pair, *, tiny: bool) -> list[Compared]:
    """The table of errors."""
    grid, clip, frames = ((6, 8), 230, 3) if tiny else ((30, 40), 1030, 30)
    prompt = question(pair, frames=clip, grid=grid)
    found: list[Compared] = []

    def part(name: str, compare: Callable[[], Compared | list[Compared]]) -> None:
        lines = parts(name, compare)
        found.extend([lines] if isinstance(lines, Compared) else lines or [])

    part("audio encoder, 1 s", lambda: correct.audio(pair, 100))
    part("audio encoder, long", lambda: correct.audio(pair, clip))
    part("vision", lambda: correct.vision(pair, grid))
    part("Code2Wav", lambda: correct.code2wav(pair, frames))
    part("thinker", lambda: correct.thinker(pair, prompt))
    part("talker", lambda: spoken.talker(pair, prompt, 2 if tiny else 8))
    return found


def measure(parts: Parts, pair: Pair, *, tiny: bool, n: int) -> costs.Clock:
    """What the steps cost."""
    clock = costs.Clock(pair.device, n)
    context, grid = (100, (6, 8)) if tiny else (2048, (30, 40))
    prompt = question(pair, frames=200, grid=(4, 4))
    if pair.device.type == "cuda":
        parts("copying", lambda: costs.copying(clock))
        torch.cuda.reset_peak_memory_stats()
    parts("costs", lambda: costs.ours(pair, clock, context, grid))
    parts("memory", lambda: costs.memory(pair, clock))
    parts("Hugging Face's costs", lambda: costs.theirs(pair, clock, context, prompt, max(1, n // 2)))
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--layers", type=int, metavar="N", help="cut the thinker to so many layers")
    parser.add_argument(
        "--router-gain", type=float, default=1.0, metavar="X", help="routers X times as decided as random ones (1)"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="bfloat16, or float32 for --tiny")
    parser.add_argument("--n", type=int, default=20, help="measurements of each cost (20)")
    parser.add_argument(
        "--only",
        choices=("check", "measure", "fast"),
        help="only the errors, or only the costs, or only the fast machine with each backend",
    )
    parser.add_argument(
        "--weights", type=Weights.parse, default="bfloat16", help=f"of the fast machine: {HELP} (bfloat16)"
    )
    parser.add_argument("--commit", help="where the files are no checkout: the commit they are of")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.tiny else "cuda")
    dtype = getattr(torch, arguments.dtype or ("float32" if arguments.tiny else "bfloat16"))
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    parts = Parts(device)
    preset, gain = "tiny" if arguments.tiny else "30b-a3b", arguments.router_gain
    pair = parts("building", lambda: build(preset, device, dtype, layers=arguments.layers, router_gain=gain))
    if pair is None:
        sys.exit("the model could not be built")
    layers = pair.spec.text.layers
    lines = check(parts, pair, tiny=arguments.tiny) if arguments.only in (None, "check") else []
    clock = costs.Clock(device, arguments.n)
    if arguments.only in (None, "measure"):
        clock = measure(parts, pair, tiny=arguments.tiny, n=arguments.n)
    if arguments.only == "fast" or (arguments.only is None and device.type == "cuda"):
        omni = pair.ours
        del pair  # Hugging Face's model keeps what is quantised
        settle(omni, Weights.parse("bfloat16"))
        lines += parts("fast machine", lambda: fast.compare(omni, clock, eight_bit=arguments.weights.eight_bit)) or []
    print(f"[{time.monotonic() - parts.begun:6.1f} s] done\n\n{table(lines)}\n")
    report = Report(
        clock.rows,
        machine=machine_of(device),
        commit=arguments.commit or _commit(),
        details={
            "dtype": str(dtype).removeprefix("torch."),
            "thinker_layers": layers,
            "eight_bit": asdict(arguments.weights.eight_bit),
            "router_gain": gain,
            "errors": [asdict(line) | {"holds": line.holds} for line in lines],
            "host_waits": clock.waits,
            "failed": parts.failed,
        },
    )
    print(report.table())
    for name, places in clock.waits.items():
        if places:
            print(f"the host waits in {name}: {', '.join(places)}")
    if arguments.json:
        report.write(arguments.json)
    wrong = [*parts.failed, *(line.what for line in lines if not line.holds)]
    sys.exit(f"not as it must be: {'; '.join(wrong)}" if wrong else 0)


def machine_of(device: torch.device) -> str:
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if device.type != "cuda":
        return f"{describe_machine()}, {versions}"
    of = torch.cuda.get_device_properties(device)
    return f"{of.name}, {of.total_memory / 1e9:.0f} GB; {describe_machine()}, {versions}"


def _commit() -> str:
    try:
        return describe_commit()
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
