"""Rectified flow as pure functions (arXiv 2209.03003): straight paths from clean latents (t = 0) to noise (t = 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from latentbridge.ranks import per_rank_random


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point [b n c] at times `t` [b] of the straight paths; their velocity is `noise - clean` everywhere."""
    share = t[:, None, None]
    return (1 - share) * clean + share * noise


def training_times(count: int, rng: torch.Generator) -> Tensor:
    """Times [count] in (0, 1), logit-normal as in BAGEL's post-training (spec LatentUMM 1.4)."""
    return per_rank_random(torch.randn, (count,), rng).sigmoid()


def sampling_times(steps: int, shift: float) -> list[float]:
    """The `steps` + 1 times from 1 to 0 between which a sampler moves; a `shift` above 1 gives the noisy end more of them."""
    evenly = [1 - index / steps for index in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in evenly]


def guided(given: Tensor, bare: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance of velocities [b n c], no longer than `given` over each picture (BAGEL's global renorm)."""
    pushed = bare + guidance * (given - bare)
    length = torch.linalg.vector_norm(pushed, dim=(1, 2), keepdim=True).clamp_min(torch.finfo(pushed.dtype).tiny)
    return pushed * (torch.linalg.vector_norm(given, dim=(1, 2), keepdim=True) / length).clamp_max(1)
