"""Tensors read from a file: safetensors only."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from latentbridge.errors import UserError


def read_tensors(path: Path, mend: str) -> dict[str, torch.Tensor]:
    """The tensors in a safetensors file; raises UserError with the `mend` where it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Cannot read {path} ({error}); {mend}.") from error
