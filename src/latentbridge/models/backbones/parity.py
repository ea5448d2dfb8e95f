"""Comparison of a released model's code here with arrays that its authors' code computed.

A parity folder holds a small checkpoint in its release's layout, `meta.json` and `expected.safetensors`. The `parity.py` of each
model yields what the code here computes of those arrays, and names by `INPUTS` those that are given instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel import parity as bagel
from latentbridge.models.backbones.bagel.load_bagel import is_bagel
from latentbridge.models.backbones.harmon import parity as harmon
from latentbridge.models.backbones.harmon.load_harmon import is_harmon
from latentbridge.models.backbones.janus import parity as janus
from latentbridge.models.backbones.janus.load_janus import is_janus
from latentbridge.models.tensors import REDOWNLOAD, read_tensors

EXPECTED, META = "expected.safetensors", "meta.json"
_NUMBER = re.compile(r"\d+(\.\d+)?")


class ArrayDifference(NamedTuple):
    """The difference between an array computed here and the same one of the authors' code."""

    name: str
    difference: float
    """max |ours - theirs| / max |theirs|; for integers the share of elements that differ; infinite for other shapes."""
    tolerance: float

    @property
    def is_within(self) -> bool:
        return self.difference <= self.tolerance

    @property
    def severity(self) -> float:
        """The difference as a multiple of the tolerance; infinite where none is tolerated."""
        if self.difference == 0:
            return 0.0
        return self.difference / self.tolerance if self.tolerance else float("inf")


class ArrayGroup(NamedTuple):
    """Arrays whose names differ in numbers alone, such as the same states of several pictures."""

    name: str
    """The common name, with * for each number."""
    arrays: Sequence[ArrayDifference]

    @property
    def worst(self) -> ArrayDifference:
        return max(self.arrays, key=lambda array: (array.severity, array.difference))


class FixtureReport(NamedTuple):
    """The result of running a parity folder."""

    kind: str
    arrays: Sequence[ArrayDifference]
    not_computed: Sequence[str]
    """Recorded arrays that are neither inputs nor computed here."""

    @property
    def is_within(self) -> bool:
        return not self.not_computed and all(array.is_within for array in self.arrays)

    def groups(self) -> list[ArrayGroup]:
        """Return the arrays by group, the group of the worst one first."""
        grouped: dict[str, list[ArrayDifference]] = {}
        for array in self.arrays:
            grouped.setdefault(_NUMBER.sub("*", array.name), []).append(array)
        groups = [ArrayGroup(name, arrays) for name, arrays in grouped.items()]
        return sorted(groups, key=lambda group: (-group.worst.severity, -group.worst.difference, group.name))


class _Model(NamedTuple):
    name: str
    holds: Callable[[Path], bool]
    fixture_arrays: Callable[[Path], Iterator[tuple[str, Tensor, float]]]
    inputs: re.Pattern[str]


_MODELS = (
    _Model("BAGEL", is_bagel, bagel.fixture_arrays, bagel.INPUTS),
    _Model("Janus-Pro", is_janus, janus.fixture_arrays, janus.INPUTS),
    _Model("Harmon", is_harmon, harmon.fixture_arrays, harmon.INPUTS),
)


def run_fixture(folder: Path) -> FixtureReport:
    """Run a parity folder, whose model is told by its files; raise UserError for any other folder."""
    for name in (META, EXPECTED):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no parity folder (no {name}); give one such as tests/golden/bagel.")
    model = next((each for each in _MODELS if each.holds(folder)), None)
    if model is None:
        known = ", ".join(each.name for each in _MODELS)
        raise UserError(f"{folder} holds the weights of none of {known}; give a parity folder of one of these.")
    expected = read_tensors(folder / EXPECTED, REDOWNLOAD)
    arrays = compare_arrays(model.fixture_arrays(folder), expected)
    computed = {array.name for array in arrays}
    missed = [name for name in expected if name not in computed and not model.inputs.fullmatch(name)]
    return FixtureReport(model.name, arrays, sorted(missed))


def compare_arrays(
    computed: Iterable[tuple[str, Tensor, float]], expected: Mapping[str, Tensor]
) -> list[ArrayDifference]:
    """Return the difference of each computed (name, array, tolerance) that `expected` holds from the array of that name."""
    return [
        ArrayDifference(name, _difference(ours, expected[name]), tolerance)
        for name, ours, tolerance in computed
        if name in expected
    ]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    if not theirs.is_floating_point():
        return (ours.cpu() != theirs).double().mean().item() if theirs.numel() else 0.0
    ours, theirs = ours.detach().cpu().double(), theirs.double()
    if not torch.isfinite(ours).all():
        return float("inf")
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(torch.finfo(torch.float64).tiny)).item()
