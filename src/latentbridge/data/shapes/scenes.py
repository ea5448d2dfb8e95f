"""The `shapes` world: what a scene is, how one is sampled, and which scenes are held out.

A scene is one to four things on a plain background. Every thing sits in its own cell of
a 3 x 3 grid, so counts, places and relations are never ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 215, 30),
    "green": (50, 160, 60),
    "cyan": (40, 195, 205),
    "blue": (45, 80, 210),
    "purple": (140, 55, 180),
    "black": (30, 30, 30),
}
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "gray": (195, 195, 195),
    "sky": (200, 225, 248),
    "sand": (242, 226, 190),
}
RELATIONS = ("left of", "right of", "above", "below")
MAX_THINGS = 4
JITTER_PX = 1

Split = Literal["train", "val", "test", "test_pairs"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "test_pairs")

HELD_OUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("orange", "cross"),
        ("green", "circle"),
        ("cyan", "triangle"),
        ("blue", "diamond"),
        ("purple", "square"),
    }
)
"""Colour-shape pairs that no training, validation or `test` scene contains; each shape and each colour loses one at most."""


@dataclass(frozen=True, order=True)
class Thing:
    """One object of a scene."""

    place: int
    """Index into `PLACES`, row-major over the 3 x 3 grid."""
    shape: str
    colour: str
    size: str
    offset_px: tuple[int, int] = field(default=(0, 0), compare=False)
    """(x, y) displacement from the middle of the cell: a nuisance, not part of what the scene says."""

    @property
    def row(self) -> int:
        return self.place // 3

    @property
    def column(self) -> int:
        return self.place % 3


@dataclass(frozen=True)
class Scene:
    """Things in reading order on a background; equal scenes say the same."""

    things: tuple[Thing, ...]
    background: str

    @classmethod
    def from_things(cls, things: Iterator[Thing] | list[Thing] | tuple[Thing, ...], background: str) -> Scene:
        """A scene with its things put in reading order."""
        return cls(tuple(sorted(things, key=lambda thing: thing.place)), background)

    def digest(self) -> int:
        """A 64-bit content hash, the same in every process; decides the split."""
        text = repr([(t.place, t.shape, t.colour, t.size) for t in self.things]) + self.background
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def relation_holds(relation: str, first: Thing, second: Thing) -> bool:
    """Whether `first` is left of, right of, above or below `second`; cells in one column are neither left nor right."""
    return {
        "left of": first.column < second.column,
        "right of": first.column > second.column,
        "above": first.row < second.row,
        "below": first.row > second.row,
    }[relation]


def split_of(scene: Scene) -> Split:
    """The split a scene belongs to: a held-out colour-shape pair decides first, then the content hash (4 % val, 4 % test)."""
    if any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in scene.things):
        return "test_pairs"
    bucket = scene.digest() % 100
    return "val" if bucket < 4 else "test" if bucket < 8 else "train"


def sample_thing(rng: np.random.Generator, place: int) -> Thing:
    """A thing with independent uniform attributes at a given place."""
    return Thing(
        place=place,
        shape=SHAPES[rng.integers(len(SHAPES))],
        colour=list(COLOURS)[rng.integers(len(COLOURS))],
        size=SIZES[rng.integers(len(SIZES))],
        offset_px=_sample_offset(rng),
    )


def sample_scene(rng: np.random.Generator, num_things: int | None = None, alike: float = 0.3) -> Scene:
    """A scene of one to four things; with probability `alike` they share one shape (or one colour), so that counting is needed."""
    count = num_things or int(rng.integers(1, MAX_THINGS + 1))
    places = rng.choice(len(PLACES), size=count, replace=False)
    things = [sample_thing(rng, int(place)) for place in places]
    if count > 1 and rng.random() < alike:
        first = things[0]
        same_colour = rng.random() < 0.5
        things = [replace(t, shape=first.shape, colour=first.colour if same_colour else t.colour) for t in things]
    return Scene.from_things(things, list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))])


def scenes(split: Split, rng: np.random.Generator, num_things: int | None = None) -> Iterator[Scene]:
    """Endless scenes of one split, by rejection; `test_pairs` scenes each hold an unseen colour-shape pair."""
    while True:
        scene = sample_scene(rng, num_things)
        if split == "test_pairs" and split_of(scene) != "test_pairs":
            scene = _with_held_out_pair(scene, rng)
        if split_of(scene) == split:
            yield scene


def distinct_scenes(split: Split, rng: np.random.Generator, count: int, num_things: int | None = None) -> list[Scene]:
    """`count` scenes of one split, no two of which say the same."""
    found: dict[Scene, None] = {}
    for scene in scenes(split, rng, num_things):
        found.setdefault(scene)
        if len(found) == count:
            break
    return list(found)


def _with_held_out_pair(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.things)))
    colour, shape = sorted(HELD_OUT_PAIRS)[rng.integers(len(HELD_OUT_PAIRS))]
    things = list(scene.things)
    things[index] = replace(things[index], colour=colour, shape=shape)
    return Scene.from_things(things, scene.background)


def _sample_offset(rng: np.random.Generator) -> tuple[int, int]:
    x, y = rng.integers(-JITTER_PX, JITTER_PX + 1, size=2)
    return int(x), int(y)
