"""UniGame's game on latents: an adversary moves them within a bound so that drawings are misread, the model learns not to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.training.objectives.latentumm import RoundTrip, mean_distance


def worst_perturbation(latents: Tensor, roundtrip: RoundTrip, reach: float) -> Tensor:
    """What to add to latents [b d] so that what comes back differs most from them, to first order: `reach` of each norm.

    One step of gradient ascent on 1 - cosine, from the latents themselves, as long as the bound allows; 0 where the
    gradient is. No weight hears of it.
    """
    start = latents.detach().requires_grad_()
    with torch.enable_grad():
        distance = mean_distance(roundtrip(start), latents.detach(), "cosine")
    (uphill,) = torch.autograd.grad(distance, start)
    return reach * latents.detach().norm(dim=-1, keepdim=True) * F.normalize(uphill, dim=-1)


def self_play_loss(latents: Tensor, roundtrip: RoundTrip, reach: float) -> Tensor:
    """1 - cosine of latents [b d] and what comes back after the worst perturbation within `reach`, averaged over rows.

    The latents are held still on both sides: the game is about drawing and reading them, and latents that may move could
    win it by becoming equal. Source: the min-max of UniGame, spec LatentUMM section 3.
    """
    still = latents.detach()
    return mean_distance(roundtrip(still + worst_perturbation(still, roundtrip, reach)), still, "cosine")
