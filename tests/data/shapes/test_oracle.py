from __future__ import annotations

from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from latentbridge.data.shapes.oracle import PLACE_OF_PIXEL, read_scene
from latentbridge.data.shapes.render import CELL_CENTRES_PX, render
from latentbridge.data.shapes.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, SPLITS, Scene, Thing, scenes
from latentbridge.rng import numpy_rng

ONE = Scene((Thing(4, "star", "blue", "large"),), "white")
TWO = Scene((Thing(0, "circle", "red", "small"), Thing(5, "cross", "green", "large")), "sand")


def blur(image: np.ndarray, sigma_px: float) -> np.ndarray:
    return np.rint(ndimage.gaussian_filter(image.astype(np.float32), (sigma_px, sigma_px, 0))).astype(np.uint8)


def add_noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    noise = numpy_rng(seed, "oracle noise").normal(0.0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def count_wrong(per_split: int) -> int:
    sampled = [scene for split in SPLITS for scene in islice(scenes(split, numpy_rng(1, f"oracle {split}")), per_split)]
    return sum(read_scene(render(scene)) != scene for scene in sampled)


def test_reads_clean_pictures_of_every_split() -> None:
    assert count_wrong(125) == 0


@pytest.mark.slow
def test_reads_999_of_1000_clean_pictures() -> None:
    assert count_wrong(2500) <= 10


@pytest.mark.parametrize(("shape", "size"), list(product(SHAPES, SIZES)))
def test_reads_each_shape_in_every_place(shape: str, size: str) -> None:
    for place, (colour, background) in zip(range(len(PLACES)), product(COLOURS, BACKGROUNDS), strict=False):
        scene = Scene((Thing(place, shape, colour, size, (1, -1)),), background)
        assert read_scene(render(scene)) == scene


@pytest.mark.parametrize(("colour", "background"), list(product(COLOURS, BACKGROUNDS)))
def test_reads_each_colour_on_every_background(colour: str, background: str) -> None:
    scene = Scene((Thing(2, "star", colour, "small"), Thing(7, "triangle", colour, "large")), background)
    assert read_scene(render(scene)) == scene


@pytest.mark.parametrize("offset", list(product((-1, 0, 1), repeat=2)))
def test_measures_the_offset(offset: tuple[int, int]) -> None:
    thing = replace(ONE.things[0], offset_px=offset)
    assert read_scene(render(replace(ONE, things=(thing,)))).things[0].offset_px == offset


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_has_no_things(background: str) -> None:
    assert read_scene(render(Scene((), background))) == Scene((), background)


def test_counts_more_things_than_the_grammar_allows() -> None:
    scene = Scene(tuple(Thing(place, "diamond", "purple", "large") for place in range(len(PLACES))), "sky")
    assert read_scene(render(scene)) == scene


def test_counts_two_things_in_one_cell() -> None:
    image = np.full((64, 64, 3), BACKGROUNDS["white"], dtype=np.uint8)
    image[6:16, 3:9] = COLOURS["red"]
    image[6:16, 13:19] = COLOURS["blue"]
    things = read_scene(image).things
    assert [(thing.place, thing.colour) for thing in things] == [(0, "red"), (0, "blue")]


@pytest.mark.parametrize("sigma", [16, 32])
@pytest.mark.parametrize("scene", [ONE, TWO])
def test_reads_through_noise(scene: Scene, sigma: float) -> None:
    assert all(read_scene(add_noise(render(scene), sigma, seed)) == scene for seed in range(5))


@pytest.mark.parametrize("sigma_px", [1.0, 2.0])
@pytest.mark.parametrize(("shape", "size"), list(product(SHAPES, SIZES)))
def test_reads_through_blur(shape: str, size: str, sigma_px: float) -> None:
    scene = Scene((Thing(1, shape, "orange", size),), "gray")
    assert read_scene(blur(render(scene), sigma_px)) == scene


@pytest.mark.parametrize("shift", [(3, 0), (-3, 2), (0.5, 0.5), (2.5, -3)])
def test_reads_things_off_the_grid(shift: tuple[float, float]) -> None:
    """Things are in the nearest cell, with a clipped offset."""
    moved = ndimage.shift(render(ONE).astype(np.float32), (*shift, 0), order=1, mode="nearest")
    scene = read_scene(np.rint(moved).astype(np.uint8))
    assert scene == ONE
    render(scene)


def test_ignores_specks() -> None:
    image = render(TWO)
    image[55:59, 10:14] = COLOURS["black"]
    image[30:32, 2:9] = COLOURS["red"]
    assert read_scene(image) == TWO


def test_separates_touching_things() -> None:
    scene = Scene(tuple(Thing(place, "square", "cyan", "large") for place in (3, 4, 6)), "white")
    image = render(scene)
    image[30:34, 19:25] = COLOURS["cyan"]
    image[40:46, 9:12] = COLOURS["cyan"]
    assert read_scene(image) == scene


def test_reads_pale_things_on_a_tinted_background() -> None:
    """Three quarters of the contrast and a colour cast of six levels, as of a weak generator."""
    background = np.array(BACKGROUNDS["white"], dtype=np.float32)
    image = background + 0.75 * (render(ONE) - background) - np.array([6.0, 0.0, 3.0])
    assert read_scene(np.rint(image).astype(np.uint8)) == ONE


def test_reads_every_changed_attribute() -> None:
    thing = TWO.things[1]
    changes = [{"shape": "diamond"}, {"colour": "cyan"}, {"size": "small"}, {"place": 8}]
    for changed in [replace(thing, **change) for change in changes]:
        scene = Scene.from_things([TWO.things[0], changed], TWO.background)
        assert read_scene(render(scene)) == scene != TWO


def test_pixels_belong_to_the_nearest_cell() -> None:
    assert PLACE_OF_PIXEL.shape == (64, 64)
    assert [int(PLACE_OF_PIXEL[y, x]) for y in CELL_CENTRES_PX for x in CELL_CENTRES_PX] == list(range(9))
    assert [int(PLACE_OF_PIXEL[0, x]) for x in (21, 22, 42, 43)] == [0, 1, 1, 2]


def check_any_picture(image: np.ndarray) -> None:
    before = image.copy()
    scene = read_scene(image)
    assert (image == before).all()
    assert scene == Scene.from_things(scene.things, scene.background) and scene.background in BACKGROUNDS
    assert all(t.shape in SHAPES and t.colour in COLOURS and t.size in SIZES for t in scene.things)
    render(scene)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (64, 64, 3)))
def test_never_raises_on_any_picture(image: np.ndarray) -> None:
    check_any_picture(image)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.sampled_from(["noise", "coarse", "ramp", "plain", "halves"]))
def test_never_raises_on_odd_pictures(seed: int, smooth: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, 64)[None, :, None].repeat(64, axis=0)
    made = {
        "noise": rng.integers(0, 256, (64, 64, 3)),
        "coarse": rng.integers(0, 256, (8, 8, 3)).repeat(8, axis=0).repeat(8, axis=1),
        "ramp": colours[0] * ramp + colours[1] * (1 - ramp),
        "plain": np.broadcast_to(colours[0], (64, 64, 3)),
        "halves": np.where(ramp < 0.5, colours[0], colours[1]),
    }[kind]
    check_any_picture(blur(made, smooth / 2) if smooth else made.astype(np.uint8))
