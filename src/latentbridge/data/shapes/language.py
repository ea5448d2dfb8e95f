"""Scenes in words: canonical descriptions, paraphrases, questions, edits and reasoning chains, each exactly gradable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from latentbridge.data.sampling import join_phrases, pick, pick_other
from latentbridge.data.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    MAX_THINGS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    relation_holds,
    sample_thing,
    split_of,
)

NUMBER_WORDS = ("no", "one", "two", "three", "four")
_SHAPE_WORDS = {
    "circle": ("circle", "disc", "round shape"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "diamond": ("diamond", "rhombus"),
}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
_PLACE_PHRASES = {
    "top left": ("in the top left corner", "at the upper left", "top left"),
    "top": ("at the top", "in the top middle", "top"),
    "top right": ("in the top right corner", "at the upper right", "top right"),
    "left": ("on the left", "in the middle left", "left"),
    "center": ("in the center", "in the middle", "center"),
    "right": ("on the right", "in the middle right", "right"),
    "bottom left": ("in the bottom left corner", "at the lower left", "bottom left"),
    "bottom": ("at the bottom", "in the bottom middle", "bottom"),
    "bottom right": ("in the bottom right corner", "at the lower right", "bottom right"),
}
_THING = re.compile(
    rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(sorted(PLACES, key=len, reverse=True))})"
)
_CAPTION_REQUESTS = ("Describe the picture.", "What do you see?", "Caption this picture.", "What is in the picture?")
_ANSWER_HEADER = "### The final answer is:"


def describe(scene: Scene) -> str:
    """Return the canonical description, e.g. "large red circle top left, small blue star bottom, on white"."""
    return ", ".join([*map(describe_thing, scene.things), f"on {scene.background}"])


def describe_thing(thing: Thing) -> str:
    """Return a thing's size, colour, shape and place."""
    return f"{thing.size} {thing.colour} {thing.shape} {PLACES[thing.place]}"


def list_things(things: Iterable[Thing]) -> str:
    """Return the canonical descriptions of things, or "none"."""
    return "; ".join(map(describe_thing, things)) or "none"


def parse_description(text: str) -> Scene | None:
    """Return the scene of a canonical description; None for an unknown word, a repeated place or too many things."""
    *parts, last = text.strip().rstrip(".").split(", ")
    background = last.removeprefix("on ")
    matches = [_THING.fullmatch(part) for part in parts]
    if background not in BACKGROUNDS or not last.startswith("on ") or None in matches or len(parts) > MAX_THINGS:
        return None
    things = [Thing(PLACES.index(m[4]), m[3], m[2], m[1]) for m in matches if m]
    if len({thing.place for thing in things}) < len(things):
        return None
    return Scene.from_things(things, background)


def with_article(noun: str) -> str:
    """Return the noun phrase after "a" or "an"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    """Return the plural of a shape's name or synonym."""
    return noun + ("es" if noun.endswith(("cross", "box", "rhombus")) else "s")


def _shape_noun(rng: np.random.Generator, shape: str) -> str:
    return pick(rng, _SHAPE_WORDS[shape]) if rng.random() < 0.4 else shape


def paraphrase(scene: Scene, rng: np.random.Generator) -> str:
    """Return a free sentence that says all of a scene, with synonyms, in any order."""
    order = rng.permutation(len(scene.things)) if rng.random() < 0.5 else range(len(scene.things))
    phrases = []
    for thing in (scene.things[index] for index in order):
        noun = f"{pick(rng, _SIZE_WORDS[thing.size])} {thing.colour} {_shape_noun(rng, thing.shape)}"
        phrases.append(f"{with_article(noun)} {pick(rng, _PLACE_PHRASES[PLACES[thing.place]])}")
    opening = pick(rng, ("", "", "there is ", "a picture of ", "draw ", "I see "))
    closing = pick(rng, (" on a {} background", " on {}", ", background {}", " against {}"))
    return f"{opening}{join_phrases(phrases)}{closing.format(scene.background)}"


def partial_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """Return a prompt that is true of the scene and leaves attributes, places or the background open."""
    things = scene.things
    same_shape, same_colour = (len({getattr(t, name) for t in things}) == 1 for name in ("shape", "colour"))
    keep_colour, keep_size, keep_place = rng.random() < 0.7, rng.random() < 0.25, rng.random() < 0.25
    opening = pick(rng, ("", "", "", "draw ", "a picture of ", "please draw ", "a photo of "))
    closing = ""
    if rng.random() < 0.3:
        closing = pick(rng, (" on a {} background", " on {}")).format(scene.background)

    def phrase(thing: Thing, keep_place: bool) -> str:
        words = [thing.size] * keep_size + [thing.colour] * keep_colour + [_shape_noun(rng, thing.shape)]
        place = " " + pick(rng, _PLACE_PHRASES[PLACES[thing.place]]) if keep_place else ""
        return with_article(" ".join(words)) + place

    if len(things) > 1 and same_shape and (same_colour or rng.random() < 0.6):
        colour = things[0].colour + " " if same_colour and keep_colour else ""
        return f"{opening}{NUMBER_WORDS[len(things)]} {colour}{plural(_shape_noun(rng, things[0].shape))}{closing}"
    if len(things) == 2 and rng.random() < 0.5:
        first, second = (things[int(i)] for i in rng.permutation(2))
        true = [relation for relation in RELATIONS if relation_holds(relation, first.place, second.place)]
        return f"{opening}{phrase(first, False)} {pick(rng, true)} {phrase(second, False)}{closing}"
    phrases = [phrase(things[int(i)], keep_place) for i in rng.permutation(len(things))]
    return f"{opening}{join_phrases(phrases)}{closing}"


def caption_request(rng: np.random.Generator) -> str:
    """Return one of the requests for the canonical description."""
    return pick(rng, _CAPTION_REQUESTS)


@dataclass(frozen=True)
class Question:
    """A question about a scene with its only right answer and the facts that lead to it."""

    kind: str
    text: str
    answer: str
    steps: tuple[str, ...]


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    thing = pick(rng, scene.things)
    shape = thing.shape if rng.random() < 0.8 else pick(rng, SHAPES)
    colour = thing.colour if rng.random() < 0.8 else pick(rng, list(COLOURS))
    if not _nameable(scene, colour, shape):
        colour, shape = thing.colour, thing.shape
    form = rng.integers(4)
    names_shape, names_colour = form in (1, 3), form in (2, 3)
    noun = f"{colour} " * names_colour + (plural(shape) if names_shape else "objects")
    counted = [
        t for t in scene.things if (t.shape == shape or not names_shape) and (t.colour == colour or not names_colour)
    ]
    return Question("count", f"How many {noun} are there?", str(len(counted)), (f"{noun}: {list_things(counted)}",))


def _ask_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _pick_unique(scene, rng, lambda t: t.shape)
    if thing is None:
        return None
    steps = (f"the {thing.shape}: {describe_thing(thing)}",)
    return Question("colour", f"What color is the {thing.shape}?", thing.colour, steps)


def _ask_shape_at(scene: Scene, rng: np.random.Generator) -> Question:
    thing = pick(rng, scene.things)
    place = PLACES[thing.place]
    steps = (f"{place}: {describe_thing(thing)}",)
    return Question("shape", f"What shape is {_PLACE_PHRASES[place][0]}?", thing.shape, steps)


def _ask_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    counts = Counter((t.colour, t.shape) for t in scene.things)
    unique = [t for t in scene.things if counts[t.colour, t.shape] == 1]
    if len(unique) < 2:
        return None
    first, second = (unique[int(i)] for i in rng.permutation(len(unique))[:2])
    truth = rng.random() < 0.5
    relation = pick(rng, [name for name in RELATIONS if relation_holds(name, first.place, second.place) == truth])
    text = f"Is the {first.colour} {first.shape} {relation} the {second.colour} {second.shape}?"
    steps = (f"first: {describe_thing(first)}", f"second: {describe_thing(second)}")
    return Question("relation", text, _yes_no(truth), steps)


def _ask_existence(scene: Scene, rng: np.random.Generator) -> Question:
    thing = pick(rng, scene.things)
    present = {(t.colour, t.shape) for t in scene.things}
    pair = (thing.colour, thing.shape)
    if rng.random() < 0.5:
        candidates = [(c, thing.shape) for c in COLOURS] + [(thing.colour, s) for s in SHAPES]
        pair = pick(rng, [other for other in candidates if other not in present and _nameable(scene, *other)])
    noun = " ".join(pair)
    matching = [t for t in scene.things if (t.colour, t.shape) == pair]
    steps = (f"{plural(noun)}: {list_things(matching)}",)
    return Question("existence", f"Is there {with_article(noun)}?", _yes_no(bool(matching)), steps)


def _ask_comparison(scene: Scene, rng: np.random.Generator) -> Question:
    present = sorted({t.shape for t in scene.things})
    first = pick(rng, present)
    second = pick_other(rng, SHAPES, first)
    if len(present) > 1 and rng.random() < 0.6:
        second = pick_other(rng, present, first)
    if rng.random() < 0.5:
        first, second = second, first
    groups = {shape: [t for t in scene.things if t.shape == shape] for shape in (first, second)}
    steps = tuple(f"{plural(shape)}: {list_things(things)}" for shape, things in groups.items())
    answer = _yes_no(len(groups[first]) > len(groups[second]))
    return Question("comparison", f"Are there more {plural(first)} than {plural(second)}?", answer, steps)


_ASK: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "count": _ask_count,
    "colour": _ask_colour,
    "shape": _ask_shape_at,
    "relation": _ask_relation,
    "existence": _ask_existence,
    "comparison": _ask_comparison,
}
QUESTION_KINDS = tuple(_ASK)


def sample_question(scene: Scene, rng: np.random.Generator, kind: str | None = None, relation: float = 0.0) -> Question:
    """Return a question of the kind asked for, or of a random kind; raise ValueError if the scene allows none.

    A random kind is replaced by "relation" with probability `relation`, if the scene has one.
    """
    kinds = [kind] if kind else [QUESTION_KINDS[i] for i in rng.permutation(len(QUESTION_KINDS))]
    if relation and rng.random() < relation:
        kinds = ["relation", *kinds]
    for name in kinds:
        if question := _ASK[name](scene, rng):
            return question
    raise ValueError(f"the scene allows no {kind} question")


def _nameable(scene: Scene, colour: str, shape: str) -> bool:
    """Return whether a question may name the pair; for a held-out pair "no" would always be right in other splits."""
    return (colour, shape) not in HELD_OUT_PAIRS or split_of(scene) == "test_pairs"


def _pick_unique(scene: Scene, rng: np.random.Generator, name: Callable[[Thing], str]) -> Thing | None:
    """Return a thing whose name no other thing has."""
    counts = Counter(map(name, scene.things))
    options = [t for t in scene.things if counts[name(t)] == 1]
    return pick(rng, options) if options else None


def reasoning_chain(scene: Scene, question: Question) -> str:
    """Return a description, numbered steps and the final answer, under R1-VL's headers."""
    return f"### Image Description: {describe(scene)}\n{_numbered(question.steps)}\n{_ANSWER_HEADER} {question.answer}"


def drawing_plan(scene: Scene) -> str:
    """Return numbered steps: the number of things, each thing, the background."""
    count = len(scene.things)
    total = f"{NUMBER_WORDS[count]} {'object' if count == 1 else 'objects'}"
    return _numbered((total, *map(describe_thing, scene.things), f"on {scene.background}"))


def _numbered(steps: tuple[str, ...]) -> str:
    return "\n".join(f"### Step {i}: {step}" for i, step in enumerate(steps, start=1))


def final_answer(text: str) -> str:
    """Return what follows the last final-answer header, or the whole reply, in lower case without a full stop."""
    return text.rpartition(_ANSWER_HEADER)[2].strip().rstrip(".").lower()


@dataclass(frozen=True)
class Edit:
    """An instruction and the scene after it."""

    kind: str
    instruction: str
    target: Scene


EDIT_KINDS = ("recolour", "reshape", "resize", "remove", "add", "background")


def sample_edit(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Edit:
    """Return an edit of the kind asked for, or of a random kind; raise ValueError if the scene allows none.

    An edited thing has a unique name; all others keep even their offsets.
    """
    for name in [kind] if kind else [EDIT_KINDS[i] for i in rng.permutation(len(EDIT_KINDS))]:
        if edit := _edit(scene, rng, name):
            return edit
    raise ValueError(f"the scene allows no {kind} edit")


def _edit(scene: Scene, rng: np.random.Generator, kind: str) -> Edit | None:
    if kind == "background":
        background = pick_other(rng, BACKGROUNDS, scene.background)
        text = pick(rng, ("make the background", "change the background to"))
        return Edit(kind, f"{text} {background}", replace(scene, background=background))
    if kind == "add":
        if len(scene.things) == MAX_THINGS:
            return None
        new = sample_thing(rng, pick(rng, scene.free_places()))
        noun = with_article(f"{new.size} {new.colour} {new.shape}")
        text = f"add {noun} {_PLACE_PHRASES[PLACES[new.place]][0]}"
        return Edit(kind, text, Scene.from_things([*scene.things, new], scene.background))
    by_shape = rng.random() < 0.5
    thing = _pick_unique(scene, rng, (lambda t: t.shape) if by_shape else (lambda t: f"{t.colour} {t.shape}"))
    if thing is None or (kind == "remove" and len(scene.things) == 1):
        return None
    noun = thing.shape if by_shape else f"{thing.colour} {thing.shape}"
    others = [t for t in scene.things if t is not thing]
    if kind == "remove":
        text = f"{pick(rng, ('remove', 'delete', 'take away'))} the {noun}"
        return Edit(kind, text, Scene.from_things(others, scene.background))
    if kind == "recolour":
        colour = pick_other(rng, COLOURS, thing.colour)
        text = pick(rng, (f"make the {noun} {colour}", f"change the {noun} to {colour}", f"paint the {noun} {colour}"))
        edited = replace(thing, colour=colour)
    elif kind == "reshape":
        shape = pick_other(rng, SHAPES, thing.shape)
        text = pick(rng, ("turn the {} into {}", "replace the {} with {}")).format(noun, with_article(shape))
        edited = replace(thing, shape=shape)
    else:
        size = "small" if thing.size == "large" else "large"
        text = f"make the {noun} {'smaller' if size == 'small' else 'bigger'}"
        edited = replace(thing, size=size)
    return Edit(kind, text, Scene.from_things([*others, edited], scene.background))
