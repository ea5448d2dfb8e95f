"""Work in processes of its own: runs beside each other, each with its share of the cores."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentbridge.errors import UserError


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
    """Cores this process may use; the threads of one core count once, where the system tells them apart."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    usable = os.sched_getaffinity(0)
    if not siblings.exists():
        return len(usable)
    return len({Path(str(siblings).replace("cpu0", f"cpu{each}")).read_text() for each in usable})


@contextmanager
def held(folder: Path, wait: bool = True) -> Iterator[None]:
    """What one process at a time does with a folder; another one waits, or is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"Another process is at work on {folder}; start again once it has ended.") from None
        yield
