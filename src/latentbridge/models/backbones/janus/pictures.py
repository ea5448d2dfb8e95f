"""The authors' rounding of the sides of pictures (deepseek-ai/Janus at 1daa72f).

transformers' image processor rounds the short side to the nearest pixel; a release was trained on sides rounded down.
"""

from __future__ import annotations

from PIL import Image

from latentbridge.images import resize
from latentbridge.types import Picture


def resize_longest_side(picture: Picture, size_px: int, min_px: int) -> Picture:
    """Return a picture with its longest side at `size_px`, and the other rounded down but no shorter than `min_px`.

    transformers' image processor then only pads it: `VLMImageProcessor.resize` in `janus/models/image_processing_vlm.py`.
    """
    longest = max(picture.shape[:2])
    height, width = (max(int(side / longest * size_px), min_px) for side in picture.shape[:2])
    return resize(picture, (width, height), Image.Resampling.BICUBIC)
