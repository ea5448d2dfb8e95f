"""Drawings placed beside each other, so that counting, colour, position, presence and edits have exact answers.

A composition is one to four drawings on a plain pastel ground, each in its own slot; everything said about it is read
off that list. Things named alike never meet: two concepts of one composition come from different clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import combinations
from typing import Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from latentbridge.data.drawings.catalogue import Drawing, Drawings, DrawingSplit, alpha_blend, with_article
from latentbridge.data.drawings.concepts import hash_percentile
from latentbridge.data.drawings.palette import CHROMATIC, COLOUR_WORDS
from latentbridge.data.shapes.language import NUMBER_WORDS
from latentbridge.data.shapes.render import IMAGE_SIZE_PX
from latentbridge.data.shapes.scenes import MAX_THINGS, PLACES, RELATIONS
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
"""Sizes [low, high] of a drawing alone, and of one that shares the ground; at 25 px objects stay recognisable."""
_JITTER_PX = 1
_CENTRES_PX = (16, 32, 48)
_PAIRS = ((3, 5), (1, 7))
_CORNERS = (0, 2, 6, 8)
_SURE_SHARE, _RIVAL_SHARE = 0.5, 0.2
"""A colour is asked about only when it covers half of the drawing and no other chromatic colour covers a fifth."""

Question = Literal["what", "place", "count", "colour", "relation", "presence"]
CompositionSplit = DrawingSplit | Literal["test_pairs"]
COMPOSITION_SPLITS: tuple[str, ...] = (*get_args(DrawingSplit), "test_pairs")
T = TypeVar("T")


@dataclass(frozen=True)
class PlacedDrawing:
    """One drawing in its slot."""

    drawing: Drawing
    place: int
    """Index into `PLACES`."""
    size_px: int
    offset_px: tuple[int, int] = (0, 0)
    """(x, y) displacement from the middle of the slot."""


@dataclass(frozen=True)
class Composition:
    """Placed drawings in reading order on a ground."""

    things: tuple[PlacedDrawing, ...]
    ground: str


@dataclass(frozen=True)
class SpriteBank:
    """The countable drawings of one split, by concept."""

    drawings: Drawings
    split: str
    by_concept: dict[str, tuple[Drawing, ...]]


@lru_cache(maxsize=1)
def countable_plurals() -> dict[str, str]:
    """Plurals by label of the concepts that can be counted, from the hand-checked list."""
    lines = files("latentbridge.data.drawings").joinpath("countable.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("|") for line in lines if line and not line.startswith("#"))
    return {label: plural or _plural(label) for label, _, plural in pairs}


def sprite_bank(drawings: Drawings, split: CompositionSplit) -> SpriteBank:
    """What compositions of a split are made from; `test_pairs` puts training drawings together in unseen pairs."""
    if split not in COMPOSITION_SPLITS:
        raise unknown_name("split of compositions", split, COMPOSITION_SPLITS)
    found: dict[str, list[Drawing]] = {}
    for drawing in drawings.split("train" if split == "test_pairs" else split):
        if drawing.label in countable_plurals():
            found.setdefault(drawing.concept, []).append(drawing)
    if len({variants[0].cluster for variants in found.values()}) < MAX_THINGS:
        raise UserError(
            f"Too few countable drawings in split {split!r} to compose with; install `npm` and build them again."
        )
    return SpriteBank(drawings, split, {concept: tuple(variants) for concept, variants in sorted(found.items())})


def is_held_out_pair(first: Drawing, second: Drawing) -> bool:
    """Whether two concepts meet only in `test_pairs`."""
    low, high = sorted((first.concept, second.concept))
    return low != high and hash_percentile(f"{low} {high}") < HELD_OUT_PAIRS_PERCENT


def is_in_split(composition: Composition, split: str) -> bool:
    """Whether a composition of fitting drawings has the held-out pairs that its split asks for, or none."""
    drawings = [thing.drawing for thing in composition.things]
    return any(is_held_out_pair(*pair) for pair in combinations(drawings, 2)) == (split == "test_pairs")


def sample_composition(
    rng: np.random.Generator, bank: SpriteBank, num_things: int | None = None, alike: float = 0.3
) -> Composition:
    """A composition of the bank's split; with probability `alike` some things show one concept, to be counted."""
    pairs_wanted = bank.split == "test_pairs"
    assert not (pairs_wanted and num_things == 1), "an unseen pair needs two things"
    while True:
        count = num_things or int(rng.integers(2 if pairs_wanted else 1, MAX_THINGS + 1))
        places = _sample_places(rng, count)
        chosen: list[Drawing] = []
        for _ in places:
            chosen.append(_sample_drawing(rng, bank, chosen))
        if count > 1 and rng.random() < alike:
            repeats = int(rng.integers(2, count + 1))
            variants = bank.by_concept[chosen[0].concept]
            chosen[:repeats] = [variants[rng.integers(len(variants))] for _ in range(repeats)]
            chosen = [chosen[i] for i in rng.permutation(count)]
        low, high = LARGE_PX if count == 1 else SMALL_PX
        things = tuple(
            PlacedDrawing(drawing, place, int(rng.integers(low, high + 1)), _sample_offset(rng))
            for drawing, place in zip(chosen, places, strict=True)
        )
        composition = Composition(things, _sample_ground(rng))
        if is_in_split(composition, bank.split):
            return composition


def render_composition(composition: Composition, drawings: Drawings) -> np.ndarray:
    """The picture: uint8 [64, 64, 3]."""
    canvas = np.full((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), COMPOSITION_BACKGROUNDS[composition.ground], dtype=np.uint8)
    for thing in composition.things:
        size = thing.size_px
        x, y = _CENTRES_PX[thing.place % 3] + thing.offset_px[0], _CENTRES_PX[thing.place // 3] + thing.offset_px[1]
        window = np.s_[y - size // 2 : y - size // 2 + size, x - size // 2 : x - size // 2 + size]
        cut_out = (
            Image.fromarray(drawings.pixels[thing.drawing.index])
            .convert("RGBa")
            .resize((size, size), Image.Resampling.LANCZOS)
        )
        canvas[window] = alpha_blend(np.asarray(cut_out.convert("RGBA")), canvas[window])
    return canvas


def caption_composition(composition: Composition) -> str:
    """The canonical caption in reading order, e.g. "red apple top left, owl bottom right, on mint"."""
    return ", ".join(
        [*(f"{t.drawing.label} {PLACES[t.place]}" for t in composition.things), f"on {composition.ground}"]
    )


def paraphrase_composition(composition: Composition, rng: np.random.Generator) -> str:
    """A freer phrase that is true: counted things, or a relation between two."""
    things = composition.things
    if len(things) == 2 and rng.random() < 0.5 and things[0].drawing.concept != things[1].drawing.concept:
        first, second = (things[i] for i in rng.permutation(2))
        true = [relation for relation in RELATIONS if _holds(relation, first, second)]
        phrase = f"{with_article(first.drawing.label)} {_pick(rng, true)} {with_article(second.drawing.label)}"
    else:
        counts = _counts(composition)
        words = [
            with_article(k) if n == 1 else f"{NUMBER_WORDS[n]} {countable_plurals()[k]}" for k, n in counts.items()
        ]
        phrase = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    return phrase + _pick(rng, ("", f" on {composition.ground}", f" on a {composition.ground} ground"))


def sample_composition_question(
    composition: Composition, bank: SpriteBank, rng: np.random.Generator
) -> tuple[str, str, Question]:
    """(question, answer, kind). Kinds are drawn evenly among those that have one answer; yes and no are balanced."""
    counts = _counts(composition)
    unique = [thing for thing in composition.things if counts[thing.drawing.label] == 1]
    coloured = [thing for thing in unique if _has_sure_colour(thing.drawing)]
    kinds: list[Question] = ["what", "count", "presence"]
    if unique and len(composition.things) > 1:
        kinds.append("place")
    if coloured:
        kinds.append("colour")
    if len(unique) > 1:
        kinds.append("relation")
    kind = kinds[rng.integers(len(kinds))]
    if kind == "what":
        thing = _pick(rng, composition.things)
        alone = len(composition.things) == 1
        return ("What is this?" if alone else f"What is {_at(thing.place)}?"), thing.drawing.label, kind
    if kind == "place":
        thing = _pick(rng, unique)
        return f"Where is the {thing.drawing.label}?", PLACES[thing.place], kind
    if kind == "count":
        label = _pick(rng, list(counts)) if rng.random() < 0.85 else _absent(composition, bank, rng)
        return f"How many {countable_plurals()[label]} are there?", str(counts.get(label, 0)), kind
    if kind == "colour":
        drawing = _pick(rng, coloured).drawing
        return f"What color is the {drawing.label}?", drawing.colours[0][0], kind
    if kind == "relation":
        first, second = (unique[i] for i in rng.permutation(len(unique))[:2])
        wanted = bool(rng.random() < 0.5)
        relation = _pick(rng, [r for r in RELATIONS if _holds(r, first, second) == wanted])
        return f"Is the {first.drawing.label} {relation} the {second.drawing.label}?", "yes" if wanted else "no", kind
    present = bool(rng.random() < 0.5)
    label = _pick(rng, list(counts)) if present else _absent(composition, bank, rng)
    return f"Is there {with_article(label)}?", "yes" if present else "no", kind


def sample_composition_edit(
    composition: Composition, bank: SpriteBank, rng: np.random.Generator
) -> tuple[str, Composition]:
    """(instruction, exact target); the target belongs to the same split, and what is not named stays as it is."""
    counts = _counts(composition)
    unique = [i for i, thing in enumerate(composition.things) if counts[thing.drawing.label] == 1]
    free = [place for place in _CORNERS if place not in {thing.place for thing in composition.things}]
    in_corners = len(composition.things) < MAX_THINGS and all(thing.place in _CORNERS for thing in composition.things)
    makers: list[Callable[[], tuple[str, Composition]]] = [lambda: _change_ground(composition, rng)]
    makers += [lambda: _replace(composition, _pick(rng, unique), bank, rng)] if unique else []
    makers += [lambda: _remove(composition, _pick(rng, unique))] if unique and len(composition.things) > 1 else []
    makers += [lambda: _add(composition, _pick(rng, free), bank, rng)] if in_corners else []
    while True:  # changing the ground always qualifies, so this ends
        instruction, target = _pick(rng, makers)()
        if is_in_split(target, bank.split):
            return instruction, target


def _change_ground(composition: Composition, rng: np.random.Generator) -> tuple[str, Composition]:
    ground = _pick(rng, [name for name in COMPOSITION_BACKGROUNDS if name != composition.ground])
    return f"make the ground {ground}", replace(composition, ground=ground)


def _replace(
    composition: Composition, index: int, bank: SpriteBank, rng: np.random.Generator
) -> tuple[str, Composition]:
    old = composition.things[index]
    new = replace(old, drawing=_sample_drawing(rng, bank, [thing.drawing for thing in composition.things]))
    things = (*composition.things[:index], new, *composition.things[index + 1 :])
    return f"replace the {old.drawing.label} with {with_article(new.drawing.label)}", replace(
        composition, things=things
    )


def _remove(composition: Composition, index: int) -> tuple[str, Composition]:
    things = composition.things[:index] + composition.things[index + 1 :]
    return f"remove the {composition.things[index].drawing.label}", replace(composition, things=things)


def _add(composition: Composition, place: int, bank: SpriteBank, rng: np.random.Generator) -> tuple[str, Composition]:
    drawing = _sample_drawing(rng, bank, [thing.drawing for thing in composition.things])
    new = PlacedDrawing(drawing, place, int(rng.integers(SMALL_PX[0], SMALL_PX[1] + 1)), _sample_offset(rng))
    things = tuple(sorted((*composition.things, new), key=lambda thing: thing.place))
    return f"add {with_article(drawing.label)} {_at(place)}", replace(composition, things=things)


def _sample_drawing(rng: np.random.Generator, bank: SpriteBank, beside: list[Drawing]) -> Drawing:
    """A drawing whose cluster is not among its neighbours'; concepts are equally likely, however many drew them."""
    taken = {drawing.cluster for drawing in beside}
    concepts = list(bank.by_concept)
    while True:
        variants = bank.by_concept[concepts[rng.integers(len(concepts))]]
        if variants[0].cluster not in taken:
            return variants[rng.integers(len(variants))]


def _sample_places(rng: np.random.Generator, count: int) -> list[int]:
    if count == 1:
        return [4]
    if count == 2 and rng.random() < 0.5:
        return list(_PAIRS[rng.integers(len(_PAIRS))])
    return sorted(int(place) for place in rng.choice(_CORNERS, size=count, replace=False))


def _sample_offset(rng: np.random.Generator) -> tuple[int, int]:
    x, y = rng.integers(-_JITTER_PX, _JITTER_PX + 1, size=2)
    return int(x), int(y)


def _sample_ground(rng: np.random.Generator) -> str:
    return _pick(rng, list(COMPOSITION_BACKGROUNDS))


def _absent(composition: Composition, bank: SpriteBank, rng: np.random.Generator) -> str:
    return _sample_drawing(rng, bank, [thing.drawing for thing in composition.things]).label


def _counts(composition: Composition) -> dict[str, int]:
    counts: dict[str, int] = {}
    for thing in composition.things:
        counts[thing.drawing.label] = counts.get(thing.drawing.label, 0) + 1
    return counts


def _has_sure_colour(drawing: Drawing) -> bool:
    if set(drawing.label.split()) & set(COLOUR_WORDS):
        return False  # the name gives it away
    chromatic = [share for word, share in drawing.colours if word in CHROMATIC]
    return (
        bool(chromatic)
        and chromatic[0] == drawing.colours[0][1] >= _SURE_SHARE
        and max(chromatic[1:], default=0.0) < _RIVAL_SHARE
    )


def _holds(relation: str, first: PlacedDrawing, second: PlacedDrawing) -> bool:
    rows, columns = (first.place // 3, second.place // 3), (first.place % 3, second.place % 3)
    return {
        "left of": columns[0] < columns[1],
        "right of": columns[0] > columns[1],
        "above": rows[0] < rows[1],
        "below": rows[0] > rows[1],
    }[relation]


def _at(place: int) -> str:
    name = PLACES[place]
    return f"on the {name}" if name in ("left", "right") else f"at the {name}"


def _plural(label: str) -> str:
    if label.endswith(("s", "x", "ch", "sh")):
        return label + "es"
    return label[:-1] + "ies" if label.endswith("y") and label[-2] not in "aeiou" else label + "s"


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
