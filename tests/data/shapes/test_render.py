from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from latentbridge.data.shapes.render import CELL_CENTRES_PX, IMAGE_SIZE_PX, RADIUS_PX, render, thing_mask
from latentbridge.data.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    JITTER_PX,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    sample_scene,
)
from latentbridge.rng import numpy_rng


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_scene_is_plain(background: str) -> None:
    image = render(Scene((), background))
    assert image.shape == (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3) and image.dtype == np.uint8
    assert (image == BACKGROUNDS[background]).all()


@pytest.mark.parametrize(("colour", "place"), list(zip(COLOURS, range(len(COLOURS)), strict=True)))
def test_the_centre_of_a_thing_has_its_colour(colour: str, place: int) -> None:
    thing = Thing(place, "circle", colour, "small", offset_px=(1, -1))
    x, y = CELL_CENTRES_PX[place % 3] + 1, CELL_CENTRES_PX[place // 3] - 1
    assert tuple(render(Scene((thing,), "white"))[y, x]) == COLOURS[colour]


@pytest.mark.parametrize(
    ("shape", "area"),
    [("square", 4.0), ("circle", np.pi), ("triangle", 2.0), ("diamond", 2.0), ("cross", 4 - 4 * 0.66**2)],
)
@pytest.mark.parametrize("size", SIZES)
def test_masks_cover_the_area_of_their_shape(shape: str, size: str, area: float) -> None:
    """Within 4 %: drawing at eight samples a pixel, borders included, adds up to half a sample on each side."""
    radius = RADIUS_PX[size]
    assert thing_mask(shape, size).sum() == pytest.approx(area * radius**2, rel=0.04)


@pytest.mark.parametrize(("shape", "size"), list(product(SHAPES, SIZES)))
def test_masks_fill_their_square(shape: str, size: str) -> None:
    mask, reach = thing_mask(shape, size), int(RADIUS_PX[size])
    middle = mask.shape[0] // 2
    assert mask.dtype == np.float32 and mask.min() == 0.0 and mask.max() == 1.0
    for profile in (mask.max(axis=0), mask.max(axis=1)):
        assert profile[middle - reach] > 0.0 and profile[middle + reach] > 0.0
        assert profile[: middle - reach - 1].max(initial=0.0) == 0.0


@pytest.mark.parametrize("size", SIZES)
def test_shapes_differ(size: str) -> None:
    for first, second in product(SHAPES, SHAPES):
        if first != second:
            a, b = thing_mask(first, size), thing_mask(second, size)
            assert np.minimum(a, b).sum() / np.maximum(a, b).sum() < 0.9


def test_neighbours_never_touch() -> None:
    """Large squares in all cells, moved towards each other, leave a line of background between them."""
    for x, y in product((-JITTER_PX, JITTER_PX), repeat=2):
        things = [
            Thing(p, "square", "black", "large", (x if p % 3 == 1 else -x, y if p // 3 == 1 else -y))
            for p in range(len(PLACES))
        ]
        image = render(Scene(tuple(things), "white"))
        plain = (image == BACKGROUNDS["white"]).all(axis=2)
        assert plain.all(axis=0)[18:26].any() and plain.all(axis=0)[38:46].any()
        assert plain.all(axis=1)[18:26].any() and plain.all(axis=1)[38:46].any()


def test_things_change_only_their_cell() -> None:
    plain = render(Scene((), "sand"))
    image = render(Scene((Thing(4, "star", "blue", "large", (1, 1)),), "sand"))
    rows, columns = np.nonzero((image != plain).any(axis=2))
    assert rows.min() >= 22 and rows.max() <= 42 and columns.min() >= 22 and columns.max() <= 42


def test_rendering_is_deterministic_and_applies_the_offset() -> None:
    scene = sample_scene(numpy_rng(0, "render"))
    assert (render(scene) == render(scene)).all()
    still, moved = (Scene((Thing(0, "cross", "red", "small", (x, 0)),), "sky") for x in (0, 1))
    assert still == moved
    assert (np.roll(render(still), 1, axis=1) == render(moved)).all()
