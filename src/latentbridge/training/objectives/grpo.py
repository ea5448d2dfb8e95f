"""Group Relative Policy Optimisation (DeepSeekMath, arXiv 2402.03300), as pure functions of log-probabilities and rewards."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_SPREAD = 1e-4
"""Added to a group's standard deviation, so that rewards that hardly differ do not count as if they did."""


class GrpoLoss(NamedTuple):
    """`total` is what to minimise; the others are told of it, as scalars without gradient."""

    total: Tensor
    divergence: Tensor
    """Mean estimate of KL(policy, reference) in nats a token."""
    clipped: Tensor
    """Share of tokens whose gain the clip cuts off."""


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better each reply is than its group, in the group's standard deviations: [b g] -> [b g].

    Source: section 4.1.2, A = (r - mean(r)) / std(r), here the sample's standard deviation. A group of equals has advantage 0,
    whose mean may round to another number than they are.
    """
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    mean, spread = rewards.mean(dim=1, keepdim=True), rewards.std(dim=1, keepdim=True)
    return ((rewards - mean) / (spread + _LEAST_SPREAD)).masked_fill(equal, 0.0)


def grpo_loss(
    log_probs: Tensor,
    sampled: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    reference: Tensor | None = None,
    beta: float = 0.0,
) -> GrpoLoss:
    """The negated objective of eq. 3, mean over replies of the mean over each one's tokens.

    `log_probs`, `sampled` and `reference` [r t]: of the replies' tokens under the policy, when they were sampled, and under
    the frozen start; `advantages` [r]; `mask` bool [r t], at least one token a reply. Each token gains
    min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), and loses beta times the divergence. A batch is used for one update,
    so ratios are 1 up to what sampling with a cache and in another precision rounds otherwise; the clip is a guard.
    """
    ratio, advantage = (log_probs - sampled).exp(), advantages[:, None]
    whole, cut = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    gain = torch.minimum(whole, cut)
    divergence = torch.zeros_like(gain) if reference is None else k3_divergence(log_probs, reference)
    total = -_mean_of_replies(gain - beta * divergence, mask)
    clipped = (cut < whole)[mask].float().mean()
    return GrpoLoss(total, _mean_of_replies(divergence, mask).detach(), clipped)


def k3_divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(policy, reference) from each sampled token, unbiased and never negative. Source: eq. 4, Schulman's k3."""
    gap = reference - log_probs
    return gap.exp() - gap - 1


def _mean_of_replies(values: Tensor, mask: Tensor) -> Tensor:
    return ((values * mask).sum(dim=1) / mask.sum(dim=1)).mean()
