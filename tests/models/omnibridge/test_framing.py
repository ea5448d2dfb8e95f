"""Edits of pictures of any size: the window that the model sees, and its result put back into the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from latentbridge.errors import UserError
from latentbridge.images import fit_square
from latentbridge.models.omnibridge.framing import Frame
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.types import EditResult, Picture

SKY, RED, GREEN = (200, 225, 248), (220, 40, 40), (30, 160, 60)
SIDE = 64


def disc(width: int, height: int, centre: tuple[int, int], radius: int) -> tuple[Picture, np.ndarray]:
    """Return a picture of a red disc on the sky, and the mask of the disc."""
    rows, columns = np.mgrid[:height, :width]
    inside = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2
    return np.where(inside[..., None], RED, SKY).astype(np.uint8), inside


def recoloured(view: Picture) -> EditResult:
    """Return the edit of a window that makes red green."""
    red = (view[..., 0] > 150) & (view[..., 1] < 150)
    return EditResult(np.where(red[..., None], GREEN, view).astype(np.uint8), "red", "green", red)


@pytest.mark.parametrize(
    ("width", "height", "centre", "radius"),
    [
        (640, 320, (140, 160), 80),
        (640, 320, (500, 160), 80),
        (300, 500, (150, 370), 70),
        (1000, 1000, (400, 600), 150),
        (517, 33, (100, 16), 10),
        (40, 24, (12, 12), 6),
        (640, 320, (320, 160), 150),
    ],
)
def test_a_change_comes_back_at_the_pictures_size(width: int, height: int, centre: tuple[int, int], radius: int):
    picture, inside = disc(width, height, centre, radius)
    frame = Frame.of(picture)
    view = frame.crop(picture, SIDE)
    assert view.shape == (SIDE, SIDE, 3) and np.abs(view[0].astype(int) - SKY).max() < 40, "bands would be white"
    result = frame.restore(picture, recoloured(view))
    assert result.picture.shape == picture.shape and result.mask is not None and result.mask.shape == inside.shape
    assert np.array_equal(result.picture[~result.mask], picture[~result.mask])
    assert np.array_equal(result.picture[0, -1], SKY) and not result.mask[0, -1]
    green = np.abs(result.picture.astype(int) - GREEN).max(axis=-1) < 60
    assert (green & inside).sum() > 0.85 * inside.sum()
    assert (result.mask & ~inside).sum() < 2.5 * np.pi * 2 * radius * max(2, frame.side / SIDE)


def test_content_that_spans_a_picture_is_in_the_window():
    picture, _ = disc(640, 320, (70, 160), 50)
    picture[140:180, 560:600] = RED
    view = Frame.of(picture).crop(picture, SIDE)
    assert len(np.flatnonzero((view[SIDE // 2] == view[SIDE // 2].max(axis=0)).all(axis=-1))) < SIDE
    reds = np.flatnonzero(view[SIDE // 2, :, 1] < 130)
    assert reds.min() < SIDE // 4 and reds.max() > SIDE * 3 // 4


def test_a_new_background_reaches_beyond_the_window():
    picture, inside = disc(640, 320, (140, 160), 60)
    frame = Frame.of(picture)
    assert frame.side < 640
    view = frame.crop(picture, SIDE)
    red = view[..., 1] < 130
    changed = EditResult(np.where(red[..., None], view, (20, 20, 20)).astype(np.uint8), mask=~red)
    result = frame.restore(picture, changed)
    assert np.abs(result.picture[~inside][::7].astype(int) - 20).mean() < 8
    assert np.abs(result.picture[160, 600].astype(int) - 20).max() <= 1 and result.mask is not None
    assert result.mask[160, 600] and np.array_equal(result.picture[160, 140], RED)


def test_a_square_picture_is_seen_as_everywhere_else():
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    assert np.array_equal(Frame.of(picture).crop(picture, SIDE), fit_square(picture, SIDE))
    exact = fit_square(picture, SIDE)
    result = recoloured(exact)
    assert Frame.of(exact).crop(exact, SIDE) is exact and Frame.of(exact).restore(exact, result) is result


def test_a_photograph_is_seen_whole():
    picture = np.random.default_rng(0).integers(0, 256, (100, 300, 3), dtype=np.uint8)
    assert Frame.of(picture).side == 300
    flat = np.full((50, 400, 3), 7, np.uint8)
    assert (Frame.of(flat).crop(flat, SIDE) == 7).all()


def test_long_thin_pictures_take_little_memory():
    picture = np.zeros((4, 16_000, 3), np.uint8)
    picture[:, ::2] = 255
    view = Frame.of(picture).crop(picture, SIDE)
    result = Frame.of(picture).restore(picture, EditResult(255 - view, mask=np.ones((SIDE, SIDE), bool)))
    assert view.shape == (SIDE, SIDE, 3) and result.picture.shape == picture.shape


@pytest.mark.parametrize("method", ["masked", "reference"])
def test_an_edit_has_the_pictures_size_and_pixels(small_model: OmniBridge, method: str):
    pictures = [disc(160, 90, (45, 45), 30)[0], disc(90, 200, (45, 100), 30)[0], disc(64, 64, (30, 30), 20)[0]]
    for picture, result in zip(
        pictures, small_model.edit(pictures, "make the circle green", 3, steps=2, method=method), strict=True
    ):
        assert result.picture.shape == picture.shape and result.mask is not None
        assert result.mask.shape == picture.shape[:2]
        assert np.array_equal(result.picture[~result.mask], picture[~result.mask])
    with pytest.raises(UserError, match="own size"):
        small_model.edit(pictures[0], "make the circle green", size=(64, 64))


def test_pictures_in_any_form_have_their_own_size(small_model: OmniBridge):
    layer = Image.fromarray(disc(120, 60, (30, 30), 20)[0]).convert("RGBA")
    layer.putalpha(128)
    for image in (layer, np.asarray(layer.convert("L"))):
        assert small_model.edit(image, "remove the circle", steps=1).picture.shape == (60, 120, 3)
