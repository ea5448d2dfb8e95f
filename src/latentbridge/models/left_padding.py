"""Left-padded batches of token sequences, and the next-token loss over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from latentbridge.devices import CPU
from latentbridge.ranks import global_mean

IGNORE_INDEX = -100


class PaddedTokens(NamedTuple):
    """Token sequences of different lengths, padded on the left; both int64 [b s]."""

    ids: Tensor
    mask: Tensor
    """1 at real tokens."""


def pad_left(sequences: Sequence[Sequence[int]], padding: int, device: torch.device = CPU) -> PaddedTokens:
    """Pad `sequences` with the token `padding` to the length of the longest."""
    rows = [torch.tensor(sequence, dtype=torch.long, device=device) for sequence in sequences]
    ids = pad_sequence(rows, batch_first=True, padding_value=padding, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return PaddedTokens(ids, mask)


def last_tokens_mask(tokens: PaddedTokens, counts: Sequence[int]) -> Tensor:
    """Return bool [b s], True at the last `counts[j]` tokens of row j."""
    length, device = tokens.ids.shape[1], tokens.ids.device
    return torch.arange(length, device=device) >= length - torch.tensor(counts, device=device)[:, None]


def next_token_loss(head: Callable[[Tensor], Tensor], states: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean cross-entropy, over all ranks, of left-padded states [b s h] and their `labels`, except IGNORE_INDEX."""
    targets = pad_left(labels, IGNORE_INDEX, states.device).ids[:, 1:]
    labelled = targets != IGNORE_INDEX
    total = F.cross_entropy(head(states[:, :-1][labelled]).float(), targets[labelled], reduction="sum")
    return global_mean(total, labelled.sum())


def position_ids(mask: Tensor) -> Tensor:
    """Return position ids [b s] that count real tokens."""
    return (mask.cumsum(1) - 1).clamp_min(0)
