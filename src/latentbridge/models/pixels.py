"""Pictures as tensors: float32 `pixels` [b 3 h w] in [-1, 1], as autoencoders read and write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latentbridge.devices import CPU
from latentbridge.types import Picture


def to_pixels(pictures: Sequence[Picture] | np.ndarray, device: torch.device = CPU) -> Tensor:
    """The pixels of pictures of one size."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(list(pictures)))).to(device)
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Picture]:
    """The inverse of `to_pixels`: rounded, and clipped where pixels leave [-1, 1]."""
    return list(_rounded(_unrounded(pixels)).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy())


def quantized_levels(pixels: Tensor) -> Tensor:
    """What `to_pictures` stores, as floats from 0 to 255; the gradient passes as if nothing were rounded or clipped."""
    levels = _unrounded(pixels)
    return levels + (_rounded(levels) - levels).detach()


def _unrounded(pixels: Tensor) -> Tensor:
    return (pixels.float() + 1) * 127.5


def _rounded(levels: Tensor) -> Tensor:
    return levels.round().clamp(0, 255)
