"""Worker processes, and the CPU cores available to them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from latentbridge.errors import UserError

_SAMPLE_S = 0.06
"""Time over which `idle_cores` measures, in seconds: six ticks of the kernel's clock."""


def start_process(
    work: Callable[..., None],
    *arguments: Any,
    threads: int | None = None,
    log: Path | None = None,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process that calls a module-level function with arguments given by their repr; exits with 0 on return.

    `threads` sets OMP_NUM_THREADS. `log` is a file to which stdout and stderr are appended. `keep` are file descriptors
    that the process inherits.
    """
    script = f"from {work.__module__} import {work.__name__}; {work.__name__}(*{arguments!r})"
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [sys.executable, "-c", script]
    if log is None:
        return subprocess.Popen(command, env=environment, pass_fds=keep)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, pass_fds=keep)


def cores() -> int:
    """Return the number of physical cores this process may use, by its CPU affinity and its cgroup's quota, rounded down."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    siblings = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in usable]
    count = len({path.read_text() for path in siblings}) if siblings[0].exists() else len(usable)
    return max(1, int(min(count, cgroup_cpu_quota())))


def idle_cores() -> int:
    """Return how many of `cores()` other processes leave idle right now, at least 1; takes 60 ms.

    Threads synchronise at every operation, so a model runs faster on the idle cores alone. Without /proc/stat all cores
    count as idle.
    """
    start, before = time.perf_counter(), _idle_seconds()
    if not before:
        return cores()
    time.sleep(_SAMPLE_S)
    idle = sum(after - before[cpu] for cpu, after in _idle_seconds().items() if cpu in before)
    return max(1, min(cores(), round(idle / (time.perf_counter() - start))))


def cgroup_cpu_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return the smallest CPU quota, in cores, of this process's cgroup and its ancestors; infinity if there is none.

    Reads cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`).
    """
    lines = membership.read_text().splitlines() if membership.exists() else []
    quotas = [float("inf")]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        folder = base / path.lstrip("/")
        for ancestor in [folder, *folder.parents]:
            with suppress(OSError, ValueError, ZeroDivisionError):
                if controllers:
                    period = int((ancestor / "cpu.cfs_period_us").read_text())
                    limit = int((ancestor / "cpu.cfs_quota_us").read_text())
                    quotas += [limit / period] if limit > 0 else []
                else:
                    limit, period = (ancestor / "cpu.max").read_text().split()
                    quotas += [int(limit) / int(period)] if limit != "max" else []
            if ancestor == base:
                break
    return min(quotas)


def _idle_seconds() -> dict[int, float]:
    """Return the idle seconds since boot of each usable CPU, from /proc/stat; empty on other systems."""
    stat = Path("/proc/stat")
    if not stat.exists() or not hasattr(os, "sched_getaffinity"):
        return {}
    usable, tick = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    rows = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu") and line[3].isdigit()]
    return {int(row[0][3:]): (int(row[4]) + int(row[5])) / tick for row in rows if int(row[0][3:]) in usable}


@contextmanager
def folder_lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a folder; raises UserError if it is taken and `wait` is off."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"Another process uses {folder}; start again when it has finished.") from None
        yield
