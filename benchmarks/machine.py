"""The machine a run happens on: its cores, its load, its limits."""

import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import psutil

REST_WATCH_S = 0.5
REST_SHARE = 0.04  # of a core; two ticks of the kernel's clock in the time above


def cores() -> tuple[int, int]:
    """The core for servers and the core for the load generator; the same one if there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1] if len(allowed) == 1 else allowed[1]


def pin(core: int) -> None:
    """Keep this process, and what it starts from now on, on one core."""
    os.sched_setaffinity(0, {core})


def raise_file_limit() -> int:
    """Let this process and its children hold as many sockets as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cpu_s(pid: int) -> float:
    """User and system time of a process, its threads and its children, in seconds."""
    total = 0.0
    first = psutil.Process(pid)
    for process in [first, *first.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def come_to_rest(pid: int, *, longest_s: float) -> bool:
    """Wait until a process does next to nothing (indexing behind its log, closing sockets)."""
    until = time.monotonic() + longest_s
    while time.monotonic() < until:
        before = cpu_s(pid)
        time.sleep(REST_WATCH_S)
        if cpu_s(pid) - before <= REST_WATCH_S * REST_SHARE:
            return True
    return False


def memory_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    total = 0
    first = psutil.Process(pid)
    for process in [first, *first.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def foreign_load() -> list[float]:
    """The load averages of 1, 5 and 15 minutes; taken before a run, they are other people's."""
    return [round(value, 2) for value in os.getloadavg()]


def filesystem(folder: Path) -> str:
    """The type of the filesystem a folder lies on: on a tmpfs an fsync costs nothing."""
    places = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for place in (folder.resolve(), *folder.resolve().parents):
        if str(place) in places:
            return places[str(place)]
    return "unknown"


def describe(folder: Path) -> dict[str, Any]:
    """What a reader of the results must know about the machine; data lies in `folder`."""
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as facts:
            names = [line.split(":", 1)[1].strip() for line in facts if line.startswith("model na")]
        model = names[0] if names else model
    except OSError:
        pass  # not Linux: the architecture has to do
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "filesystem": filesystem(folder),
        "python": platform.python_version(),
    }
