"""Scenes drawn as pictures: 64 x 64 RGB, anti-aliased."""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from latentbridge.data.shapes.scenes import BACKGROUNDS, COLOURS, Scene, Thing

IMAGE_SIZE_PX = 64
CELL_CENTRES_PX = (11, 32, 53)
RADIUS_PX = {"small": 5.5, "large": 8.5}
_SUPERSAMPLING = 8
_HALF_WINDOW_PX = 9
"""A mask is 2 * 9 + 1 px wide; cells are 21 px apart, so neighbours never touch."""


@cache
def thing_mask(shape: str, size: str) -> np.ndarray:
    """Return the coverage of a centred thing, float32 [19, 19] in [0, 1]; each shape fills its square of 2 x radius."""
    width = 2 * _HALF_WINDOW_PX + 1
    scale = _SUPERSAMPLING
    canvas = Image.new("L", (width * scale, width * scale))
    middle, radius = width * scale / 2, RADIUS_PX[size] * scale
    draw = ImageDraw.Draw(canvas)
    if shape == "circle":
        draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=255)
    else:
        outline = _outline(shape)
        low, high = outline.min(axis=0), outline.max(axis=0)
        points = ((outline - low) / (high - low) * 2 - 1) * radius + middle
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    pixels = np.asarray(canvas, dtype=np.float32).reshape(width, scale, width, scale)
    return pixels.mean(axis=(1, 3)) / 255.0


def _outline(shape: str) -> np.ndarray:
    """Return corner points (x right, y down) at any scale."""
    arm = 0.34
    cross = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
    points = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
        "triangle": [(0, -1), (1, 1), (-1, 1)],
        "cross": cross + [(arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)],
        "star": [(r * sin(i * pi / 5), -r * cos(i * pi / 5)) for i, r in enumerate([1.0, 0.42] * 5)],
    }
    return np.array(points[shape], dtype=np.float64)


def mask_window(thing: Thing) -> tuple[slice, slice]:
    """Return the (rows, columns) of the image that `thing_mask` covers."""
    x, y = CELL_CENTRES_PX[thing.column] + thing.offset_px[0], CELL_CENTRES_PX[thing.row] + thing.offset_px[1]
    return slice(y - _HALF_WINDOW_PX, y + _HALF_WINDOW_PX + 1), slice(x - _HALF_WINDOW_PX, x + _HALF_WINDOW_PX + 1)


def render(scene: Scene) -> np.ndarray:
    """Return the picture of a scene, uint8 [64, 64, 3]."""
    canvas = np.empty((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        window = mask_window(thing)
        alpha = thing_mask(thing.shape, thing.size)[..., None]
        canvas[window] += alpha * (np.array(COLOURS[thing.colour], dtype=np.float32) - canvas[window])
    return np.rint(canvas).astype(np.uint8)


def patch_labels(scene: Scene, patch_px: int) -> np.ndarray:
    """Return int64 [64 / patch, 64 / patch]: the index of the thing that covers most of each patch.

    -1 where none covers 3 % of the patch.
    """
    size = IMAGE_SIZE_PX // patch_px
    covered = np.full((len(scene.things) + 1, size, size), 0.03)
    for index, thing in enumerate(scene.things, start=1):
        canvas = np.zeros((IMAGE_SIZE_PX, IMAGE_SIZE_PX), dtype=np.float32)
        canvas[mask_window(thing)] = thing_mask(thing.shape, thing.size)
        covered[index] = canvas.reshape(size, patch_px, size, patch_px).mean(axis=(1, 3))
    return covered.argmax(axis=0) - 1
