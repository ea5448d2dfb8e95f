"""The oracle: what a picture of the `shapes` world shows, read back from its pixels alone.

It reads pictures that a model drew as well as rendered ones: blurry, noisy, off the grid, with specks and
with things that touch. It is classical template matching, so a model cannot learn to please it by accident.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from latentbridge.data.shapes.render import CELL_CENTRES_PX, IMAGE_SIZE_PX, thing_mask
from latentbridge.data.shapes.scenes import BACKGROUNDS, COLOURS, JITTER_PX, SHAPES, SIZES, Scene, Thing

_SMOOTHING_PX = 0.6
"""Gaussian blur before segmentation; matching uses the unblurred pixels."""
_FOREGROUND = 0.4
"""Coverage from which a pixel belongs to a thing. Below one half, so that thin arms survive a blur."""
_SMALLEST_AREA_PX = 20
"""Blobs below this are specks: the smallest thing, a small star, covers 45 px and keeps 30 px under a blur of 2 px."""
_LARGEST_EXTENT_PX = 22
"""Blobs longer than this are several things that touch (the largest thing spans 17 px) and are cut along the cells."""
_CUT_REACH_PX = 6.0
"""A piece cut off along the cells counts only if its middle lies this near to a cell centre; else it is an overhang."""
_GROWTH_PX = 3
"""Soft edges taken into the match around a blob."""
_SOLID = 0.8
"""Share of a blob's contrast (its 90th percentile) from which a pixel shows the colour without the background."""
_GROUND_REACH = 45.0
"""Levels around the median within which a pixel shows background; every colour is 140 levels off in some channel."""
_HALF_WINDOW_PX = 12
_BLURS_PX = (0.0, 0.8, 1.4, 2.0, 2.7)
_SHIFTS_PX = (-0.4, 0.0, 0.4)

_GROUND_NAMES, _COLOUR_NAMES = tuple(BACKGROUNDS), tuple(COLOURS)
_GROUNDS = np.array(list(BACKGROUNDS.values()), dtype=np.float32)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_CENTRES = np.array([(y, x) for y in CELL_CENTRES_PX for x in CELL_CENTRES_PX], dtype=np.float32)
"""(y, x) of the middle of each cell, in the order of `PLACES`."""
_NEAREST_CELL = np.abs(np.arange(IMAGE_SIZE_PX)[:, None] - np.array(CELL_CENTRES_PX)).argmin(axis=1)
PLACE_OF_PIXEL = _NEAREST_CELL[:, None] * 3 + _NEAREST_CELL[None, :]
"""int [64, 64]: the index into `PLACES` of the cell that a pixel belongs to."""


def read_scene(image: np.ndarray) -> Scene:
    """The scene in any uint8 [64, 64, 3] picture; never raises on one.

    The scene may lie outside the grammar: no thing, more than four, or two in one cell. Each thing keeps its
    displacement from the middle of its cell, cut to what a scene allows, so every reading can be rendered.
    """
    pixels = image.astype(np.float32)
    ground = _read_ground(pixels)
    name = _GROUND_NAMES[_nearest(ground, _GROUNDS)]
    contrast = pixels - ground
    labels, count = _segment(ndimage.gaussian_filter(contrast, (_SMOOTHING_PX, _SMOOTHING_PX, 0)), ground)
    if count == 0:
        return Scene((), name)
    grown = np.where(labels > 0, labels, ndimage.maximum_filter(labels, size=2 * _GROWTH_PX + 1))
    read = [_window(contrast, labels, grown, label, ground) for label in range(1, count + 1)]
    names, offsets, bank = _templates()
    scores = (bank @ np.stack([window.ravel() for window, _, _ in read], axis=1)).reshape(len(names), -1, count)
    things = []
    for (_, colour, middle), best in zip(read, scores.max(axis=1).argmax(axis=0), strict=True):
        shape, size = names[best]
        things.append(_place(middle - offsets[best], shape, colour, size))
    return Scene.from_things(things, name)


def _nearest(point: np.ndarray, known: np.ndarray) -> int:
    """The row of `known` [n, d] nearest to a point [d]."""
    return int(((known - point) ** 2).sum(axis=1).argmin())


def _read_ground(pixels: np.ndarray) -> np.ndarray:
    """The background colour [3]: the median of the pixels near the picture's median, which things cannot shift far."""
    flat = pixels.reshape(-1, 3)
    middle = np.median(flat[::3], axis=0)
    near = flat[np.abs(flat - middle).max(axis=1) < _GROUND_REACH]
    return np.median(near[::2], axis=0) if len(near) else middle


def _segment(contrast: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels int [64, 64] (0 is background) and how many there are, one label a thing."""
    rays = _PALETTE - ground
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
    """The masks of the things in a blob: itself, or one a cell where it is too long to be one thing."""
    if max(inside.shape) <= _LARGEST_EXTENT_PX:
        return [inside]
    places, pieces = PLACE_OF_PIXEL[box], []
    for place in np.unique(places[inside]):
        piece = inside & (places == place)
        if np.count_nonzero(piece) < _SMALLEST_AREA_PX:
            continue
        rows, columns = np.nonzero(piece)
        middle = np.array([rows.mean() + box[0].start, columns.mean() + box[1].start])
        if np.linalg.norm(middle - _CENTRES[place]) < _CUT_REACH_PX:
            pieces.append(piece)
    return pieces


def _window(
    contrast: np.ndarray, labels: np.ndarray, grown: np.ndarray, label: int, ground: np.ndarray
) -> tuple[np.ndarray, str, np.ndarray]:
    """A blob's coverage [25, 25] around its centre of mass, its colour, and that centre (y, x)."""
    inside = labels == label
    seen = contrast[inside]
    strength = np.sqrt((seen**2).sum(axis=1))
    solid = seen[strength >= _SOLID * np.sort(strength)[int(0.9 * len(strength))]]
    ray, colour = _read_colour(np.median(solid, axis=0), ground)
    coverage = np.clip(contrast @ (ray / max(ray @ ray, 1.0)), -0.5, 1.2)
    middle = _centre_of_mass(np.where(inside, np.maximum(coverage, 0.01), 0.0))
    return _crop(np.where(grown == label, coverage, 0.0), middle), colour, middle


def _read_colour(contrast: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, str]:
    """The ray from the background to the seen colour and the colour's name; a blob paled by blur still counts."""
    rays = _PALETTE - ground
    amount = np.clip((rays @ contrast) / np.maximum((rays**2).sum(axis=1), 1.0), 0.6, 1.0)
    best = int(((amount[:, None] * rays - contrast) ** 2).sum(axis=1).argmin())
    return rays[best], _COLOUR_NAMES[best]


def _centre_of_mass(weights: np.ndarray) -> np.ndarray:
    """(y, x) of weights that are nowhere negative and somewhere positive."""
    rows = weights.sum(axis=1) @ np.arange(weights.shape[0])
    columns = weights.sum(axis=0) @ np.arange(weights.shape[1])
    return np.array([rows, columns], dtype=np.float32) / weights.sum()


def _crop(field: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The window [25, 25] around a point between pixels, read bilinearly; outside the picture is 0."""
    margin = _HALF_WINDOW_PX + 1
    padded = np.zeros((field.shape[0] + 2 * margin, field.shape[1] + 2 * margin), dtype=np.float32)
    padded[margin:-margin, margin:-margin] = field
    (top, left), (v, u) = np.floor(middle).astype(int), middle - np.floor(middle)
    part = padded[top + 1 : top + 2 * margin + 1, left + 1 : left + 2 * margin + 1]
    part = part[:-1] * (1 - v) + part[1:] * v
    return part[:, :-1] * (1 - u) + part[:, 1:] * u


def _place(middle: np.ndarray, shape: str, colour: str, size: str) -> Thing:
    """The thing whose square is centred nearest to `middle` (y, x)."""
    place = _nearest(middle, _CENTRES)
    y, x = np.clip(np.rint(middle - _CENTRES[place]), -JITTER_PX, JITTER_PX).astype(int)
    return Thing(place, shape, colour, size, offset_px=(int(x), int(y)))


@lru_cache(maxsize=1)
def _templates() -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """Names (shape, size) [12], their centres of mass (y, x) from the middle [12, 2], unit rows [12 * variants, 625].

    A variant is a blur and a sub-pixel shift; rows of one name follow each other.
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
