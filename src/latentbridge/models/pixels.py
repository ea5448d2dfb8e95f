"""Conversion between uint8 pictures and float32 `pixels` [b 3 h w] in [-1, 1], the format of autoencoders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latentbridge.devices import CPU
from latentbridge.types import Picture


def to_pixels(pictures: Sequence[Picture] | np.ndarray, device: torch.device = CPU) -> Tensor:
    """Return the pixels of pictures of one size."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(list(pictures)))).to(device)
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Picture]:
    """Convert pixels to pictures, rounded and clamped to [-1, 1]."""
    return list(_quantize(_to_levels(pixels)).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy())


def quantized_levels(pixels: Tensor) -> Tensor:
    """Return the values of `to_pictures` as floats from 0 to 255, with a straight-through gradient."""
    levels = _to_levels(pixels)
    return levels + (_quantize(levels) - levels).detach()


def truncated_levels(pixels: Tensor) -> Tensor:
    """Return the values of `truncated_pictures` as floats from 0 to 255, with a straight-through gradient."""
    levels = _unit(pixels) * 255
    return levels + (levels.clamp(0, 255).floor() - levels).detach()


def truncated_pictures(pixels: Tensor) -> list[Picture]:
    """Convert pixels to pictures, rounded down and clamped to [-1, 1], as NumPy's conversion to uint8 does."""
    return list((_unit(pixels) * 255).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy())


def _unit(pixels: Tensor) -> Tensor:
    return (pixels.float() + 1) / 2


def _to_levels(pixels: Tensor) -> Tensor:
    return (pixels.float() + 1) * 127.5


def _quantize(levels: Tensor) -> Tensor:
    return levels.round().clamp(0, 255)
