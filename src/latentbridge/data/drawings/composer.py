"""Compositions of one to four drawings on a pastel background, with captions, questions and edits.

All texts follow from the list of drawings. Concepts of one composition come from different clusters, so that none can be
taken for another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from PIL import Image

from latentbridge.data.drawings.catalogue import Drawing, Drawings, DrawingSplit, alpha_blend, with_article
from latentbridge.data.drawings.concepts import hash_percentile
from latentbridge.data.drawings.palette import CHROMATIC, COLOUR_WORDS
from latentbridge.data.sampling import pick, pick_other
from latentbridge.data.shapes.render import IMAGE_SIZE_PX
from latentbridge.data.shapes.scenes import MAX_THINGS, PLACES, RELATIONS, relation_holds, sample_offset
from latentbridge.errors import UserError, unknown_name

COMPOSITION_BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "cream": (250, 240, 215),
    "pink": (250, 222, 228),
    "mint": (215, 242, 224),
    "sky": (212, 232, 250),
    "lilac": (230, 220, 248),
}
HELD_OUT_PAIRS_PERCENT = 10
LARGE_PX, SMALL_PX = (40, 56), (25, 29)
"""Sizes [low, high] of a single drawing and of one among several; objects stay recognisable at 25 px."""
_CENTRES_PX = (16, 32, 48)
_OPPOSITE_PLACES = ((3, 5), (1, 7))
_CORNERS = (0, 2, 6, 8)
_MAIN_SHARE, _SECOND_SHARE = 0.5, 0.2
"""Least share of a colour that is asked about, and upper bound of all other chromatic ones."""

Question = Literal["what", "place", "count", "colour", "relation", "presence"]
CompositionSplit = DrawingSplit | Literal["test_pairs"]
COMPOSITION_SPLITS: tuple[str, ...] = (*get_args(DrawingSplit), "test_pairs")


@dataclass(frozen=True)
class PlacedDrawing:
    """A drawing in a slot of a composition."""

    drawing: Drawing
    place: int
    """Index into `PLACES`."""
    size_px: int
    offset_px: tuple[int, int] = (0, 0)
    """(x, y) displacement from the centre of the slot."""


@dataclass(frozen=True)
class Composition:
    """Placed drawings in reading order on a background."""

    things: tuple[PlacedDrawing, ...]
    background: str

    @property
    def drawings(self) -> list[Drawing]:
        return [thing.drawing for thing in self.things]

    @property
    def label_counts(self) -> Counter[str]:
        return Counter(drawing.label for drawing in self.drawings)


@dataclass(frozen=True)
class SpriteBank:
    """The countable drawings of a split by concept."""

    drawings: Drawings
    split: str
    by_concept: dict[str, tuple[Drawing, ...]]


@lru_cache(maxsize=1)
def countable_plurals() -> dict[str, str]:
    """Return plurals by label, for the hand-checked list of countable concepts."""
    lines = files("latentbridge.data.drawings").joinpath("countable.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("|") for line in lines if line and not line.startswith("#"))
    return {label: plural or _plural(label) for label, _, plural in pairs}


def sprite_bank(drawings: Drawings, split: CompositionSplit) -> SpriteBank:
    """Return the drawings for compositions of a split; `test_pairs` uses training drawings in held-out pairs."""
    if split not in COMPOSITION_SPLITS:
        raise unknown_name("split of compositions", split, COMPOSITION_SPLITS)
    by_concept: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings.split("train" if split == "test_pairs" else split):
        if drawing.label in countable_plurals():
            by_concept[drawing.concept].append(drawing)
    if len({variants[0].cluster for variants in by_concept.values()}) < MAX_THINGS:
        raise UserError(f"Split {split!r} has too few countable drawings; install `npm` and build them again.")
    return SpriteBank(drawings, split, {concept: tuple(variants) for concept, variants in sorted(by_concept.items())})


def is_held_out_pair(first: Drawing, second: Drawing) -> bool:
    """Return whether two concepts are together in `test_pairs` only."""
    low, high = sorted((first.concept, second.concept))
    return low != high and hash_percentile(f"{low} {high}") < HELD_OUT_PAIRS_PERCENT


def is_in_split(composition: Composition, split: str) -> bool:
    """Return whether there is a held-out pair for `test_pairs`, or none for any other split."""
    has_held_out = any(is_held_out_pair(*pair) for pair in combinations(composition.drawings, 2))
    return has_held_out == (split == "test_pairs")


def sample_composition(
    rng: np.random.Generator, bank: SpriteBank, num_things: int | None = None, repeat_probability: float = 0.3
) -> Composition:
    """Return a composition of the bank's split; with probability `repeat_probability` some drawings share a concept."""
    held_out = bank.split == "test_pairs"
    assert not (held_out and num_things == 1), "a held-out pair needs two things"
    while True:
        count = num_things or int(rng.integers(2 if held_out else 1, MAX_THINGS + 1))
        places = _sample_places(rng, count)
        chosen: list[Drawing] = []
        for _ in places:
            chosen.append(_sample_drawing(rng, bank, chosen))
        if count > 1 and rng.random() < repeat_probability:
            repeats = int(rng.integers(2, count + 1))
            variants = bank.by_concept[chosen[0].concept]
            chosen[:repeats] = [pick(rng, variants) for _ in range(repeats)]
            chosen = [chosen[i] for i in rng.permutation(count)]
        low, high = LARGE_PX if count == 1 else SMALL_PX
        things = tuple(
            PlacedDrawing(drawing, place, int(rng.integers(low, high + 1)), sample_offset(rng))
            for drawing, place in zip(chosen, places, strict=True)
        )
        composition = Composition(things, pick(rng, list(COMPOSITION_BACKGROUNDS)))
        if is_in_split(composition, bank.split):
            return composition


def render_composition(composition: Composition, drawings: Drawings) -> np.ndarray:
    """Return the picture, uint8 [64, 64, 3]."""
    background = COMPOSITION_BACKGROUNDS[composition.background]
    canvas = np.full((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), background, dtype=np.uint8)
    for thing in composition.things:
        size = thing.size_px
        x, y = _CENTRES_PX[thing.place % 3] + thing.offset_px[0], _CENTRES_PX[thing.place // 3] + thing.offset_px[1]
        window = np.s_[y - size // 2 : y - size // 2 + size, x - size // 2 : x - size // 2 + size]
        sprite = Image.fromarray(drawings.pixels[thing.drawing.index]).convert("RGBa")
        sprite = sprite.resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
        canvas[window] = alpha_blend(np.asarray(sprite), canvas[window])
    return canvas


def caption_composition(composition: Composition) -> str:
    """Return the canonical caption, e.g. "red apple top left, owl bottom right, on mint"."""
    things = (f"{thing.drawing.label} {PLACES[thing.place]}" for thing in composition.things)
    return ", ".join([*things, f"on {composition.background}"])


def sample_composition_question(
    composition: Composition, bank: SpriteBank, rng: np.random.Generator
) -> tuple[str, str, Question]:
    """Return (question, answer, kind), of a random kind with a unique answer; "yes" and "no" are balanced."""
    counts = composition.label_counts
    unique = [thing for thing in composition.things if counts[thing.drawing.label] == 1]
    coloured = [thing.drawing for thing in unique if _has_main_colour(thing.drawing)]
    kinds: list[Question] = ["what", "count", "presence"]
    if unique and len(composition.things) > 1:
        kinds.append("place")
    if coloured:
        kinds.append("colour")
    if len(unique) > 1:
        kinds.append("relation")
    kind = pick(rng, kinds)
    if kind == "what":
        thing = pick(rng, composition.things)
        subject = "this" if len(composition.things) == 1 else _at(thing.place)
        return f"What is {subject}?", thing.drawing.label, kind
    if kind == "place":
        thing = pick(rng, unique)
        return f"Where is the {thing.drawing.label}?", PLACES[thing.place], kind
    if kind == "count":
        label = pick(rng, list(counts)) if rng.random() < 0.85 else _absent_label(composition, bank, rng)
        return f"How many {countable_plurals()[label]} are there?", str(counts[label]), kind
    if kind == "colour":
        drawing = pick(rng, coloured)
        return f"What color is the {drawing.label}?", drawing.colours[0][0], kind
    if kind == "relation":
        first, second = (unique[i] for i in rng.permutation(len(unique))[:2])
        truth = bool(rng.random() < 0.5)
        relation = pick(rng, [name for name in RELATIONS if relation_holds(name, first.place, second.place) == truth])
        return f"Is the {first.drawing.label} {relation} the {second.drawing.label}?", "yes" if truth else "no", kind
    truth = bool(rng.random() < 0.5)
    label = pick(rng, list(counts)) if truth else _absent_label(composition, bank, rng)
    return f"Is there {with_article(label)}?", "yes" if truth else "no", kind


def sample_composition_edit(
    composition: Composition, bank: SpriteBank, rng: np.random.Generator
) -> tuple[str, Composition]:
    """Return (instruction, target); the target is in the same split, and all else stays as it is."""
    things, counts = composition.things, composition.label_counts
    unique = [i for i, thing in enumerate(things) if counts[thing.drawing.label] == 1]
    occupied = {thing.place for thing in things}
    free = [place for place in _CORNERS if place not in occupied]
    edits: list[Callable[[], tuple[str, Composition]]] = [lambda: _change_background(composition, rng)]
    if unique:
        edits.append(lambda: _replace(composition, pick(rng, unique), bank, rng))
    if unique and len(things) > 1:
        edits.append(lambda: _remove(composition, pick(rng, unique)))
    if len(things) < MAX_THINGS and occupied <= set(_CORNERS):
        edits.append(lambda: _add(composition, pick(rng, free), bank, rng))
    while True:  # ends: a new background never leaves the split
        instruction, target = pick(rng, edits)()
        if is_in_split(target, bank.split):
            return instruction, target


def _change_background(composition: Composition, rng: np.random.Generator) -> tuple[str, Composition]:
    background = pick_other(rng, COMPOSITION_BACKGROUNDS, composition.background)
    return f"make the ground {background}", replace(composition, background=background)


def _replace(
    composition: Composition, index: int, bank: SpriteBank, rng: np.random.Generator
) -> tuple[str, Composition]:
    old = composition.things[index]
    new = replace(old, drawing=_sample_drawing(rng, bank, composition.drawings))
    things = (*composition.things[:index], new, *composition.things[index + 1 :])
    instruction = f"replace the {old.drawing.label} with {with_article(new.drawing.label)}"
    return instruction, replace(composition, things=things)


def _remove(composition: Composition, index: int) -> tuple[str, Composition]:
    things = composition.things[:index] + composition.things[index + 1 :]
    return f"remove the {composition.things[index].drawing.label}", replace(composition, things=things)


def _add(composition: Composition, place: int, bank: SpriteBank, rng: np.random.Generator) -> tuple[str, Composition]:
    drawing = _sample_drawing(rng, bank, composition.drawings)
    new = PlacedDrawing(drawing, place, int(rng.integers(SMALL_PX[0], SMALL_PX[1] + 1)), sample_offset(rng))
    things = tuple(sorted((*composition.things, new), key=lambda thing: thing.place))
    return f"add {with_article(drawing.label)} {_at(place)}", replace(composition, things=things)


def _sample_drawing(rng: np.random.Generator, bank: SpriteBank, others: list[Drawing]) -> Drawing:
    """Return a drawing of a cluster that the others do not have; concepts are equally likely."""
    clusters = {drawing.cluster for drawing in others}
    concepts = list(bank.by_concept)
    while True:
        variants = bank.by_concept[pick(rng, concepts)]
        if variants[0].cluster not in clusters:
            return pick(rng, variants)


def _sample_places(rng: np.random.Generator, count: int) -> list[int]:
    if count == 1:
        return [4]
    if count == 2 and rng.random() < 0.5:
        return list(pick(rng, _OPPOSITE_PLACES))
    return sorted(int(place) for place in rng.choice(_CORNERS, size=count, replace=False))


def _absent_label(composition: Composition, bank: SpriteBank, rng: np.random.Generator) -> str:
    return _sample_drawing(rng, bank, composition.drawings).label


def _has_main_colour(drawing: Drawing) -> bool:
    if set(drawing.label.split()) & set(COLOUR_WORDS):
        return False  # the name gives the answer away
    chromatic = [share for word, share in drawing.colours if word in CHROMATIC]
    return (
        bool(chromatic)
        and chromatic[0] == drawing.colours[0][1] >= _MAIN_SHARE
        and max(chromatic[1:], default=0.0) < _SECOND_SHARE
    )


def _at(place: int) -> str:
    name = PLACES[place]
    return f"on the {name}" if name in ("left", "right") else f"at the {name}"


def _plural(label: str) -> str:
    if label.endswith(("s", "x", "ch", "sh")):
        return label + "es"
    return label[:-1] + "ies" if label.endswith("y") and label[-2] not in "aeiou" else label + "s"
