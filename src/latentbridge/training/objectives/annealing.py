"""Mixing of text embeddings and learned queries in stage 2, and its annealing schedules (OmniBridge, arXiv 2509.19018)."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

from latentbridge.ranks import per_rank_random

BetaSchedule = Literal["none", "step", "linear", "cosine", "ladder"]
LADDER: dict[float, tuple[float, float]] = {
    0: (0.0, 0.0),
    0.005: (0.005, 0.005),
    0.15: (0.15, 0.15),
    0.75: (0.15, 0.75),
    0.99: (0.15, 1.0),
    2: (1.0, 1.0),
}
"""Released `mask_random_number` -> range of the replacement probability, in the order of the annealing (spec 3.2).

Each is used for a sixth of the annealing. The release has another, 1: (0.75, 1.0).
"""
ANNEALED_SHARE = 0.2
"""Fraction of the run over which the text is faded out; afterwards only queries are used. The paper states no schedule.

The queries learn little while there is text to copy: in a run of 300 steps that annealed over half of it, the
distillation error was .001 until the text was nearly gone, then .41, as if untrained (docs/LOG.md, 2026-11-22).
"""


def beta_at(schedule: BetaSchedule, progress: float) -> float:
    """Return the weight of the text in [0, 1] at `progress` in [0, 1] of the run; 0 throughout for "none"."""
    annealed = min(1.0, progress / ANNEALED_SHARE)
    if schedule == "none":
        return 0.0
    if schedule == "step":
        return float(annealed < 1.0)
    if schedule == "cosine":
        return (1 + cos(pi * annealed)) / 2
    return 1.0 - annealed


def mix_text_and_queries(
    schedule: BetaSchedule, progress: float, text: Tensor, queries: Tensor, rng: torch.Generator
) -> Tensor:
    """Return the aligner's input [b n d]: a mix of text embeddings [b n d] and queries [1 n d] by the schedule.

    "ladder" is the released code's `mix_bernoulli`, the other schedules are the paper's `mix_convex`.
    """
    if schedule == "ladder":
        low, high = list(LADDER.values())[min(len(LADDER) - 1, int(len(LADDER) * progress / ANNEALED_SHARE))]
        probability = low + (high - low) * torch.rand((), generator=rng).item()
        return mix_bernoulli(text, queries, probability, rng)
    return mix_convex(text, queries, beta_at(schedule, progress))


def mix_convex(text: Tensor, queries: Tensor, beta: float) -> Tensor:
    """Return beta * text + (1 - beta) * queries, [b n d]. Source: the OmniBridge paper, eq. 2."""
    return beta * text + (1 - beta) * queries


def mix_bernoulli(text: Tensor, queries: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """Return `text` [b n d] with each position replaced by its query with `probability`. Source: OmniBridge, released code."""
    replaced = per_rank_random(torch.rand, text.shape[:2], rng) < probability
    return torch.where(replaced.to(text.device)[..., None], queries, text)
