"""What is measured from outside a stack: CPU time, memory and mapped libraries of its processes;
and plain statistics.

Everything is read from /proc, so a stack needs no cooperation. A stack is named by its root
processes; all their descendants belong to it. CPU time of a tree counts `utime + stime` of the
living and `cutime + cstime` of children already reaped, so a PostgreSQL worker that comes and goes
inside an interval is counted once.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree. `rss` counts shared pages once per process, `pss` once in all."""

    rss_mb: float
    pss_mb: float


def process_tree(roots: Iterable[int]) -> list[int]:
    """The pids of `roots` that still exist and of all their descendants, each once."""
    seen: dict[int, None] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in seen or not (_PROC / str(pid)).exists():
            continue
        seen[pid] = None
        waiting.extend(_children(pid))
    return list(seen)


def cpu_s(roots: Iterable[int]) -> float:
    """CPU seconds (user + system) used so far by the process trees under `roots`."""
    ticks = 0
    for pid in process_tree(roots):
        try:
            stat = (_PROC / str(pid) / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The command name may hold spaces and parentheses; fields are counted from the last ')'.
        fields = stat[stat.rindex(")") + 2 :].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_S


def memory(roots: Iterable[int]) -> Memory:
    """Resident and proportional memory of the process trees under `roots`, now."""
    rss_kb = pss_kb = 0
    for pid in process_tree(roots):
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for line in lines:
            if line.startswith("Rss:"):
                rss_kb += int(line.split()[1])
            elif line.startswith("Pss:"):
                pss_kb += int(line.split()[1])
    return Memory(rss_mb=rss_kb / 1024, pss_mb=pss_kb / 1024)


def mapped_libraries(roots: Iterable[int], *words: str) -> list[str]:
    """File names mapped by any process under `roots` whose path holds one of `words`."""
    found: set[str] = set()
    for pid in process_tree(roots):
        try:
            maps = (_PROC / str(pid) / "maps").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for line in maps.splitlines():
            path = line.partition("/")[2]
            if any(word in path for word in words):
                found.add(path.rsplit("/", 1)[-1])
    return sorted(found)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of an ascending sequence; NaN when it is empty."""
    if not ordered:
        return float("nan")
    return float(ordered[round((len(ordered) - 1) * share)])


def median(values: Iterable[float]) -> float:
    """Median of the values, NaN left out; NaN when none is left."""
    ordered = sorted(value for value in values if value == value)
    if not ordered:
        return float("nan")
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def machine(directory: Path) -> dict[str, str | int]:
    """What a reader must know of this machine to judge the numbers."""
    return {
        "cpus": os.cpu_count() or 0,
        "load_average": f"{os.getloadavg()[0]:.2f}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(directory),
    }


def _children(pid: int) -> list[int]:
    """Direct children of every thread of `pid`."""
    children: list[int] = []
    try:
        for task in (_PROC / str(pid) / "task").iterdir():
            children.extend(int(child) for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return children


def _file_system(directory: Path) -> str:
    """Type of the file system that holds `directory`, by its longest mount point."""
    path = str(directory.resolve())
    best, kind = "", "unknown"
    for line in (_PROC / "mounts").read_text().splitlines():
        _, mount, type_name, *_ = line.split()
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, type_name
    return kind
