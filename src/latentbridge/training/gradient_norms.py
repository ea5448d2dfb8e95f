"""What each term of a loss really moves: its share of the gradient, which its value does not tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def gradient_norm_shares(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, float]:
    """For each weighted term the norm of its gradient, over the sum of all terms' norms, on the parameters they share.

    Shared is what more than one term reaches, so training-only heads and parts that one term has to itself do not count.
    The shares sum to 1, or are all 0 where nothing is shared. Norms and not their squares: one direction pulled twice as
    hard has twice the share. The graph is kept for the backward pass to come.
    """
    moving = list(parameters)
    gradients = {name: _gradients(term, moving) for name, term in terms.items()}
    shared = [sum(found[i] is not None for found in gradients.values()) > 1 for i in range(len(moving))]
    norms = {
        name: float(sum(g.square().sum() for g, counts in zip(found, shared, strict=True) if counts and g is not None))
        ** 0.5
        for name, found in gradients.items()
    }
    total = sum(norms.values())
    return {name: norm / total if total else 0.0 for name, norm in norms.items()}


def _gradients(term: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    if not term.requires_grad:
        return (None,) * len(parameters)
    return torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
