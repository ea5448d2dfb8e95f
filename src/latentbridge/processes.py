"""Work in processes of its own: runs beside each other, each with its share of the cores."""

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

_LOOK_S = 0.06
"""How long `idle_cores` looks, in seconds: six ticks of the kernel's clock."""


def start_process(
    work: Callable[..., None],
    *arguments: Any,
    threads: int | None = None,
    log: Path | None = None,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """A process that calls a function of a module with plain values; it ends with 0 where the call returns.

    `threads` bounds what its libraries start before anything is set in Python; `log` gets what it says, at the end of what
    is there. `keep` are descriptors of files that it shall have open, too.
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
    """Return how many cores this process may use, by its CPU affinity and its cgroup's quota.

    The threads of one core count once, where the system tells them apart; of a quota of 1.5 cores one is used.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    usable = os.sched_getaffinity(0)
    count = len(usable)
    if siblings.exists():
        count = len({Path(str(siblings).replace("cpu0", f"cpu{each}")).read_text() for each in usable})
    return max(1, int(min(count, cgroup_cpu_quota())))


def idle_cores() -> int:
    """Return how many of `cores()` other processes leave free just now, at least 1; takes 60 ms.

    A thread that waits for another at every operation is as slow as the slowest, so a model computes faster on the free cores
    alone. Where the system does not say how busy it is, all count as free.
    """
    began, before = time.perf_counter(), _idle_s()
    if not before:
        return cores()
    time.sleep(_LOOK_S)
    idle = sum(after - before[cpu] for cpu, after in _idle_s().items() if cpu in before)
    return max(1, min(cores(), round(idle / (time.perf_counter() - began))))


def cgroup_cpu_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return the least quota, in cores, of this process's cgroup and those above it; infinity where there is none.

    Reads version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`) of cgroups.
    """
    lines = membership.read_text().splitlines() if membership.exists() else []
    found = [float("inf")]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root / controllers if controllers else root
        if controllers and "cpu" not in controllers.split(","):
            continue
        inside = base / path.lstrip("/")
        for folder in [inside, *inside.parents]:
            with suppress(OSError, ValueError, ZeroDivisionError):
                if controllers:
                    period = int((folder / "cpu.cfs_period_us").read_text())
                    limit = int((folder / "cpu.cfs_quota_us").read_text())
                    found += [limit / period] if limit > 0 else []
                else:
                    limit, period = (folder / "cpu.max").read_text().split()
                    found += [int(limit) / int(period)] if limit != "max" else []
            if folder == base:
                break
    return min(found)


def _idle_s() -> dict[int, float]:
    """Return the seconds that each usable CPU has been idle since the start, as /proc/stat counts; empty elsewhere."""
    stat = Path("/proc/stat")
    if not stat.exists() or not hasattr(os, "sched_getaffinity"):
        return {}
    usable, tick = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    rows = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu") and line[3].isdigit()]
    return {int(row[0][3:]): (int(row[4]) + int(row[5])) / tick for row in rows if int(row[0][3:]) in usable}


@contextmanager
def folder_lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """What one process at a time does with a folder; another one waits, or is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"Another process is at work on {folder}; start again once it has ended.") from None
        yield
