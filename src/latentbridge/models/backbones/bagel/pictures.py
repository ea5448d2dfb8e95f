"""Pictures as BAGEL reads them (`data/transforms.py` and `inferencer.py` of ByteDance-Seed/Bagel at 056b5fd)."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from latentbridge.images import resize
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
        return picture if picture.shape[:2] == size else resize(picture, (size[1], size[0]), Image.Resampling.BICUBIC)

    def _scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Return scaled sides, rounded to whole pixels and then to the stride, as the authors round twice."""
        rows, columns = (max(1, round(round(side * scale) / self.stride)) for side in (height, width))
        return rows * self.stride, columns * self.stride
