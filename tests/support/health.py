"""What a running server, and its worker, hold on to."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.support.server import RunningServer


async def tasks(server: RunningServer) -> int:
    """How many tasks its event loop has."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{server.url}/metrics")).text
    return int(float(next(line for line in text.splitlines() if line.startswith("omni_tasks ")).split()[1]))


async def worker(server: RunningServer) -> int:
    """The process of the engine, which was never restarted."""
    async with httpx.AsyncClient() as http:
        state = (await http.get(f"{server.url}/readyz")).json()
    assert (state["status"], state["worker_restarts"]) == ("ready", 0)
    pid: int = state["worker_pid"]
    return pid


def resident(pid: int) -> int:
    """Bytes of main memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024
