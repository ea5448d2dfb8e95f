"""Preparation of pictures for reading, as by wusize/Harmon at 4eb6087 (`scripts/image2text.py`)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from latentbridge.types import Picture

_GREY = (127, 127, 127)


def pad_and_resize(picture: Picture, size_px: int) -> Picture:
    """Return the picture centred on a grey square of its longer side, resized to `size_px` by Pillow's default filter."""
    height, width = picture.shape[:2]
    side = max(height, width)
    canvas = Image.new("RGB", (side, side), _GREY)
    canvas.paste(Image.fromarray(picture), ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas.resize((size_px, size_px)))
