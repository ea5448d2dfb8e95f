from __future__ import annotations

from itertools import islice

import pytest

from latentbridge.data.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    JITTER_PX,
    MAX_THINGS,
    SHAPES,
    SPLITS,
    Scene,
    Split,
    Thing,
    distinct_scenes,
    relation_holds,
    sample_scene,
    scenes,
    split_of,
)
from latentbridge.rng import numpy_rng


def draw(split: Split, count: int, seed: int = 0) -> list[Scene]:
    return list(islice(scenes(split, numpy_rng(seed, "test scenes")), count))


def test_scenes_that_differ_in_offsets_are_equal() -> None:
    thing = Thing(4, "circle", "red", "small")
    moved = Thing(4, "circle", "red", "small", offset_px=(1, -1))
    assert Scene((thing,), "white") == Scene((moved,), "white")
    assert Scene((thing,), "white").digest() == Scene((moved,), "white").digest()
    assert Scene((thing,), "white") != Scene((thing,), "gray")


def test_from_things_sorts_in_reading_order() -> None:
    last, first = Thing(8, "star", "blue", "small"), Thing(0, "star", "blue", "small")
    assert Scene.from_things([last, first], "sky").things == (first, last)


def test_row_and_column_are_row_major() -> None:
    cells = [(thing.row, thing.column) for place in (0, 2, 5, 7) if (thing := Thing(place, "star", "blue", "small"))]
    assert cells == [(0, 0), (0, 2), (1, 2), (2, 1)]


def test_digest_is_the_same_in_every_process() -> None:
    """The splits of published runs depend on this value."""
    scene = Scene.from_things([Thing(0, "circle", "red", "large"), Thing(8, "star", "blue", "small")], "white")
    assert scene.digest() == 13744649539310461749


@pytest.mark.parametrize(
    ("relation", "first", "second", "expected"),
    [
        ("left of", 3, 5, True),
        ("left of", 5, 3, False),
        ("left of", 1, 4, False),
        ("right of", 2, 6, True),
        ("above", 2, 3, True),
        ("above", 3, 5, False),
        ("below", 8, 0, True),
    ],
)
def test_relations_compare_rows_and_columns(relation: str, first: int, second: int, expected: bool) -> None:
    assert relation_holds(relation, first, second) is expected


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_yields_its_own_scenes(split: Split) -> None:
    sampled = draw(split, 40)
    assert all(split_of(scene) == split for scene in sampled)
    assert {len(scene.things) for scene in sampled} == set(range(1, MAX_THINGS + 1))


def test_splits_are_disjoint() -> None:
    sampled = {split: set(draw(split, 300)) for split in SPLITS}
    assert sum(map(len, sampled.values())) == len(set().union(*sampled.values()))


def test_held_out_pairs_appear_only_in_their_split() -> None:
    def pairs(scene: Scene) -> set[tuple[str, str]]:
        return {(thing.colour, thing.shape) for thing in scene.things}

    for split in SPLITS[:3]:
        assert not any(pairs(scene) & HELD_OUT_PAIRS for scene in draw(split, 200))
    sampled = draw("test_pairs", 200)
    assert all(pairs(scene) & HELD_OUT_PAIRS for scene in sampled)
    assert set.union(*(pairs(scene) for scene in sampled)) >= HELD_OUT_PAIRS


def test_every_held_out_shape_and_colour_is_seen_in_training() -> None:
    pairs_in_training = {(thing.colour, thing.shape) for scene in draw("train", 2000) for thing in scene.things}
    assert pairs_in_training == {(colour, shape) for colour in COLOURS for shape in SHAPES} - HELD_OUT_PAIRS


def test_sampling_is_a_function_of_the_generator() -> None:
    def with_offsets(seed: int) -> list[str]:
        return [repr(scene) for scene in draw("train", 20, seed)]

    assert with_offsets(3) == with_offsets(3)
    assert with_offsets(3) != with_offsets(4)


def test_sampled_scenes_are_valid() -> None:
    rng = numpy_rng(0, "grammar")
    for _ in range(300):
        scene = sample_scene(rng)
        places = [thing.place for thing in scene.things]
        assert places == sorted(set(places)) and 1 <= len(places) <= MAX_THINGS
        assert scene.background in BACKGROUNDS
        assert all(abs(offset) <= JITTER_PX for thing in scene.things for offset in thing.offset_px)


def test_num_things_is_exact() -> None:
    assert {len(s.things) for s in islice(scenes("test", numpy_rng(0, "three"), num_things=3), 20)} == {3}


def test_distinct_scenes_are_distinct() -> None:
    sampled = distinct_scenes("val", numpy_rng(0, "distinct"), 60, num_things=1)
    assert len(sampled) == len(set(sampled)) == 60
