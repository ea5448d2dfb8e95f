"""UniGame's adversarial self-play, on latents: a bounded perturbation maximizes the round-trip error, the model minimizes it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.training.objectives.latentumm import RoundTrip, cosine_distance


def worst_perturbation(latents: Tensor, roundtrip: RoundTrip, reach: float) -> Tensor:
    """Return the perturbation of latents [b d] that increases the round-trip error most, to first order.

    One step of gradient ascent on 1 - cosine, with length `reach` times each latent's norm; 0 where the gradient is 0.
    """
    start = latents.detach().requires_grad_()
    with torch.enable_grad():
        distance = cosine_distance(roundtrip(start), latents.detach())
    (gradient,) = torch.autograd.grad(distance, start)
    return reach * latents.detach().norm(dim=-1, keepdim=True) * F.normalize(gradient, dim=-1)


def self_play_loss(latents: Tensor, roundtrip: RoundTrip, reach: float) -> Tensor:
    """Return the mean 1 - cosine of latents [b d] and their round trips after the worst perturbation within `reach`.

    The latents get no gradient, since they could win by becoming equal. Source: the min-max of UniGame, spec LatentUMM 3.
    """
    latents = latents.detach()
    return cosine_distance(roundtrip(latents + worst_perturbation(latents, roundtrip, reach)), latents)
