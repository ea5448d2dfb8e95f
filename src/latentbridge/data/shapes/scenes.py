"""The `shapes` world: scenes of one to four things on a plain background, their sampler and their splits.

Each thing has its own cell of a 3 x 3 grid, so counts, places and relations are never ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal

import numpy as np

from latentbridge.data.sampling import pick

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
    zip(
        ("red", "orange", "green", "cyan", "blue", "purple"),
        ("star", "cross", "circle", "triangle", "diamond", "square"),
        strict=True,
    )
)
"""Colour-shape pairs found in `test_pairs` scenes only; each shape and each colour is in at most one."""


@dataclass(frozen=True, order=True)
class Thing:
    """One object of a scene."""

    place: int
    """Index into `PLACES`, row-major over the 3 x 3 grid."""
    shape: str
    colour: str
    size: str
    offset_px: tuple[int, int] = field(default=(0, 0), compare=False)
    """(x, y) displacement from the centre of the cell: rendered, never described."""

    @property
    def row(self) -> int:
        return self.place // 3

    @property
    def column(self) -> int:
        return self.place % 3


@dataclass(frozen=True)
class Scene:
    """Things in reading order on a background; scenes that differ in offsets only are equal."""

    things: tuple[Thing, ...]
    background: str

    @classmethod
    def from_things(cls, things: Iterable[Thing], background: str) -> Scene:
        """Return a scene with its things in reading order."""
        return cls(tuple(sorted(things, key=lambda thing: thing.place)), background)

    def digest(self) -> int:
        """Return a 64-bit content hash that is the same in every process; it decides the split."""
        text = repr([(t.place, t.shape, t.colour, t.size) for t in self.things]) + self.background
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")

    def free_places(self) -> list[int]:
        """Return the places without a thing."""
        return [place for place in range(len(PLACES)) if place not in {thing.place for thing in self.things}]


def relation_holds(relation: str, first: int, second: int) -> bool:
    """Return whether the place `first` is in that relation to `second`; one column is neither left nor right."""
    return {
        "left of": first % 3 < second % 3,
        "right of": first % 3 > second % 3,
        "above": first // 3 < second // 3,
        "below": first // 3 > second // 3,
    }[relation]


def split_of(scene: Scene) -> Split:
    """Return a scene's split: `test_pairs` for a held-out pair, else by the content hash (4 % val, 4 % test)."""
    if any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in scene.things):
        return "test_pairs"
    percentile = scene.digest() % 100
    return "val" if percentile < 4 else "test" if percentile < 8 else "train"


def sample_thing(rng: np.random.Generator, place: int) -> Thing:
    """Return a thing with independent uniform attributes at a place."""
    shape, colour, size = pick(rng, SHAPES), pick(rng, list(COLOURS)), pick(rng, SIZES)
    return Thing(place, shape, colour, size, sample_offset(rng))


def sample_offset(rng: np.random.Generator) -> tuple[int, int]:
    """Return a displacement (x, y) of at most `JITTER_PX` each."""
    x, y = rng.integers(-JITTER_PX, JITTER_PX + 1, size=2)
    return int(x), int(y)


def sample_scene(rng: np.random.Generator, num_things: int | None = None, repeat_probability: float = 0.3) -> Scene:
    """Return a scene of any split; with probability `repeat_probability` its things share a shape, and half of those a colour too."""
    count = num_things or int(rng.integers(1, MAX_THINGS + 1))
    places = rng.choice(len(PLACES), size=count, replace=False)
    things = [sample_thing(rng, int(place)) for place in places]
    if count > 1 and rng.random() < repeat_probability:
        first = things[0]
        same_colour = rng.random() < 0.5
        things = [replace(t, shape=first.shape, colour=first.colour if same_colour else t.colour) for t in things]
    return Scene.from_things(things, pick(rng, list(BACKGROUNDS)))


def scenes(split: Split, rng: np.random.Generator, num_things: int | None = None) -> Iterator[Scene]:
    """Yield scenes of one split without end, by rejection; each `test_pairs` scene has a held-out pair."""
    while True:
        scene = sample_scene(rng, num_things)
        if split == "test_pairs" and split_of(scene) != "test_pairs":
            scene = _with_held_out_pair(scene, rng)
        if split_of(scene) == split:
            yield scene


def distinct_scenes(split: Split, rng: np.random.Generator, count: int, num_things: int | None = None) -> list[Scene]:
    """Return `count` different scenes of one split."""
    distinct: dict[Scene, None] = {}
    for scene in scenes(split, rng, num_things):
        distinct.setdefault(scene)
        if len(distinct) == count:
            break
    return list(distinct)


def _with_held_out_pair(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.things)))
    colour, shape = pick(rng, sorted(HELD_OUT_PAIRS))
    things = list(scene.things)
    things[index] = replace(things[index], colour=colour, shape=shape)
    return Scene.from_things(things, scene.background)
