"""Token rows of different lengths as one batch for a language model; padding stands on the left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.devices import CPU
from latentbridge.ranks import global_mean

IGNORED_LABEL = -100


class Rows(NamedTuple):
    """Token rows, padded on the left; both int64 [b s]."""

    ids: Tensor
    mask: Tensor
    """1 at real tokens."""


def padded(rows: Sequence[Sequence[int]], padding: int, device: torch.device = CPU) -> Rows:
    """Rows filled up with the token `padding` to the longest."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[padding] * (length - len(row)) + list(row) for row in rows], device=device)
    return Rows(ids, torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device))


def last_tokens(rows: Rows, counts: Sequence[int]) -> Tensor:
    """Which places hold the last `counts[j]` tokens of row j, bool [b s]."""
    length, device = rows.ids.shape[1], rows.ids.device
    return torch.arange(length, device=device) >= length - torch.tensor(counts, device=device)[:, None]


def reply_loss(head: Callable[[Tensor], Tensor], states: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """Mean next-token cross-entropy of states [b s h] over the `labels` of their rows that are not ignored, of all ranks."""
    answers = padded(labels, IGNORED_LABEL, states.device).ids[:, 1:]
    answered = answers != IGNORED_LABEL
    total = F.cross_entropy(head(states[:, :-1][answered]).float(), answers[answered], reduction="sum")
    return global_mean(total, answered.sum())


def position_ids(mask: Tensor) -> Tensor:
    """Position ids [b s] that count real tokens."""
    return (mask.cumsum(1) - 1).clamp_min(0)
