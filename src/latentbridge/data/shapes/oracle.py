"""The oracle: template matching that reads the scene from the pixels of a `shapes` picture.

It copes with pictures by models: blurry, noisy, off the grid, with specks and touching things. It has no learned
weights that a model could exploit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from latentbridge.data.shapes.render import CELL_CENTRES_PX, IMAGE_SIZE_PX, thing_mask
from latentbridge.data.shapes.scenes import BACKGROUNDS, COLOURS, JITTER_PX, SHAPES, SIZES, Scene, Thing

_SMOOTHING_PX = 0.6
"""Sigma of the blur before segmentation; matching uses the sharp pixels."""
_FOREGROUND = 0.4
"""Least coverage of a thing's pixel; below one half, so that thin arms survive a blur."""
_SMALLEST_AREA_PX = 20
"""Smaller blobs are specks: a small star covers 45 px, and 30 px after a blur of 2 px."""
_LARGEST_EXTENT_PX = 22
"""Longer blobs are touching things (the largest spans 17 px) and are cut along the cells."""
_MAX_CUT_OFFSET_PX = 6.0
"""Largest distance from a piece's centre to its cell's; farther pieces are overhangs of a neighbour."""
_GROWTH_PX = 3
"""Width of the soft edge around a blob that is matched with it."""
_SOLID = 0.8
"""Share of a blob's contrast (its 90th percentile) from which a pixel is free of background."""
_BACKGROUND_RANGE = 45.0
"""Levels around the median that count as background; every colour is 140 levels off in some channel."""
_HALF_WINDOW_PX = 12
_BLURS_PX = (0.0, 0.8, 1.4, 2.0, 2.7)
_SHIFTS_PX = (-0.4, 0.0, 0.4)

_BACKGROUND_NAMES, _COLOUR_NAMES = tuple(BACKGROUNDS), tuple(COLOURS)
_BACKGROUND_COLOURS = np.array(list(BACKGROUNDS.values()), dtype=np.float32)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_CENTRES = np.array([(y, x) for y in CELL_CENTRES_PX for x in CELL_CENTRES_PX], dtype=np.float32)
"""(y, x) of each cell's centre, in the order of `PLACES`."""
_NEAREST_CELL = np.abs(np.arange(IMAGE_SIZE_PX)[:, None] - np.array(CELL_CENTRES_PX)).argmin(axis=1)
PLACE_OF_PIXEL = _NEAREST_CELL[:, None] * 3 + _NEAREST_CELL[None, :]
"""int [64, 64]: the index into `PLACES` of each pixel's cell."""


def read_scene(image: np.ndarray) -> Scene:
    """Return the scene in any uint8 [64, 64, 3] image.

    The scene may be invalid: no thing, more than four, or two in one cell. Offsets are clipped to `JITTER_PX`, so every
    scene can be rendered.
    """
    pixels = image.astype(np.float32)
    background = _read_background(pixels)
    name = _BACKGROUND_NAMES[_nearest(background, _BACKGROUND_COLOURS)]
    contrast = pixels - background
    labels, count = _segment(ndimage.gaussian_filter(contrast, (_SMOOTHING_PX, _SMOOTHING_PX, 0)), background)
    if count == 0:
        return Scene((), name)
    grown = np.where(labels > 0, labels, ndimage.maximum_filter(labels, size=2 * _GROWTH_PX + 1))
    blobs = [_read_blob(contrast, labels, grown, label, background) for label in range(1, count + 1)]
    names, offsets, bank = _templates()
    scores = (bank @ np.stack([coverage.ravel() for coverage, _, _ in blobs], axis=1)).reshape(len(names), -1, count)
    things = []
    for (_, colour, centre), best in zip(blobs, scores.max(axis=1).argmax(axis=0), strict=True):
        shape, size = names[best]
        centre = centre - offsets[best]
        place = _nearest(centre, _CENTRES)
        y, x = np.clip(np.rint(centre - _CENTRES[place]), -JITTER_PX, JITTER_PX).astype(int)
        things.append(Thing(place, shape, colour, size, offset_px=(int(x), int(y))))
    return Scene.from_things(things, name)


def _nearest(point: np.ndarray, candidates: np.ndarray) -> int:
    """Return the row of `candidates` [n, d] nearest to a point [d]."""
    return int(((candidates - point) ** 2).sum(axis=1).argmin())


def _read_background(pixels: np.ndarray) -> np.ndarray:
    """Return the background colour [3], the median of the pixels near the image's median."""
    flat = pixels.reshape(-1, 3)
    median = np.median(flat[::3], axis=0)
    near = flat[np.abs(flat - median).max(axis=1) < _BACKGROUND_RANGE]
    return np.median(near[::2], axis=0) if len(near) else median


def _segment(contrast: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, int]:
    """Return labels int [64, 64], one per thing and 0 for background, and the number of things."""
    rays = _PALETTE - background
    lengths = np.maximum(np.linalg.norm(rays, axis=1), 1.0)
    along = contrast @ (rays / lengths[:, None]).T
    coverage = np.take_along_axis(along / lengths, along.argmax(axis=2)[..., None], axis=2)[..., 0]
    blobs: np.ndarray = ndimage.label(coverage > _FOREGROUND, structure=np.ones((3, 3)))[0]  # pyright: ignore
    labels, count = np.zeros_like(blobs), 0
    for label, box in enumerate(ndimage.find_objects(blobs), start=1):
        inside = blobs[box] == label
        if np.count_nonzero(inside) < _SMALLEST_AREA_PX:
            continue
        for piece in _cut(inside, box):
            count += 1
            labels[box][piece] = count
    return labels, count


def _cut(inside: np.ndarray, box: tuple[slice, slice]) -> list[np.ndarray]:
    """Return the masks of the things in a blob: itself, or one per cell if it is too long for one thing."""
    if max(inside.shape) <= _LARGEST_EXTENT_PX:
        return [inside]
    places, pieces = PLACE_OF_PIXEL[box], []
    for place in np.unique(places[inside]):
        piece = inside & (places == place)
        if np.count_nonzero(piece) < _SMALLEST_AREA_PX:
            continue
        rows, columns = np.nonzero(piece)
        centre = np.array([rows.mean() + box[0].start, columns.mean() + box[1].start])
        if np.linalg.norm(centre - _CENTRES[place]) < _MAX_CUT_OFFSET_PX:
            pieces.append(piece)
    return pieces


def _read_blob(
    contrast: np.ndarray, labels: np.ndarray, grown: np.ndarray, label: int, background: np.ndarray
) -> tuple[np.ndarray, str, np.ndarray]:
    """Return a blob's coverage [25, 25] around its centre of mass, its colour, and that centre (y, x)."""
    inside = labels == label
    pixels = contrast[inside]
    strength = np.sqrt((pixels**2).sum(axis=1))
    solid = pixels[strength >= _SOLID * np.sort(strength)[int(0.9 * len(strength))]]
    ray, colour = _read_colour(np.median(solid, axis=0), background)
    coverage = np.clip(contrast @ (ray / max(ray @ ray, 1.0)), -0.5, 1.2)
    centre = _centre_of_mass(np.where(inside, np.maximum(coverage, 0.01), 0.0))
    return _crop(np.where(grown == label, coverage, 0.0), centre), colour, centre


def _read_colour(contrast: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the ray from the background to the colour, and its name; colours may be pale from blur."""
    rays = _PALETTE - background
    amount = np.clip((rays @ contrast) / np.maximum((rays**2).sum(axis=1), 1.0), 0.6, 1.0)
    best = int(((amount[:, None] * rays - contrast) ** 2).sum(axis=1).argmin())
    return rays[best], _COLOUR_NAMES[best]


def _centre_of_mass(weights: np.ndarray) -> np.ndarray:
    """Return (y, x); the weights are not negative and have a positive sum."""
    rows = weights.sum(axis=1) @ np.arange(weights.shape[0])
    columns = weights.sum(axis=0) @ np.arange(weights.shape[1])
    return np.array([rows, columns], dtype=np.float32) / weights.sum()


def _crop(field: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the window [25, 25] around a sub-pixel point, bilinear, zero-padded."""
    margin = _HALF_WINDOW_PX + 1
    padded = np.zeros((field.shape[0] + 2 * margin, field.shape[1] + 2 * margin), dtype=np.float32)
    padded[margin:-margin, margin:-margin] = field
    (top, left), (v, u) = np.floor(centre).astype(int), centre - np.floor(centre)
    part = padded[top + 1 : top + 2 * margin + 1, left + 1 : left + 2 * margin + 1]
    part = part[:-1] * (1 - v) + part[1:] * v
    return part[:, :-1] * (1 - u) + part[:, 1:] * u


@lru_cache(maxsize=1)
def _templates() -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """Return names (shape, size) [12], offsets (y, x) of their centres of mass [12, 2], unit rows [12 * variants, 625].

    A variant is a blur and a sub-pixel shift; rows of one name are adjacent.
    """
    names = [(shape, size) for shape in SHAPES for size in SIZES]
    offsets, rows = [], []
    for name in names:
        mask = np.pad(thing_mask(*name), 8)
        centre = _centre_of_mass(np.where(mask > _FOREGROUND, mask, 0.0))
        offsets.append(centre - mask.shape[0] // 2)
        for blur in _BLURS_PX:
            soft = ndimage.gaussian_filter(mask, blur) if blur else mask
            soft = np.where(ndimage.maximum_filter(soft, size=2 * _GROWTH_PX + 1) > _FOREGROUND, soft, 0.0)
            rows += [_crop(soft, centre + (v, u)).ravel() for v in _SHIFTS_PX for u in _SHIFTS_PX]
    bank = np.stack(rows).astype(np.float32)
    return names, np.stack(offsets), bank / np.linalg.norm(bank, axis=1, keepdims=True)
