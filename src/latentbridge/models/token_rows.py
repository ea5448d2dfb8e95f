"""Token rows of different lengths as one batch for a language model; padding stands on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Token rows, padded on the left; both int64 [b s]."""

    ids: Tensor
    mask: Tensor
    """1 at real tokens."""


def padded(rows: Sequence[Sequence[int]], padding: int) -> Rows:
    """Rows filled up with the token `padding` to the longest."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[padding] * (length - len(row)) + list(row) for row in rows])
    return Rows(ids, torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]))


def position_ids(mask: Tensor) -> Tensor:
    """Position ids [b s] that count real tokens."""
    return (mask.cumsum(1) - 1).clamp_min(0)
