"""Questions about scenes that take several steps, each with the one right answer, its key steps and a worked chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from latentbridge.data.reasoning import Chain, KeyStep, Problem, write_chain
from latentbridge.data.shapes.language import NUMBER_WORDS, describe, describe_thing, list_things, plural
from latentbridge.data.shapes.scenes import (
    COLOURS,
    MAX_THINGS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Split,
    Thing,
    relation_holds,
    scenes,
)


def problems(split: Split, rng: np.random.Generator, kind: str | None = None) -> Iterator[tuple[Scene, Problem]]:
    """Endless scenes of one split, of two things or more, with a problem of the wanted kind or of any."""
    while True:
        scene = next(scenes(split, rng, int(rng.integers(2, MAX_THINGS + 1))))
        try:
            yield scene, sample_problem(scene, rng, kind)
        except ValueError:
            continue


def sample_problem(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Problem:
    """A problem of the wanted kind, or of a random kind; raises ValueError where the scene does not allow a wanted kind."""
    kinds = [kind] if kind else [PROBLEM_KINDS[i] for i in rng.permutation(len(PROBLEM_KINDS))]
    for name in kinds:
        made = _POSE[name](scene, rng)
        if made is not None:
            question, answer, rationale, steps = made
            chain = Chain(describe(scene), rationale, tuple(text for text, _ in steps), answer)
            return Problem(question, answer, tuple(key for _, key in steps), write_chain(chain), name)
    raise ValueError(f"the scene allows no {kind} problem")


_Steps = list[tuple[str, KeyStep]]
_Posed = tuple[str, str, str, _Steps]
"""Question, answer, rationale, and the steps with what each must say."""


@dataclass(frozen=True)
class _Sort:
    """Things of one sort, to be counted."""

    one: str
    many: str
    things: tuple[Thing, ...]

    def counted(self, label: str = "") -> tuple[str, KeyStep]:
        """The step that lists and counts them."""
        count = len(self.things)
        others = (form for n in range(MAX_THINGS + 1) if n != count for form in self._forms(n))
        text = f"{label or self.many}: {list_things(self.things)}. That is {self._forms(count)[0]}."
        return text, KeyStep(self._forms(count), tuple(others))

    def _forms(self, count: int) -> tuple[str, ...]:
        noun = self.one if count == 1 else self.many
        numbers = (str(count), NUMBER_WORDS[count], *(["zero"] if count == 0 else []))
        return tuple(f"{number} {noun}" for number in numbers)


def _sorts(scene: Scene, rng: np.random.Generator) -> list[_Sort]:
    """All sorts of one attribute, in random order, one that the scene holds first."""
    attribute = ("shape", "colour", "size")[rng.integers(3)]
    names = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES}[attribute]
    found: list[_Sort] = []
    for name in (names[i] for i in rng.permutation(len(names))):
        one, many = (name, plural(name)) if attribute == "shape" else (f"{name} object", f"{name} objects")
        things = tuple(thing for thing in scene.things if getattr(thing, attribute) == name)
        found.append(_Sort(one, many, things))
    return sorted(found, key=lambda sort: not sort.things)


def _two_sorts(scene: Scene, rng: np.random.Generator) -> tuple[_Sort, _Sort]:
    """Two sorts of one attribute, the first in the scene, the second most often too."""
    first, *others = _sorts(scene, rng)
    present = [sort for sort in others if sort.things]
    return first, present[0] if present and rng.random() < 0.75 else others[rng.integers(len(others))]


def _pose_sum(scene: Scene, rng: np.random.Generator) -> _Posed:
    first, second = _two_sorts(scene, rng)
    total = len(first.things) + len(second.things)
    return (
        f"How many {first.many} and {second.many} are there together?",
        str(total),
        f"count the {first.many}, count the {second.many}, then add.",
        [first.counted(), second.counted(), _calculated(len(first.things), "plus", "+", len(second.things), total)],
    )


def _pose_difference(scene: Scene, rng: np.random.Generator) -> _Posed:
    second, first = sorted(_two_sorts(scene, rng), key=lambda sort: len(sort.things))
    more = len(first.things) - len(second.things)
    return (
        f"How many more {first.many} than {second.many} are there?",
        str(more),
        f"count the {first.many}, count the {second.many}, then subtract.",
        [first.counted(), second.counted(), _calculated(len(first.things), "minus", "-", len(second.things), more)],
    )


def _pose_equality(scene: Scene, rng: np.random.Generator) -> _Posed:
    first, *others = _sorts(scene, rng)
    wanted = rng.random() < 0.5
    fitting = [sort for sort in others if (len(sort.things) == len(first.things)) == wanted] or others
    second = fitting[rng.integers(len(fitting))]
    same = len(second.things) == len(first.things)
    said, other = ("are the same", "are not the same") if same else ("are not the same", "are the same")
    compared = f"{len(first.things)} and {len(second.things)} {said}."
    return (
        f"Are there as many {first.many} as {second.many}?",
        "yes" if same else "no",
        f"count the {first.many}, count the {second.many}, then compare.",
        [first.counted(), second.counted(), (compared, KeyStep((said,), (other,)))],
    )


def _calculated(first: int, word: str, sign: str, second: int, result: int) -> tuple[str, KeyStep]:
    """The step that adds or subtracts; every other sum is against it."""
    numbers = range(MAX_THINGS + 1)
    forms = _sum_forms(first, word, sign, second, result)
    others = (_sum_forms(a, word, sign, b, c) for a in numbers for b in numbers for c in numbers)
    against = tuple(form for other in others if other != forms for form in other)
    return f"{forms[0]}.", KeyStep(forms, against)


def _sum_forms(first: int, word: str, sign: str, second: int, result: int) -> tuple[str, ...]:
    return f"{first} {word} {second} is {result}", f"{first} {sign} {second} = {result}"


def _pose_count_beside(scene: Scene, rng: np.random.Generator) -> _Posed | None:
    found = _anchored(scene, rng)
    if found is None:
        return None
    name, relation, beside, line, located = found
    sort = _Sort("object", "objects", beside)
    return (
        f"How many objects are {relation} the {name}?",
        str(len(beside)),
        f"find the {name}, then count what is {relation} it.",
        [located, sort.counted(f"{relation} {line}")],
    )


def _pose_shape_beside(scene: Scene, rng: np.random.Generator) -> _Posed | None:
    found = _anchored(scene, rng, most=MAX_THINGS)
    if found is None:
        return None
    name, relation, beside, line, located = found
    there = [shape for shape in SHAPES if any(thing.shape == shape for thing in beside)]
    others = [shape for shape in SHAPES if shape not in there]
    elsewhere = [shape for shape in others if any(thing.shape == shape for thing in scene.things)]
    fitting = there if rng.random() < 0.5 else elsewhere or others
    shape = fitting[rng.integers(len(fitting))]
    sort = _Sort(shape, plural(shape), tuple(thing for thing in beside if thing.shape == shape))
    return (
        f"Are any {plural(shape)} {relation} the {name}?",
        "yes" if sort.things else "no",
        f"find the {name}, then look for {plural(shape)} {relation} it.",
        [located, sort.counted(f"{plural(shape)} {relation} {line}")],
    )


def _pose_colour_beside(scene: Scene, rng: np.random.Generator) -> _Posed | None:
    found = _anchored(scene, rng, most=1)
    if found is None:
        return None
    name, relation, (thing,), line, located = found
    others = tuple(f"color is {colour}" for colour in COLOURS if colour != thing.colour)
    return (
        f"What color is the object {relation} the {name}?",
        thing.colour,
        f"find the {name}, then what is {relation} it, then its color.",
        [
            located,
            _Sort("object", "objects", (thing,)).counted(f"{relation} {line}"),
            (f"its color is {thing.colour}.", KeyStep((f"color is {thing.colour}",), others)),
        ],
    )


def _anchored(
    scene: Scene, rng: np.random.Generator, most: int = 0
) -> tuple[str, str, tuple[Thing, ...], str, tuple[str, KeyStep]] | None:
    """A thing with a name of its own, a relation, the things that stand so to it, its line, and the step that finds it.

    A line is a row or a column of places, counted from 1. With `most`, one to so many things stand in that relation.
    """
    counts = Counter((thing.colour, thing.shape) for thing in scene.things)
    options = [
        (anchor, relation, tuple(thing for thing in scene.things if relation_holds(relation, thing.place, anchor.place)))
        for anchor in scene.things
        if counts[anchor.colour, anchor.shape] == 1
        for relation in RELATIONS
    ]
    options = [option for option in options if not most or 1 <= len(option[2]) <= most]
    if not options:
        return None
    anchor, relation, beside = options[rng.integers(len(options))]
    line, number = ("column", anchor.column + 1) if relation in ("left of", "right of") else ("row", anchor.row + 1)
    elsewhere = tuple(f"{line} {other}" for other in (1, 2, 3) if other != number)
    located = f"{describe_thing(anchor)} is in {line} {number}.", KeyStep((f"{line} {number}",), elsewhere)
    return f"{anchor.colour} {anchor.shape}", relation, beside, f"{line} {number}", located


_POSE: dict[str, Callable[[Scene, np.random.Generator], _Posed | None]] = {
    "sum": _pose_sum,
    "difference": _pose_difference,
    "equality": _pose_equality,
    "count beside": _pose_count_beside,
    "shape beside": _pose_shape_beside,
    "colour beside": _pose_colour_beside,
}
PROBLEM_KINDS = tuple(_POSE)
