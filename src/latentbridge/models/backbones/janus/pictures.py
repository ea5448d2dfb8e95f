"""The authors' rounding of pictures on their way in and out (deepseek-ai/Janus at 1daa72f).

transformers' image processor rounds the short side to the nearest pixel; a release was trained on sides rounded down.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from latentbridge.images import resize
from latentbridge.types import Picture


def resize_longest_side(picture: Picture, size_px: int, min_px: int) -> Picture:
    """Return a picture with its longest side at `size_px`, and the other rounded down but no shorter than `min_px`.

    transformers' image processor then only pads it: `VLMImageProcessor.resize` in `janus/models/image_processing_vlm.py`.
    """
    longest = max(picture.shape[:2])
    height, width = (max(int(side / longest * size_px), min_px) for side in picture.shape[:2])
    return resize(picture, (width, height), Image.Resampling.BICUBIC)


def truncated_levels(pixels: Tensor) -> Tensor:
    """Return pixels in [-1, 1] as whole levels from 0 to 255, rounded down, as floats with a straight-through gradient."""
    levels = _to_levels(pixels)
    return levels + (_truncate(levels) - levels).detach()


def truncated_pictures(pixels: Tensor) -> list[Picture]:
    """Return the pictures of pixels [b 3 h w] in [-1, 1] (`generation_inference.py`)."""
    return list(_truncate(_to_levels(pixels)).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy())


def _to_levels(pixels: Tensor) -> Tensor:
    return (pixels.float() + 1) / 2 * 255


def _truncate(levels: Tensor) -> Tensor:
    return levels.clamp(0, 255).floor()
