"""Which of the processes that train together this one is, and what of a batch is its part.

`torchrun` starts the processes, here called ranks (`training/parallel.py`). All know the same global batch and each takes
its rows of it and of its noise, so a run sees the same data and chance on any number of ranks; each returns a loss whose
mean over ranks is the loss of the whole batch. In a process that was started alone everything here hands back what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Generator, Tensor

RowsT = TypeVar("RowsT", list, Tensor, np.ndarray)


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rows(rows: RowsT) -> RowsT:
    """This rank's rows of the global batch: every world-th, beginning with its own number."""
    return rows[rank() :: world_size()]


def per_rank_random(draw: Callable[..., Tensor], shape: Sequence[int], rng: Generator, dim: int = 0) -> Tensor:
    """Random numbers of this `shape` for this rank's rows, which lie along `dim`: drawn for the rows of all, then cut like them.

    They lie on the CPU, as `rng` does, whatever device they go to. `draw` is `torch.rand`, or another that takes a shape and a
    generator. Ranks must ask in the same order, with as many rows each, so that their generators stay in step.
    """
    of_all = [size * world_size() if axis == dim else size for axis, size in enumerate(shape)]
    return local_rows(draw(of_all, generator=rng).movedim(dim, 0)).movedim(0, dim)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum over ranks, without gradient."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """A loss that is the mean of something over the valid places of all ranks, of which each has another number.

    `total` is the sum over this rank's places and `count` their number or weight, 1 or more where there are any. The mean
    over ranks of what is returned is the sum of all totals over the sum of all counts, and 0 where nothing counts.
    """
    return total * world_size() / all_reduce_sum(count).clamp(min=1)


def global_mean_weight(count: int) -> float:
    """What a mean over this rank's `count` places counts, so that the mean over ranks is that over the places of all."""
    return count * world_size() / max(1.0, all_reduce_sum(torch.tensor(float(count))).item())
