"""Batches made ahead of the steps that take them, in a process beside the loop."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from latentbridge.errors import UserError

_BATCHES_AHEAD = 2
_PR_SET_PDEATHSIG = 1
"""Of Linux' prctl."""


class Prefetcher:
    """(step, batch) of some steps in order, the same bit for bit however they are made, and how long the loop waited for them.

    Ahead means in a process that is forked before the first of the steps, so what `make` uses is as it was then. Elsewhere
    than on Linux, where forking is not safe, batches are made when they are asked for.
    """

    def __init__(self, make: Callable[[int], object], steps: range, *, ahead: bool) -> None:
        self._make, self._steps = make, steps
        self._is_ahead = ahead and sys.platform == "linux"
        self._began, self._waited_s = time.perf_counter(), 0.0

    def __iter__(self) -> Iterator[tuple[int, object]]:
        made = map(pickle.loads, _ahead(self._make, self._steps)) if self._is_ahead else map(self._make, self._steps)
        self.wait_fraction()
        try:
            for step in self._steps:
                asked = time.perf_counter()
                batch = next(made)
                self._waited_s += time.perf_counter() - asked
                if isinstance(batch, UserError):
                    raise batch
                yield step, batch
        finally:
            del made  # an error would keep it, and the process ends at once only where nothing does

    def wait_fraction(self) -> float:
        """Share of the time since this was last asked that went by in waiting for batches."""
        now = time.perf_counter()
        share = self._waited_s / (now - self._began) if self._waited_s else 0.0
        self._began, self._waited_s = now, 0.0
        return round(share, 4)


def _ahead(make: Callable[[int], object], steps: range) -> DataLoader[bytes]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers would warn of the fork; texts come one by one
    return DataLoader(
        _Made(make),
        batch_size=None,
        sampler=steps,
        collate_fn=_as_it_is,
        num_workers=1,
        prefetch_factor=_BATCHES_AHEAD,
        multiprocessing_context="fork",
        worker_init_fn=partial(_die_with, os.getpid()),
        generator=torch.Generator(),  # else it would draw from the global one
    )


def _die_with(parent: int, worker: int) -> None:
    """End at once where the loop's process is killed: a worker that waits for room in a pipe would wait for ever, and keep its memory."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


class _Made(Dataset[bytes]):
    """Pickled batches by their step, or what is wrong with them: a loader would wrap an error of its process in a traceback.

    Bytes, for tensors would travel as files in shared memory, and where those find no room the loop would wait for ever.
    """

    def __init__(self, make: Callable[[int], object]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> bytes:
        try:
            return pickle.dumps(self._make(step))
        except UserError as error:
            return pickle.dumps(error)


def _as_it_is(batch: Any) -> Any:
    return batch
