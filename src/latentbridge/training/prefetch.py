"""Prefetching of batches in a worker process."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from latentbridge.errors import UserError

_PREFETCH_FACTOR = 2
_PR_SET_PDEATHSIG = 1
"""An option of Linux' prctl."""


class Prefetcher:
    """An iterator over (step, batch) that measures how long the training loop waits.

    With `ahead` a worker process, forked before the first step, makes the batches, bitwise the same. On systems other than
    Linux, where forking is unsafe, the loop makes them.
    """

    def __init__(self, make: Callable[[int], object], steps: range, *, ahead: bool) -> None:
        self._make, self._steps = make, steps
        self._in_worker = ahead and sys.platform == "linux"
        self._start, self._wait_s = time.perf_counter(), 0.0

    def __iter__(self) -> Iterator[tuple[int, object]]:
        if self._in_worker:
            batches = map(pickle.loads, _data_loader(self._make, self._steps))
        else:
            batches = map(self._make, self._steps)
        self.wait_fraction()
        try:
            for step in self._steps:
                start = time.perf_counter()
                batch = next(batches)
                self._wait_s += time.perf_counter() - start
                if isinstance(batch, UserError):
                    raise batch
                yield step, batch
        finally:
            del batches  # an exception's traceback would keep the worker alive

    def wait_fraction(self) -> float:
        """Return the fraction of time spent waiting for batches since the last call."""
        now = time.perf_counter()
        fraction = self._wait_s / (now - self._start) if self._wait_s else 0.0
        self._start, self._wait_s = now, 0.0
        return round(fraction, 4)


def _data_loader(make: Callable[[int], object], steps: range) -> DataLoader[bytes]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # avoids the tokenizers' warning about forks
    return DataLoader(
        _PickledBatches(make),
        batch_size=None,
        sampler=steps,
        num_workers=1,
        prefetch_factor=_PREFETCH_FACTOR,
        multiprocessing_context="fork",
        worker_init_fn=partial(_exit_with_parent, os.getpid()),
        generator=torch.Generator(),  # else the loader draws from the global generator
    )


def _exit_with_parent(parent: int, worker: int) -> None:
    """Kill this worker when its parent dies; otherwise it would block forever on a full pipe."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has died already
        os._exit(1)


class _PickledBatches(Dataset[bytes]):
    """Pickled batches by step, or a pickled UserError, which the loader would wrap in a traceback.

    Tensors would be sent through shared memory, and the loop would block forever if that is full.
    """

    def __init__(self, make: Callable[[int], object]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> bytes:
        try:
            return pickle.dumps(self._make(step))
        except UserError as error:
            return pickle.dumps(error)
