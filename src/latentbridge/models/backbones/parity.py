"""Comparison of a released model's code here with arrays that its authors' code computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class ArrayDifference(NamedTuple):
    """The difference between an array computed here and the same one of the authors' code."""

    name: str
    difference: float
    """max |ours - theirs| / max |theirs|; for integers the share of elements that differ; infinite for other shapes."""
    tolerance: float

    @property
    def is_within(self) -> bool:
        return self.difference <= self.tolerance


def compare_arrays(
    computed: Iterable[tuple[str, Tensor, float]], expected: Mapping[str, Tensor]
) -> list[ArrayDifference]:
    """Return the difference of each computed (name, array, tolerance) from the array of that name in `expected`."""
    return [ArrayDifference(name, _difference(ours, expected[name]), limit) for name, ours, limit in computed]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    if not theirs.is_floating_point():
        return (ours.cpu() != theirs).double().mean().item() if theirs.numel() else 0.0
    ours, theirs = ours.detach().cpu().double(), theirs.double()
    if not torch.isfinite(ours).all():
        return float("inf")
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(torch.finfo(torch.float64).tiny)).item()
