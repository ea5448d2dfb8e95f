"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) on log-probabilities and rewards."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EPS = 1e-4
"""Added to the standard deviation of a group's rewards."""


class GrpoLoss(NamedTuple):
    """The loss, and metrics without gradient; all scalars."""

    total: Tensor
    divergence: Tensor
    """Mean estimate of KL(policy, reference) in nats per token."""
    clipped: Tensor
    """Fraction of tokens whose objective is clipped."""


def group_advantages(rewards: Tensor) -> Tensor:
    """Return the rewards [b g] standardized within each group, with the sample's standard deviation (section 4.1.2).

    Equal rewards get exactly 0, although their mean may round to another number.
    """
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    mean, std = rewards.mean(dim=1, keepdim=True), rewards.std(dim=1, keepdim=True)
    return ((rewards - mean) / (std + _EPS)).masked_fill(equal, 0.0)


def grpo_loss(
    log_probs: Tensor,
    sampled: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    reference: Tensor | None = None,
    beta: float = 0.0,
) -> GrpoLoss:
    """Return the negated objective of eq. 3, the mean over replies of the mean over their tokens.

    `log_probs`, `sampled` and `reference` [r t] are the log-probabilities of the replies' tokens under the policy, under
    the policy when they were sampled, and under the frozen reference; `advantages` [r]; `mask` bool [r t], at least one
    token per reply. A token's objective is min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) - beta KL. Each batch is used
    for one update, so ratios are 1 up to rounding.
    """
    ratio, advantage = (log_probs - sampled).exp(), advantages[:, None]
    unclipped, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    surrogate = torch.minimum(unclipped, clipped)
    divergence = torch.zeros_like(surrogate) if reference is None else k3_divergence(log_probs, reference)
    total = -_mean_of_replies(surrogate - beta * divergence, mask)
    clipped_fraction = (clipped < unclipped)[mask].float().mean()
    return GrpoLoss(total, _mean_of_replies(divergence, mask).detach(), clipped_fraction)


def k3_divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return Schulman's k3 estimate of KL(policy, reference) per sampled token, unbiased and non-negative (eq. 4)."""
    log_ratio = reference - log_probs
    return log_ratio.exp() - log_ratio - 1


def _mean_of_replies(values: Tensor, mask: Tensor) -> Tensor:
    return ((values * mask).sum(dim=1) / mask.sum(dim=1)).mean()
