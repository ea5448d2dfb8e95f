"""Gradient norms of the terms of a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def gradient_norm_shares(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, float]:
    """Return each weighted term's gradient norm divided by the sum of all terms' norms.

    Only parameters that several terms reach count, so heads of a single term do not. The shares sum to 1, or are all 0 if
    no parameter is shared. The graph is retained.
    """
    trained = list(parameters)
    gradients = {name: _gradients(term, trained) for name, term in terms.items()}
    shared = [sum(grads[i] is not None for grads in gradients.values()) > 1 for i in range(len(trained))]
    norms = {
        name: float(sum(g.square().sum() for g, counts in zip(grads, shared, strict=True) if counts and g is not None))
        ** 0.5
        for name, grads in gradients.items()
    }
    total = sum(norms.values())
    return {name: norm / total if total else 0.0 for name, norm in norms.items()}


def _gradients(term: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    if not term.requires_grad:
        return (None,) * len(parameters)
    return torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
