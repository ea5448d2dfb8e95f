"""Rectified flow as pure functions (arXiv 2209.03003): straight paths from clean latents (t = 0) to noise (t = 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from latentbridge.ranks import per_rank_random


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the points [b n c] of the straight paths at times `t` [b]; the velocity is `noise - clean` everywhere."""
    time = t[:, None, None]
    return (1 - time) * clean + time * noise


def training_times(count: int, rng: torch.Generator) -> Tensor:
    """Return times [count] in (0, 1), logit-normal as in BAGEL's post-training (spec LatentUMM 1.4)."""
    return per_rank_random(torch.randn, (count,), rng).sigmoid()


def sampling_times(steps: int, shift: float) -> list[float]:
    """Return the `steps` + 1 times of a sampler, from 1 to 0; a `shift` above 1 puts more of them at the noisy end."""
    linear = [1 - index / steps for index in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in linear]


def guided(cond: Tensor, uncond: Tensor, guidance: float) -> Tensor:
    """Return guided velocities [b n c], scaled down to the norm of `cond` per picture (BAGEL's global renorm)."""
    velocity = uncond + guidance * (cond - uncond)
    norm = torch.linalg.vector_norm(velocity, dim=(1, 2), keepdim=True).clamp_min(torch.finfo(velocity.dtype).tiny)
    return velocity * (torch.linalg.vector_norm(cond, dim=(1, 2), keepdim=True) / norm).clamp_max(1)
