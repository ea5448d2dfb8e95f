"""Token rows of different lengths as one batch for a language model; padding stands on the left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.devices import CPU
from latentbridge.ranks import global_mean

IGNORE_INDEX = -100


class PaddedTokens(NamedTuple):
    """Token rows, padded on the left; both int64 [b s]."""

    ids: Tensor
    mask: Tensor
    """1 at real tokens."""


def pad_left(rows: Sequence[Sequence[int]], padding: int, device: torch.device = CPU) -> PaddedTokens:
    """Rows filled up with the token `padding` to the longest."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[padding] * (length - len(row)) + list(row) for row in rows], device=device)
    return PaddedTokens(ids, torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device))


def last_tokens_mask(rows: PaddedTokens, counts: Sequence[int]) -> Tensor:
    """Which places hold the last `counts[j]` tokens of row j, bool [b s]."""
    length, device = rows.ids.shape[1], rows.ids.device
    return torch.arange(length, device=device) >= length - torch.tensor(counts, device=device)[:, None]


def next_token_loss(head: Callable[[Tensor], Tensor], states: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """Mean next-token cross-entropy of states [b s h] over the `labels` of their rows that are not ignored, of all ranks."""
    answers = pad_left(labels, IGNORE_INDEX, states.device).ids[:, 1:]
    answered = answers != IGNORE_INDEX
    total = F.cross_entropy(head(states[:, :-1][answered]).float(), answers[answered], reduction="sum")
    return global_mean(total, answered.sum())


def position_ids(mask: Tensor) -> Tensor:
    """Position ids [b s] that count real tokens."""
    return (mask.cumsum(1) - 1).clamp_min(0)
