"""Reading of safetensors files, and comparison of their tensors with a model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentbridge.errors import UserError


def read_tensors(path: Path, fix: str) -> dict[str, Tensor]:
    """Load a safetensors file; raises UserError, which advises the `fix`, if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Cannot read {path} ({error}); {fix}.") from error


def mismatched_tensors(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """Return the names that only one side has, or that have different shapes, sorted."""
    shapes = ({(name, tensor.shape) for name, tensor in tensors.items()} for tensors in (expected, stored))
    return sorted({name for name, _ in set.symmetric_difference(*shapes)})


def describe_mismatch(names: Sequence[str]) -> str:
    """Return the part of an error message that counts mismatched tensors and names the first."""
    return f"{len(names)} tensors are missing, unexpected or of another shape (first: {names[0]})"
