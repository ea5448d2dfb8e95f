"""Pictures as BAGEL reads and writes them (`data/transforms.py` and `inferencer.py` of ByteDance-Seed/Bagel at 056b5fd)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentbridge.types import Picture

_MOST_PIXELS = 14 * 14 * 9 * 1024


@dataclass(frozen=True)
class ResizeRule:
    """Both sides are multiples of `stride`; the shape is kept nearly."""

    longest_px: int
    shortest_px: int
    """The shorter side is enlarged to this, unless the longer would exceed `longest_px`."""
    stride: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of a picture after resizing."""
        scale = min(self.longest_px / max(height, width), 1.0)
        height, width = self._scaled(height, width, max(scale, self.shortest_px / min(height, width)))
        if height * width > _MOST_PIXELS:  # the authors scale the sides, not the area, by this ratio
            height, width = self._scaled(height, width, _MOST_PIXELS / (height * width))
        if max(height, width) > self.longest_px:
            height, width = self._scaled(height, width, self.longest_px / max(height, width))
        return height, width

    def resize(self, picture: Picture) -> Picture:
        """Return the picture at its new size, by Pillow's bicubic filter."""
        size = self.size(*picture.shape[:2])
        return picture if picture.shape[:2] == size else bicubic(picture, size)

    def _scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Return scaled sides, rounded to whole pixels and then to the stride, as the authors round twice."""
        rows, columns = (max(1, round(round(side * scale) / self.stride)) for side in (height, width))
        return rows * self.stride, columns * self.stride


def bicubic(picture: Picture, size: tuple[int, int]) -> Picture:
    """Return the picture at another height and width, by two passes in the order of Pillow 13.

    Each pass rounds to whole levels, so the order matters by a level or two: Pillow 13 resizes columns of pixels first where
    that takes away far more rows than columns, and earlier versions never do.
    """
    (height, width), (new_height, new_width) = picture.shape[:2], size
    fewer = height - new_height
    between = (width, new_height) if fewer > max(0, 2 * (width - new_width)) else (new_width, height)
    image = Image.fromarray(picture)
    for step in (between, (new_width, new_height)):
        image = image.resize(step, Image.Resampling.BICUBIC)
    return np.asarray(image)


def written_levels(pixels: Tensor) -> Tensor:
    """Return the levels of pictures from pixels [b 3 h w]: whole floats from 0 to 255, cut off rather than rounded.

    Gradients pass straight through.
    """
    levels = (pixels.float() * 0.5 + 0.5) * 255
    return levels + (levels.clamp(0, 255).floor() - levels).detach()


def write_pictures(pixels: Tensor) -> list[Picture]:
    """Return the pictures that `written_levels` describes."""
    return list(written_levels(pixels).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy())
