"""Pictures with what is said of them, in families whose members differ in one thing: what a dual encoder learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from latentbridge.config import StageConfig
from latentbridge.data.drawings.catalogue import Drawing, describe_drawing
from latentbridge.data.drawings.tasks import BACKGROUND_NAMES, render_drawing
from latentbridge.data.shapes.language import describe, paraphrase
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    MAX_THINGS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    scenes,
    split_of,
)
from latentbridge.data.worlds import DrawingsWorld, stable_hash
from latentbridge.types import Picture

_GROUND_SHARE = 0.2
"""Of near misses that differ in the background; a thing has four attributes."""
T = TypeVar("T")


class ContrastivePair(NamedTuple):
    """One pair of a family."""

    picture: Picture
    text: str
    identity: int
    """Equal where the text is as true of the other picture; below 2^56."""


class ContrastiveSampler:
    """Families of training pairs; each is a function of the generator alone.

    Where texts are canonical they say everything, so each member of a family has its own. Where they are free a scene
    is paraphrased, and a drawing, alone in its family, has one of its captions, which say neither ground nor hand.
    """

    def __init__(self, stage: StageConfig) -> None:
        self._drawings = DrawingsWorld() if stage.drawings else None
        self._share = stage.drawings
        self._alike: dict[str, list[Drawing]] = {}
        self._by_hand: dict[str, list[Drawing]] = {}
        for drawing in self._drawings.drawings.split("train") if self._drawings else ():
            self._alike.setdefault(drawing.label, []).append(drawing)
            self._by_hand.setdefault(drawing.style, []).append(drawing)

    def sample_group(self, rng: np.random.Generator, free: bool, most: int = MAX_THINGS) -> list[ContrastivePair]:
        """A pair and its near miss, or a pair alone; scenes have one to `most` things."""
        if self._drawings and rng.random() < self._share:
            return self._of_drawing(self._drawings, rng, free)
        scene = next(scenes("train", rng, int(rng.integers(1, most + 1))))
        members = (scene, hard_negative(scene, rng))
        return [
            ContrastivePair(render(s), paraphrase(s, rng) if free else describe(s), s.digest() >> 8) for s in members
        ]

    def _of_drawing(self, world: DrawingsWorld, rng: np.random.Generator, free: bool) -> list[ContrastivePair]:
        known = world.drawable if rng.random() < 0.5 else world.drawings.split("train")
        drawing, ground = known[rng.integers(len(known))], _pick(rng, BACKGROUND_NAMES)
        if free:
            picture = render_drawing(world.drawings, drawing, ground)
            return [ContrastivePair(picture, _pick(rng, drawing.captions), stable_hash(drawing.label))]
        near_misses = (
            (drawing, _other(rng, BACKGROUND_NAMES, ground)),
            (_pick(rng, self._alike[drawing.label]), ground),
            (_pick(rng, self._by_hand[drawing.style]), ground),
        )
        members = ((drawing, ground), _pick(rng, near_misses))
        texts = [describe_drawing(*member) for member in members]
        return [
            ContrastivePair(render_drawing(world.drawings, *member), text, stable_hash(text))
            for member, text in zip(members, texts, strict=True)
        ]


def hard_negative(scene: Scene, rng: np.random.Generator) -> Scene:
    """A training scene that differs in the background, or in the place, shape, colour or size of one thing."""
    while True:
        missed = _missed(scene, rng)
        if split_of(missed) == "train":
            return missed


def _missed(scene: Scene, rng: np.random.Generator) -> Scene:
    if rng.random() < _GROUND_SHARE:
        return replace(scene, background=_other(rng, tuple(BACKGROUNDS), scene.background))
    index = int(rng.integers(len(scene.things)))
    thing, others = scene.things[index], (*scene.things[:index], *scene.things[index + 1 :])
    free = [place for place in range(len(PLACES)) if place not in {t.place for t in scene.things}]
    changed = (
        replace(thing, place=_pick(rng, free)),
        replace(thing, shape=_other(rng, SHAPES, thing.shape)),
        replace(thing, colour=_other(rng, tuple(COLOURS), thing.colour)),
        replace(thing, size=_other(rng, SIZES, thing.size)),
    )
    return Scene.from_things((*others, _pick(rng, changed)), scene.background)


def _other(rng: np.random.Generator, names: tuple[str, ...], name: str) -> str:
    return _pick(rng, [other for other in names if other != name])


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
