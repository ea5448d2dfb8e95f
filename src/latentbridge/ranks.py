"""Data parallelism over the ranks that `torchrun` starts; a process outside a process group is the only rank.

All ranks compute the same global batch and each takes its rows of the batch and of its noise, so data and noise do not
depend on the number of ranks. The mean over ranks of their losses is the loss of the global batch.
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
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rows(rows: RowsT) -> RowsT:
    """Return this rank's rows of the global batch: rank, rank + world_size, ..."""
    return rows[rank() :: world_size()]


def per_rank_random(draw: Callable[..., Tensor], shape: Sequence[int], rng: Generator, dim: int = 0) -> Tensor:
    """Return random numbers of `shape` on the CPU for this rank's rows, which lie along `dim`.

    Draws the numbers of all ranks and takes `local_rows` of them. `draw` is `torch.rand` or another function of shape
    and generator. Ranks must make the same calls in the same order so that their generators stay in sync.
    """
    global_shape = [size * world_size() if axis == dim else size for axis, size in enumerate(shape)]
    return local_rows(draw(global_shape, generator=rng).movedim(dim, 0)).movedim(0, dim)


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum over ranks, without gradient."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """Return this rank's loss such that the mean over ranks is sum(total) / sum(count) over all ranks, or 0 if none count.

    `total` is the sum over this rank's valid elements, and `count` their number or weight, which differs between ranks.
    """
    return total * world_size() / all_reduce_sum(count).clamp(min=1)


def global_mean_weight(count: int) -> float:
    """Return the factor for a mean over this rank's `count` elements such that the mean over ranks is the global mean."""
    return count * world_size() / max(1.0, all_reduce_sum(torch.tensor(float(count))).item())
