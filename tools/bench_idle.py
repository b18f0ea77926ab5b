"""What one connected, silent session costs a running server: CPU of its process and of the engine's worker, and the
microphone audio it holds back. Linux only: it reads /proc.

    python tools/bench_idle.py --server http://localhost:8080 --json docs/benchmarks/idle_local.json
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

import httpx

from omni_rt.client.report import Report, Row
from omni_rt.transport.caller import Caller

SETTLE_S = 5.0


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def share(pid: int, seconds: float) -> float:
    """Percent of one core that a process takes over the next `seconds`."""
    before, start = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - start)


async def measure(server: str, windows: int, window_s: float) -> list[Row]:
    async with httpx.AsyncClient(base_url=server) as http, Caller(server):
        ready = (await http.get("/readyz")).json()
        await asyncio.sleep(SETTLE_S)
        serving: list[float] = []
        working: list[float] = []
        held: list[float] = []
        for _ in range(windows):
            own, worker = await asyncio.gather(share(ready["pid"], window_s), share(ready["worker_pid"], window_s))
            serving.append(own)
            working.append(worker)
            lines = (await http.get("/metrics")).text.splitlines()
            held.append(float(next(line.split()[1] for line in lines if line.startswith("omni_input_buffered_ms "))))
    return [
        Row.of("idle_session_server_cpu", "% of a core", serving),
        Row.of("idle_session_worker_cpu", "% of a core", working),
        Row.of("input_buffering", "ms", held),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:8080", metavar="URL")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    parser.add_argument("--windows", type=int, default=10, help="measurements (10)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each (5)")
    arguments = parser.parse_args()
    report = Report(asyncio.run(measure(arguments.server, arguments.windows, arguments.seconds)))
    print(report.table())
    if arguments.json:
        report.write(arguments.json)


if __name__ == "__main__":
    main()
