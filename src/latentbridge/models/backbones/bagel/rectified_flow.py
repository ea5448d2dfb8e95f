"""Rectified flow as pure functions (arXiv 2209.03003): straight paths from clean latents (t = 0) to noise (t = 1)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from latentbridge.ranks import per_rank_random

Renorm = Literal["global", "channel", "text_channel"]
"""Renormalisation of a guided velocity: over the whole picture, by token, or by token under text guidance alone."""
_EPSILON = 1e-8


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the points [b n c] of the straight paths at times `t` [b]; the velocity is `noise - clean` everywhere."""
    time = t[:, None, None]
    return (1 - time) * clean + time * noise


def training_times(count: int, rng: torch.Generator) -> Tensor:
    """Return times [count] in (0, 1), logit-normal as in BAGEL's post-training (spec LatentUMM 1.4)."""
    return per_rank_random(torch.randn, (count,), rng).sigmoid()


def sampling_times(timesteps: int, shift: float) -> Tensor:
    """Return the times of a sampler from 1 to 0, float32 [timesteps]; a `shift` above 1 puts more of them at the noisy end."""
    linear = torch.linspace(1, 0, timesteps)
    return shift * linear / (1 + (shift - 1) * linear)


def guided(
    full: Tensor,
    without_text: Tensor,
    guidance: float,
    *,
    without_image: Tensor | None = None,
    image_guidance: float = 1.0,
    renorm: Renorm = "global",
    renorm_min: float = 0.0,
) -> Tensor:
    """Return velocities [b n c] guided away from those without text, and then from those without image.

    They are scaled down to the norm of `full`, but by no less than `renorm_min`; "text_channel" scales before the image
    guidance instead. Source: `_forward_flow` of ByteDance-Seed/Bagel at 056b5fd.
    """
    velocity = without_text + guidance * (full - without_text)
    if renorm == "text_channel":
        velocity = _scaled_down(velocity, full, (-1,), renorm_min)
    if without_image is not None:
        velocity = without_image + image_guidance * (velocity - without_image)
    if renorm == "text_channel":
        return velocity
    return _scaled_down(velocity, full, (1, 2) if renorm == "global" else (-1,), renorm_min)


def _scaled_down(velocity: Tensor, full: Tensor, dims: tuple[int, ...], renorm_min: float) -> Tensor:
    wanted, found = (torch.linalg.vector_norm(item, dim=dims, keepdim=True) for item in (full, velocity))
    return velocity * cast(Tensor, wanted / (found + _EPSILON)).clamp(renorm_min, 1.0)
