"""Exact grading of pictures, edits and captions: one set of functions for rewards in training and for evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from latentbridge.data.shapes.language import NUMBER_WORDS, parse_description, plural, with_article
from latentbridge.data.shapes.oracle import PLACE_OF_PIXEL, read_scene
from latentbridge.data.shapes.render import thing_mask, window
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
"""Largest `EditGrade.outside_change` of a picture that kept what the edit does not name.

Gaussian noise of five levels, as an autoencoder leaves, gives 0.018 and moving everything by one pixel 0.023 at most;
the two most alike backgrounds differ by 0.10. A thing that comes or goes may change less and is caught by the oracle.
"""


# --- prompts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObjectSpec:
    """`count` things that share the attributes named here; None leaves one open."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: int | None = None
    count: int = 1

    def fits(self, thing: Thing) -> bool:
        """Whether one thing has every attribute named."""
        named = (self.shape, self.colour, self.size, self.place)
        return all(
            want is None or want == seen
            for want, seen in zip(named, (thing.shape, thing.colour, thing.size, thing.place), strict=True)
        )


@dataclass(frozen=True)
class Prompt:
    """A text and exactly what it asks for; relation (i, name, j) binds each thing of wanted i to each of wanted j."""

    text: str
    objects: tuple[ObjectSpec, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    category: str = ""


def satisfies(scene: Scene, prompt: Prompt) -> bool:
    """Whether the scene shows what the prompt asks for and nothing else.

    There must be a bijection between its things and the wanted ones under which attributes and relations hold. Stricter
    than GenEval (arXiv:2310.11513), which tolerates further objects in most categories.
    """
    slots = [index for index, wanted in enumerate(prompt.objects) for _ in range(wanted.count)]
    return len(slots) == len(scene.things) and _assign(scene.things, slots, prompt, [])


def _assign(things: tuple[Thing, ...], slots: list[int], prompt: Prompt, taken: list[Thing]) -> bool:
    """Whether the slots after `taken` can be filled with the things left; depth-first, so relations prune early."""
    if not things:
        return True
    slot = slots[len(taken)]
    for index, thing in enumerate(things):
        filled = [*taken, thing]
        rest = things[:index] + things[index + 1 :]
        if (
            prompt.objects[slot].fits(thing)
            and _related(filled, slots, prompt)
            and _assign(rest, slots, prompt, filled)
        ):
            return True
    return False


def _related(filled: list[Thing], slots: list[int], prompt: Prompt) -> bool:
    """Whether no relation between slots filled so far is broken."""
    owned = list(zip(slots, filled, strict=False))
    return all(
        relation_holds(relation, first.place, second.place)
        for i, relation, j in prompt.relations
        for a, first in owned
        if a == i
        for b, second in owned
        if b == j
    )


def sample_prompt(rng: np.random.Generator, category: str, split: Split) -> Prompt:
    """A prompt in plain words of the world for one of `GENEVAL_CATEGORIES`.

    For `colors` and `color_attr`, `test_pairs` prompts name exactly one of `HELD_OUT_PAIRS` and the other splits none.
    The other categories name no colour and are alike in every split.
    """
    if category not in GENEVAL_CATEGORIES:
        raise unknown_name("prompt category", category, GENEVAL_CATEGORIES)
    first, second = (SHAPES[i] for i in rng.permutation(len(SHAPES))[:2])
    relations: tuple[tuple[int, str, int], ...] = ()
    if category == "single_object":
        wanted, text = [ObjectSpec(first)], with_article(first)
    elif category == "two_object":
        wanted, text = [ObjectSpec(first), ObjectSpec(second)], f"{with_article(first)} and {with_article(second)}"
    elif category == "counting":
        count = int(rng.integers(2, 5))
        wanted, text = [ObjectSpec(first, count=count)], f"{NUMBER_WORDS[count]} {plural(first)}"
    elif category == "position":
        relation = RELATIONS[rng.integers(len(RELATIONS))]
        relations = ((0, relation, 1),)
        wanted, text = (
            [ObjectSpec(first), ObjectSpec(second)],
            f"{with_article(first)} {relation} {with_article(second)}",
        )
    else:
        pairs = _sample_pairs(rng, 1 if category == "colors" else 2, held_out=split == "test_pairs")
        wanted = [ObjectSpec(shape, colour) for colour, shape in pairs]
        text = " and ".join(with_article(f"{colour} {shape}") for colour, shape in pairs)
    return Prompt(text, tuple(wanted), relations, category)


def _sample_pairs(rng: np.random.Generator, count: int, held_out: bool) -> list[tuple[str, str]]:
    """(colour, shape) pairs that share neither; the held-out one, if any, stands at a random position."""
    known = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT_PAIRS]
    first_pool = sorted(HELD_OUT_PAIRS) if held_out else known
    pairs = [first_pool[rng.integers(len(first_pool))]]
    while len(pairs) < count:
        colour, shape = known[rng.integers(len(known))]
        if all(colour != other[0] and shape != other[1] for other in pairs):
            pairs.append((colour, shape))
    return [pairs[i] for i in rng.permutation(count)]


# --- edits ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EditGrade:
    """What an edited picture got right; a success is `right and preserved`."""

    right: bool
    """The picture reads as the target scene."""
    preserved: bool
    """What the edit does not name reads as before, and `outside_change` is at most `PRESERVED_CHANGE`."""
    outside_change: float
    """Mean absolute change of the pixels the edit should leave alone, in [0, 1]."""


def grade_edit(source: Scene, target: Scene, produced_image: np.ndarray, source_image: np.ndarray) -> EditGrade:
    """The grade of an edit from `source` to `target`; both pictures uint8 [64, 64, 3].

    The pixels to leave alone are those of cells whose content is the same in both scenes. Where the edit changes the
    background they are only the pixels that the unchanged things cover; with nothing left the change is 0.
    """
    seen = read_scene(produced_image)
    kept = [thing for thing in source.things if thing in target.things]
    same_ground = source.background == target.background
    changed = [thing.place for thing in set(source.things) ^ set(target.things)]
    outside = ~np.isin(PLACE_OF_PIXEL, changed) if same_ground else _covered(kept)
    change = np.abs(produced_image.astype(np.float32) - source_image.astype(np.float32))[outside]
    outside_change = float(change.mean() / 255.0) if change.size else 0.0
    seen_kept = [thing for thing in seen.things if thing.place not in changed]
    unchanged = seen_kept == kept and (not same_ground or seen.background == source.background)
    return EditGrade(seen == target, unchanged and outside_change <= PRESERVED_CHANGE, outside_change)


def _covered(things: list[Thing]) -> np.ndarray:
    """bool [64, 64]: pixels that things cover wholly."""
    covered = np.zeros(PLACE_OF_PIXEL.shape, dtype=bool)
    for thing in things:
        covered[window(thing)] |= thing_mask(thing.shape, thing.size) == 1.0
    return covered


# --- captions ------------------------------------------------------------------------------------


def caption_facts(text: str, scene: Scene) -> tuple[int, int]:
    """(kept, total) facts of a scene that a canonical caption states.

    Facts are shape, colour, size and place of each thing, the background and the count. Things are paired so that most
    facts agree. A caption that does not parse keeps none; one with things too many loses the count.
    """
    total = 4 * len(scene.things) + 2
    told = parse_description(text)
    if told is None:
        return 0, total
    agree = np.array([_shared(a, b) for a in scene.things for b in told.things], dtype=int)
    agree = agree.reshape(len(scene.things), len(told.things))
    kept = int(agree[linear_sum_assignment(agree, maximize=True)].sum())
    return kept + (told.background == scene.background) + (len(told.things) == len(scene.things)), total


def _shared(first: Thing, second: Thing) -> int:
    """How many of shape, colour, size and place two things share."""
    return sum(getattr(first, name) == getattr(second, name) for name in ("shape", "colour", "size", "place"))
