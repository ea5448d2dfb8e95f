"""Groups of picture-text pairs for contrastive training of a dual encoder, with hard negatives."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from latentbridge.config import PretrainTeacherConfig
from latentbridge.data.drawings.catalogue import Drawing, describe_drawing
from latentbridge.data.drawings.tasks import BACKGROUND_NAMES, render_drawing
from latentbridge.data.sampling import pick, pick_other
from latentbridge.data.shapes.language import describe, paraphrase
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import BACKGROUNDS, COLOURS, MAX_THINGS, SHAPES, SIZES, Scene, scenes, split_of
from latentbridge.data.worlds import DrawingsWorld, stable_hash
from latentbridge.types import Picture

_BACKGROUND_SHARE = 0.2
"""Share of hard negatives that differ in the background; a thing has four more attributes."""


class ContrastivePair(NamedTuple):
    """A picture and its text."""

    picture: Picture
    text: str
    identity: int
    """Equal for pairs whose texts are true of both pictures; below 2^56."""


class ContrastiveSampler:
    """A sampler of groups of training pairs, each a function of the generator alone.

    Canonical texts are complete, so each pair of a group has its own. Free texts are paraphrases of scenes, and captions
    of drawings, which name neither background nor style; such a drawing is alone in its group.
    """

    def __init__(self, stage: PretrainTeacherConfig) -> None:
        self._drawings = DrawingsWorld() if stage.drawings_share else None
        self._share = stage.drawings_share
        self._by_label: dict[str, list[Drawing]] = defaultdict(list)
        self._by_style: dict[str, list[Drawing]] = defaultdict(list)
        for drawing in self._drawings.drawings.split("train") if self._drawings else ():
            self._by_label[drawing.label].append(drawing)
            self._by_style[drawing.style].append(drawing)

    def sample_group(self, rng: np.random.Generator, free: bool, most: int = MAX_THINGS) -> list[ContrastivePair]:
        """Return a pair and its hard negative, or a pair alone; scenes have one to `most` things."""
        if self._drawings and rng.random() < self._share:
            return self._drawing_group(self._drawings, rng, free)
        scene = next(scenes("train", rng, int(rng.integers(1, most + 1))))
        group = (scene, hard_negative(scene, rng))
        return [ContrastivePair(render(s), paraphrase(s, rng) if free else describe(s), s.digest() >> 8) for s in group]

    def _drawing_group(self, world: DrawingsWorld, rng: np.random.Generator, free: bool) -> list[ContrastivePair]:
        drawings = world.drawable if rng.random() < 0.5 else world.drawings.split("train")
        drawing, background = pick(rng, drawings), pick(rng, BACKGROUND_NAMES)
        if free:
            picture = render_drawing(world.drawings, drawing, background)
            return [ContrastivePair(picture, pick(rng, drawing.captions), stable_hash(drawing.label))]
        negatives = (
            (drawing, pick_other(rng, BACKGROUND_NAMES, background)),
            (pick(rng, self._by_label[drawing.label]), background),
            (pick(rng, self._by_style[drawing.style]), background),
        )
        group = ((drawing, background), pick(rng, negatives))
        texts = [describe_drawing(*member) for member in group]
        return [
            ContrastivePair(render_drawing(world.drawings, *member), text, stable_hash(text))
            for member, text in zip(group, texts, strict=True)
        ]


def hard_negative(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return a training scene that differs in the background, or in one attribute of one thing."""
    while True:
        negative = _alter(scene, rng)
        if split_of(negative) == "train":
            return negative


def _alter(scene: Scene, rng: np.random.Generator) -> Scene:
    if rng.random() < _BACKGROUND_SHARE:
        return replace(scene, background=pick_other(rng, BACKGROUNDS, scene.background))
    index = int(rng.integers(len(scene.things)))
    thing, others = scene.things[index], (*scene.things[:index], *scene.things[index + 1 :])
    altered = (
        replace(thing, place=pick(rng, scene.free_places())),
        replace(thing, shape=pick_other(rng, SHAPES, thing.shape)),
        replace(thing, colour=pick_other(rng, COLOURS, thing.colour)),
        replace(thing, size=pick_other(rng, SIZES, thing.size)),
    )
    return Scene.from_things((*others, pick(rng, altered)), scene.background)
