"""Worker processes, and the CPU cores available to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from latentbridge.errors import UserError
from latentbridge.import_path import import_path

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
    that the process inherits. Nothing is imported from the current folder (`python_command`).
    """
    call = f"from {work.__module__} import {work.__name__}; {work.__name__}(*{arguments!a})"
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = python_command(call, *_roots_of(work.__module__))
    if log is None:
        return subprocess.Popen(command, env=environment, pass_fds=keep)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, pass_fds=keep)


def python_command(code: str, *last: str) -> list[str]:
    """Return the command of a Python that runs `code` and imports from where this one does, but not the current folder.

    It ignores PYTHONPATH and the other PYTHON* variables (`python -I`), decodes file names as this process does, and prints
    what its output's encoding lacks as escapes. Folders in `last` come after all others, so their files take no library's
    place.
    """
    path = import_path()
    path += [folder for folder in last if folder not in path]
    utf8 = f"utf8={sys.flags.utf8_mode}"
    start = f"import sys; sys.path[:] = {path!a}; sys.stdout.reconfigure(errors='backslashreplace')"
    return [sys.executable, "-I", "-X", utf8, "-c", f"{start}; {code}"]


def _roots_of(module: str) -> list[str]:
    """Return the folder that a module's top package is imported from, in a list; a built-in one has none."""
    top: Any = sys.modules[module.partition(".")[0]]
    files = list(getattr(top, "__path__", ())) or [getattr(top, "__file__", None)]
    return [str(Path(file).resolve().parent) for file in files[:1] if file]


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

    Threads synchronise at every operation, so a model runs faster on the idle cores alone.
    """
    import psutil

    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    busy = psutil.cpu_percent(interval=_SAMPLE_S, percpu=True)
    idle = sum(1 - percent / 100 for cpu, percent in enumerate(busy) if usable is None or cpu in usable)
    return max(1, min(cores(), round(idle)))


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


@contextmanager
def folder_lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a folder; raises UserError if it is taken and `wait` is off, or without POSIX locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        raise UserError(
            "This command shares a folder between processes by POSIX locks, which this system lacks; use Linux or macOS, "
            "or WSL on Windows."
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"Another process uses {folder}; start again when it has finished.") from None
        yield
