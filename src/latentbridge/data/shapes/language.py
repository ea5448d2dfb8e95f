"""Scenes in words: the canonical description, free phrasings, questions, edits and reasoning chains.

Every text comes with what makes it exactly gradable: a parser, an answer or a target scene.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

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
_REASONING_SECTIONS = ("### Image Description:", "### Step", "### The final answer is:")


# --- the canonical description -------------------------------------------------------------------


def describe(scene: Scene) -> str:
    """The canonical description, e.g. "large red circle top left, small blue star bottom, on white"; the inverse of `parse_description`."""
    return ", ".join([*(describe_thing(thing) for thing in scene.things), f"on {scene.background}"])


def describe_thing(thing: Thing) -> str:
    """One thing in canonical words: size, colour, shape, place."""
    return f"{thing.size} {thing.colour} {thing.shape} {PLACES[thing.place]}"


def list_things(things: list[Thing] | tuple[Thing, ...]) -> str:
    """Things one by one in canonical words, or "none"."""
    return "; ".join(describe_thing(thing) for thing in things) or "none"


def parse_description(text: str) -> Scene | None:
    """The scene a canonical description names, or None where it is not one (unknown word, repeated place, too many things)."""
    *parts, last = text.strip().rstrip(".").split(", ")
    background = last.removeprefix("on ")
    matches = [_THING.fullmatch(part) for part in parts]
    if background not in BACKGROUNDS or not last.startswith("on ") or None in matches or len(parts) > MAX_THINGS:
        return None
    things = [Thing(PLACES.index(m[4]), m[3], m[2], m[1]) for m in matches if m]
    if len({thing.place for thing in things}) < len(things):
        return None
    return Scene.from_things(things, background)


# --- free phrasings ------------------------------------------------------------------------------


def _pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[rng.integers(len(options))]


def with_article(noun: str) -> str:
    """The noun phrase with "a" or "an"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    """The plural of a shape word or phrase."""
    if noun in ("cross", "box") or noun.endswith((" cross", " box", "rhombus")):
        return noun + "es"
    return noun + "s"


def _noun(rng: np.random.Generator, shape: str, free: bool = True) -> str:
    return _pick(rng, _SHAPE_WORDS[shape]) if free and rng.random() < 0.4 else shape


def paraphrase(scene: Scene, rng: np.random.Generator) -> str:
    """A free sentence that says everything the scene says: synonyms, any order, varied grammar."""
    order = rng.permutation(len(scene.things)) if rng.random() < 0.5 else range(len(scene.things))
    phrases = []
    for index in order:
        thing = scene.things[index]
        noun = f"{_pick(rng, _SIZE_WORDS[thing.size])} {thing.colour} {_noun(rng, thing.shape)}"
        place = _pick(rng, _PLACE_PHRASES[PLACES[thing.place]])
        phrases.append(f"{with_article(noun)} {place}")
    joined = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    opening = _pick(rng, ["", "", "there is ", "a picture of ", "draw ", "I see "])
    ground = scene.background
    closing = _pick(
        rng, [f" on a {ground} background", f" on {ground}", f", background {ground}", f" against {ground}"]
    )
    return f"{opening}{joined}{closing}"


def partial_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt that is true of the scene but leaves attributes, places or the background open, as people write them."""
    things = scene.things
    shapes = {thing.shape for thing in things}
    alike_colour = len({thing.colour for thing in things}) == 1
    keep_colour, keep_size, keep_place = rng.random() < 0.7, rng.random() < 0.25, rng.random() < 0.25
    opening = _pick(rng, ["", "", "", "draw ", "a picture of ", "please draw ", "a photo of "])
    closing = (
        f" on {_pick(rng, ['a ' + scene.background + ' background', scene.background])}" if rng.random() < 0.3 else ""
    )

    def phrase(thing: Thing, placed: bool) -> str:
        words = [thing.size] * keep_size + [thing.colour] * keep_colour + [_noun(rng, thing.shape)]
        place = " " + _pick(rng, _PLACE_PHRASES[PLACES[thing.place]]) if placed else ""
        return with_article(" ".join(words)) + place

    if len(things) > 1 and len(shapes) == 1 and (alike_colour or rng.random() < 0.6):
        colour = things[0].colour + " " if alike_colour and keep_colour else ""
        return f"{opening}{NUMBER_WORDS[len(things)]} {colour}{plural(_noun(rng, things[0].shape))}{closing}"
    if len(things) == 2 and rng.random() < 0.5:
        first, second = (things[int(i)] for i in rng.permutation(2))
        true = [relation for relation in RELATIONS if relation_holds(relation, first, second)]
        return f"{opening}{phrase(first, False)} {_pick(rng, true)} {phrase(second, False)}{closing}"
    phrases = [phrase(things[int(i)], keep_place) for i in rng.permutation(len(things))]
    joined = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return f"{opening}{joined}{closing}"


def caption_request(rng: np.random.Generator) -> str:
    """One of the ways to ask for the canonical description."""
    return _pick(rng, _CAPTION_REQUESTS)


# --- questions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A question about a scene with its one right answer and the facts a solver needs on the way."""

    kind: str
    text: str
    answer: str
    steps: tuple[str, ...]


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    thing = scene.things[rng.integers(len(scene.things))]
    shape = thing.shape if rng.random() < 0.8 else _pick(rng, SHAPES)
    colour = thing.colour if rng.random() < 0.8 else _pick(rng, list(COLOURS))
    if not _nameable(scene, colour, shape):
        colour, shape = thing.colour, thing.shape
    form = rng.integers(4)
    if form == 0:
        chosen, what = list(scene.things), "objects"
    elif form == 1:
        chosen, what = [t for t in scene.things if t.shape == shape], plural(shape)
    elif form == 2:
        chosen, what = [t for t in scene.things if t.colour == colour], f"{colour} objects"
    else:
        chosen, what = [t for t in scene.things if (t.shape, t.colour) == (shape, colour)], f"{colour} {plural(shape)}"
    return Question("count", f"How many {what} are there?", str(len(chosen)), (f"{what}: {list_things(chosen)}",))


def _ask_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _unique(scene, rng, lambda t: t.shape)
    if thing is None:
        return None
    return Question(
        "colour", f"What color is the {thing.shape}?", thing.colour, (f"the {thing.shape}: {describe_thing(thing)}",)
    )


def _ask_shape_at(scene: Scene, rng: np.random.Generator) -> Question:
    thing = scene.things[rng.integers(len(scene.things))]
    where = _PLACE_PHRASES[PLACES[thing.place]][0]
    return Question(
        "shape", f"What shape is {where}?", thing.shape, (f"{PLACES[thing.place]}: {describe_thing(thing)}",)
    )


def _ask_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    names = Counter((t.colour, t.shape) for t in scene.things)
    unique = [t for t in scene.things if names[t.colour, t.shape] == 1]
    if len(unique) < 2:
        return None
    first, second = (unique[int(i)] for i in rng.permutation(len(unique))[:2])
    wanted = rng.random() < 0.5
    options = [relation for relation in RELATIONS if relation_holds(relation, first, second) == wanted]
    relation = _pick(rng, options)
    text = f"Is the {first.colour} {first.shape} {relation} the {second.colour} {second.shape}?"
    steps = (f"first: {describe_thing(first)}", f"second: {describe_thing(second)}")
    return Question("relation", text, _yes_no(wanted), steps)


def _ask_existence(scene: Scene, rng: np.random.Generator) -> Question:
    thing = scene.things[rng.integers(len(scene.things))]
    present = {(t.colour, t.shape) for t in scene.things}
    wanted = (thing.colour, thing.shape)
    if rng.random() < 0.5:
        absent = [(c, thing.shape) for c in COLOURS] + [(thing.colour, s) for s in SHAPES]
        absent = [pair for pair in absent if pair not in present and _nameable(scene, *pair)]
        wanted = absent[rng.integers(len(absent))]
    noun = f"{wanted[0]} {wanted[1]}"
    found = [t for t in scene.things if (t.colour, t.shape) == wanted]
    return Question(
        "existence", f"Is there {with_article(noun)}?", _yes_no(bool(found)), (f"{plural(noun)}: {list_things(found)}",)
    )


def _ask_comparison(scene: Scene, rng: np.random.Generator) -> Question:
    present = sorted({t.shape for t in scene.things})
    first = _pick(rng, present)
    second = _pick(rng, [shape for shape in SHAPES if shape != first])
    if len(present) > 1 and rng.random() < 0.6:
        second = _pick(rng, [shape for shape in present if shape != first])
    if rng.random() < 0.5:
        first, second = second, first
    chosen = [[t for t in scene.things if t.shape == shape] for shape in (first, second)]
    answer = _yes_no(len(chosen[0]) > len(chosen[1]))
    steps = tuple(
        f"{plural(shape)}: {list_things(things)}" for shape, things in zip((first, second), chosen, strict=True)
    )
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
    """A question of the wanted kind, or of a random kind the scene allows; raises ValueError where a wanted kind has no exact answer.

    With probability `relation` a random kind gives way to a relation, where the scene holds one.
    """
    kinds = [kind] if kind else [QUESTION_KINDS[i] for i in rng.permutation(len(QUESTION_KINDS))]
    if relation and rng.random() < relation:
        kinds = ["relation", *kinds]
    for name in kinds:
        question = _ASK[name](scene, rng)
        if question is not None:
            return question
    raise ValueError(f"the scene allows no {kind} question")


def _nameable(scene: Scene, colour: str, shape: str) -> bool:
    """Whether questions may name the pair: a held-out one only where a scene holds one, else "no" would always be right."""
    return (colour, shape) not in HELD_OUT_PAIRS or split_of(scene) == "test_pairs"


def _unique(scene: Scene, rng: np.random.Generator, name: Callable[[Thing], str]) -> Thing | None:
    counts = Counter(name(t) for t in scene.things)
    options = [t for t in scene.things if counts[name(t)] == 1]
    return options[rng.integers(len(options))] if options else None


def reasoning_chain(scene: Scene, question: Question) -> str:
    """A worked answer whose every step can be checked: description, numbered steps, final answer last (the sections of R1-VL's format)."""
    sections = (f"### Image Description: {describe(scene)}", _numbered(question.steps))
    return "\n".join([*sections, f"### The final answer is: {question.answer}"])


def drawing_plan(scene: Scene) -> str:
    """What to draw, worked out in steps that can be checked: how many things, each thing, the background."""
    count = len(scene.things)
    counted = f"{NUMBER_WORDS[count]} {'object' if count == 1 else 'objects'}"
    return _numbered((counted, *(describe_thing(thing) for thing in scene.things), f"on {scene.background}"))


def _numbered(steps: tuple[str, ...]) -> str:
    return "\n".join(f"### Step {i}: {step}" for i, step in enumerate(steps, start=1))


def final_answer(text: str) -> str:
    """The answer a reply ends with: what follows the last final-answer header, or the whole reply."""
    return text.rpartition(_REASONING_SECTIONS[-1])[2].strip().rstrip(".").lower()


# --- edits ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """An instruction and the one scene it leads to."""

    kind: str
    instruction: str
    target: Scene


EDIT_KINDS = ("recolour", "reshape", "resize", "remove", "add", "background")


def sample_edit(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Edit:
    """An edit of the wanted or a random kind; the named thing is always unique, and what is not named keeps even its offset."""
    kinds = [kind] if kind else [EDIT_KINDS[i] for i in rng.permutation(len(EDIT_KINDS))]
    for name in kinds:
        made = _edit(scene, rng, name)
        if made is not None:
            return made
    raise ValueError(f"the scene allows no {kind} edit")


def _edit(scene: Scene, rng: np.random.Generator, kind: str) -> Edit | None:
    if kind == "background":
        ground = _pick(rng, [name for name in BACKGROUNDS if name != scene.background])
        text = _pick(rng, [f"make the background {ground}", f"change the background to {ground}"])
        return Edit(kind, text, replace(scene, background=ground))
    if kind == "add":
        if len(scene.things) == MAX_THINGS:
            return None
        free = [place for place in range(len(PLACES)) if place not in {t.place for t in scene.things}]
        new = sample_thing(rng, int(free[rng.integers(len(free))]))
        noun = with_article(f"{new.size} {new.colour} {new.shape}")
        text = f"add {noun} {_PLACE_PHRASES[PLACES[new.place]][0]}"
        return Edit(kind, text, Scene.from_things([*scene.things, new], scene.background))
    by_shape = rng.random() < 0.5
    thing = _unique(scene, rng, (lambda t: t.shape) if by_shape else (lambda t: f"{t.colour} {t.shape}"))
    if thing is None or (kind == "remove" and len(scene.things) == 1):
        return None
    noun = thing.shape if by_shape else f"{thing.colour} {thing.shape}"
    others = [t for t in scene.things if t is not thing]
    if kind == "remove":
        text = _pick(rng, [f"remove the {noun}", f"delete the {noun}", f"take away the {noun}"])
        return Edit(kind, text, Scene.from_things(others, scene.background))
    if kind == "recolour":
        colour = _pick(rng, [name for name in COLOURS if name != thing.colour])
        text = _pick(rng, [f"make the {noun} {colour}", f"change the {noun} to {colour}", f"paint the {noun} {colour}"])
        changed = replace(thing, colour=colour)
    elif kind == "reshape":
        shape = _pick(rng, [name for name in SHAPES if name != thing.shape])
        text = _pick(
            rng, [f"turn the {noun} into {with_article(shape)}", f"replace the {noun} with {with_article(shape)}"]
        )
        changed = replace(thing, shape=shape)
    else:
        size = "small" if thing.size == "large" else "large"
        text = f"make the {noun} {'smaller' if size == 'small' else 'bigger'}"
        changed = replace(thing, size=size)
    return Edit(kind, text, Scene.from_things([*others, changed], scene.background))
