"""Exact grades of pictures, edits and captions, for rewards and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

from latentbridge.data.sampling import pick
from latentbridge.data.shapes.language import NUMBER_WORDS, parse_description, plural, with_article
from latentbridge.data.shapes.oracle import PLACE_OF_PIXEL, read_scene
from latentbridge.data.shapes.render import mask_window, thing_mask
from latentbridge.data.shapes.scenes import (
    COLOURS,
    HELD_OUT_PAIRS,
    RELATIONS,
    SHAPES,
    Scene,
    Split,
    Thing,
    relation_holds,
)
from latentbridge.errors import unknown_name

GENEVAL_CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
PRESERVED_CHANGE = 0.03
"""Largest `EditGrade.outside_change` that counts as preserved.

Gaussian noise of five levels, as an autoencoder leaves, gives 0.018 and a shift by one pixel 0.023 at most; the two most
similar backgrounds differ by 0.10. A thing that appears or vanishes may change less; the oracle finds it.
"""


@dataclass(frozen=True)
class ObjectSpec:
    """Attributes that `count` things share; None leaves an attribute open."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: int | None = None
    count: int = 1

    def matches(self, thing: Thing) -> bool:
        """Return whether a thing has all attributes given."""
        return all(getattr(self, name) in (None, getattr(thing, name)) for name in ("shape", "colour", "size", "place"))


@dataclass(frozen=True)
class Prompt:
    """A text with its exact meaning; relation (i, name, j) binds each thing of object i to each of object j."""

    text: str
    objects: tuple[ObjectSpec, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    category: str = ""


def satisfies(scene: Scene, prompt: Prompt) -> bool:
    """Return whether the scene shows what the prompt asks for and nothing else.

    True if some bijection of things to objects fulfils all attributes and relations. Stricter than GenEval
    (arXiv:2310.11513), which tolerates further objects in most categories.
    """
    slots = [index for index, spec in enumerate(prompt.objects) for _ in range(spec.count)]
    return len(slots) == len(scene.things) and any(
        all(prompt.objects[slot].matches(thing) for slot, thing in zip(slots, things, strict=True))
        and all(
            relation_holds(relation, first.place, second.place)
            for i, relation, j in prompt.relations
            for a, first in zip(slots, things, strict=True)
            if a == i
            for b, second in zip(slots, things, strict=True)
            if b == j
        )
        for things in permutations(scene.things)
    )


def sample_prompt(rng: np.random.Generator, category: str, split: Split) -> Prompt:
    """Return a prompt of one of `GENEVAL_CATEGORIES`.

    For `colors` and `color_attr`, `test_pairs` prompts name exactly one of `HELD_OUT_PAIRS`, other splits' none. The
    other categories name no colour and do not depend on the split.
    """
    if category not in GENEVAL_CATEGORIES:
        raise unknown_name("prompt category", category, GENEVAL_CATEGORIES)
    first, second = (SHAPES[i] for i in rng.permutation(len(SHAPES))[:2])
    relations: tuple[tuple[int, str, int], ...] = ()
    if category == "single_object":
        objects, text = [ObjectSpec(first)], with_article(first)
    elif category == "two_object":
        objects, text = [ObjectSpec(first), ObjectSpec(second)], f"{with_article(first)} and {with_article(second)}"
    elif category == "counting":
        count = int(rng.integers(2, 5))
        objects, text = [ObjectSpec(first, count=count)], f"{NUMBER_WORDS[count]} {plural(first)}"
    elif category == "position":
        relation = pick(rng, RELATIONS)
        relations = ((0, relation, 1),)
        objects, text = (
            [ObjectSpec(first), ObjectSpec(second)],
            f"{with_article(first)} {relation} {with_article(second)}",
        )
    else:
        pairs = _sample_pairs(rng, 1 if category == "colors" else 2, held_out=split == "test_pairs")
        objects = [ObjectSpec(shape, colour) for colour, shape in pairs]
        text = " and ".join(with_article(f"{colour} {shape}") for colour, shape in pairs)
    return Prompt(text, tuple(objects), relations, category)


def _sample_pairs(rng: np.random.Generator, count: int, held_out: bool) -> list[tuple[str, str]]:
    """Return (colour, shape) pairs that share neither, one of them held out if asked for, in random order."""
    known = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT_PAIRS]
    pairs = [pick(rng, sorted(HELD_OUT_PAIRS) if held_out else known)]
    while len(pairs) < count:
        colour, shape = pick(rng, known)
        if all(colour != other[0] and shape != other[1] for other in pairs):
            pairs.append((colour, shape))
    return [pairs[i] for i in rng.permutation(count)]


@dataclass(frozen=True)
class EditGrade:
    """A grade of an edited picture; a success is `right and preserved`."""

    right: bool
    """True if the picture reads as the target scene."""
    preserved: bool
    """True if all else reads as before and `outside_change` is at most `PRESERVED_CHANGE`."""
    outside_change: float
    """Mean absolute change of the pixels that the edit should leave alone, in [0, 1]."""


def grade_edit(source: Scene, target: Scene, produced_image: np.ndarray, source_image: np.ndarray) -> EditGrade:
    """Return the grade of an edit from `source` to `target`; both images are uint8 [64, 64, 3].

    The pixels to leave alone are those of cells with equal content in both scenes. If the background changes they are
    the pixels covered by unchanged things; without any the change is 0.
    """
    produced = read_scene(produced_image)
    unchanged = [thing for thing in source.things if thing in target.things]
    same_background = source.background == target.background
    edited_places = [thing.place for thing in set(source.things) ^ set(target.things)]
    outside = ~np.isin(PLACE_OF_PIXEL, edited_places) if same_background else _coverage(unchanged)
    change = np.abs(produced_image.astype(np.float32) - source_image.astype(np.float32))[outside]
    outside_change = float(change.mean() / 255.0) if change.size else 0.0
    preserved = [thing for thing in produced.things if thing.place not in edited_places] == unchanged
    preserved = preserved and (not same_background or produced.background == source.background)
    return EditGrade(produced == target, preserved and outside_change <= PRESERVED_CHANGE, outside_change)


def _coverage(things: list[Thing]) -> np.ndarray:
    """Return bool [64, 64]: the pixels that things cover fully."""
    covered = np.zeros(PLACE_OF_PIXEL.shape, dtype=bool)
    for thing in things:
        covered[mask_window(thing)] |= thing_mask(thing.shape, thing.size) == 1.0
    return covered


def caption_facts(text: str, scene: Scene) -> tuple[int, int]:
    """Return (correct, total) facts of a scene in a canonical caption.

    Facts are each thing's shape, colour, size and place, the background and the count. Things are paired for the most
    agreement. A caption that does not parse has none; one with too many things loses the count.
    """
    total = 4 * len(scene.things) + 2
    parsed = parse_description(text)
    if parsed is None:
        return 0, total
    names = ("shape", "colour", "size", "place")
    agree = np.array(
        [[sum(getattr(a, name) == getattr(b, name) for name in names) for b in parsed.things] for a in scene.things]
    ).reshape(len(scene.things), len(parsed.things))
    correct = int(agree[linear_sum_assignment(agree, maximize=True)].sum())
    return correct + (parsed.background == scene.background) + (len(parsed.things) == len(scene.things)), total
