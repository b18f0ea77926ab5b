"""How much main memory there is."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int | None:
    """Bytes that a process may still take, None where the system does not say."""
    known = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            used = int((group / "memory.current").read_text(encoding="ascii"))
            known.append(int(limit) - used + int(statistics.get("file", 0)))
    except (OSError, ValueError):
        pass
    return min(known, default=None)
