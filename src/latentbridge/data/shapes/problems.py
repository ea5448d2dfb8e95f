"""Questions about scenes that take several steps, each with its answer, key steps and reasoning chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from latentbridge.data.reasoning import Chain, KeyStep, Problem, write_chain
from latentbridge.data.sampling import pick
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

_Step = tuple[str, KeyStep]
"""A line of the chain and the phrases that a reply must reach in it."""
_Parts = tuple[str, str, str, list[_Step]]
"""Question, answer, rationale, steps."""


def problems(split: Split, rng: np.random.Generator, kind: str | None = None) -> Iterator[tuple[Scene, Problem]]:
    """Yield scenes of one split with two things or more, each with a problem, without end."""
    while True:
        scene = next(scenes(split, rng, int(rng.integers(2, MAX_THINGS + 1))))
        try:
            yield scene, sample_problem(scene, rng, kind)
        except ValueError:
            continue


def sample_problem(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Problem:
    """Return a problem of the kind asked for, or of a random kind; raise ValueError if the scene allows none."""
    for name in [kind] if kind else [PROBLEM_KINDS[i] for i in rng.permutation(len(PROBLEM_KINDS))]:
        if parts := _KINDS[name](scene, rng):
            question, answer, rationale, steps = parts
            chain = Chain(describe(scene), rationale, tuple(text for text, _ in steps), answer)
            return Problem(question, answer, tuple(key for _, key in steps), write_chain(chain), name)
    raise ValueError(f"the scene allows no {kind} problem")


@dataclass(frozen=True)
class _Group:
    """The things of a scene that share an attribute, to be counted."""

    singular: str
    plural: str
    things: tuple[Thing, ...]

    def count_step(self, label: str = "") -> _Step:
        """Return the step that lists and counts the things."""
        count = len(self.things)
        others = (phrase for n in range(MAX_THINGS + 1) if n != count for phrase in self._phrases(n))
        text = f"{label or self.plural}: {list_things(self.things)}. That is {self._phrases(count)[0]}."
        return text, KeyStep(self._phrases(count), tuple(others))

    def _phrases(self, count: int) -> tuple[str, ...]:
        noun = self.singular if count == 1 else self.plural
        numbers = (str(count), NUMBER_WORDS[count], *(["zero"] if count == 0 else []))
        return tuple(f"{number} {noun}" for number in numbers)


def _groups(scene: Scene, rng: np.random.Generator) -> list[_Group]:
    """Return the groups of one attribute in random order, those that are not empty first."""
    attribute, names = pick(rng, (("shape", SHAPES), ("colour", tuple(COLOURS)), ("size", SIZES)))
    groups: list[_Group] = []
    for name in (names[i] for i in rng.permutation(len(names))):
        nouns = (name, plural(name)) if attribute == "shape" else (f"{name} object", f"{name} objects")
        groups.append(_Group(*nouns, tuple(thing for thing in scene.things if getattr(thing, attribute) == name)))
    return sorted(groups, key=lambda group: not group.things)


def _two_groups(scene: Scene, rng: np.random.Generator) -> tuple[_Group, _Group]:
    """Return two groups of one attribute: the first is not empty, the second is mostly not."""
    first, *others = _groups(scene, rng)
    present = [group for group in others if group.things]
    return first, present[0] if present and rng.random() < 0.75 else pick(rng, others)


def _sum_problem(scene: Scene, rng: np.random.Generator) -> _Parts:
    first, second = _two_groups(scene, rng)
    total = len(first.things) + len(second.things)
    question = f"How many {first.plural} and {second.plural} are there together?"
    return _counting_parts(question, total, first, second, "add", _arithmetic_step(first, "plus", "+", second, total))


def _difference_problem(scene: Scene, rng: np.random.Generator) -> _Parts:
    second, first = sorted(_two_groups(scene, rng), key=lambda group: len(group.things))
    difference = len(first.things) - len(second.things)
    step = _arithmetic_step(first, "minus", "-", second, difference)
    question = f"How many more {first.plural} than {second.plural} are there?"
    return _counting_parts(question, difference, first, second, "subtract", step)


def _equality_problem(scene: Scene, rng: np.random.Generator) -> _Parts:
    first, *others = _groups(scene, rng)
    truth = rng.random() < 0.5
    second = pick(rng, [group for group in others if (len(group.things) == len(first.things)) == truth] or others)
    equal = len(second.things) == len(first.things)
    stated, opposite = ("are the same", "are not the same")[:: 1 if equal else -1]
    step = f"{len(first.things)} and {len(second.things)} {stated}.", KeyStep((stated,), (opposite,))
    question = f"Are there as many {first.plural} as {second.plural}?"
    return _counting_parts(question, "yes" if equal else "no", first, second, "compare", step)


def _counting_parts(question: str, answer: int | str, first: _Group, second: _Group, verb: str, last: _Step) -> _Parts:
    rationale = f"count the {first.plural}, count the {second.plural}, then {verb}."
    return question, str(answer), rationale, [first.count_step(), second.count_step(), last]


def _arithmetic_step(first: _Group, word: str, sign: str, second: _Group, result: int) -> _Step:
    """Return the step that adds or subtracts; all other sums of its kind contradict it."""

    def phrases(a: int, b: int, c: int) -> tuple[str, ...]:
        return f"{a} {word} {b} is {c}", f"{a} {sign} {b} = {c}"

    right = phrases(len(first.things), len(second.things), result)
    numbers = range(MAX_THINGS + 1)
    others = (phrases(a, b, c) for a in numbers for b in numbers for c in numbers)
    return f"{right[0]}.", KeyStep(right, tuple(phrase for other in others if other != right for phrase in other))


def _count_beside_problem(scene: Scene, rng: np.random.Generator) -> _Parts | None:
    if (sampled := _sample_anchor(scene, rng)) is None:
        return None
    name, relation, beside, line, anchor_step = sampled
    return (
        f"How many objects are {relation} the {name}?",
        str(len(beside)),
        f"find the {name}, then count what is {relation} it.",
        [anchor_step, _Group("object", "objects", beside).count_step(f"{relation} {line}")],
    )


def _shape_beside_problem(scene: Scene, rng: np.random.Generator) -> _Parts | None:
    if (sampled := _sample_anchor(scene, rng, max_beside=MAX_THINGS)) is None:
        return None
    name, relation, beside, line, anchor_step = sampled
    present = [shape for shape in SHAPES if any(thing.shape == shape for thing in beside)]
    absent = [shape for shape in SHAPES if shape not in present]
    elsewhere = [shape for shape in absent if any(thing.shape == shape for thing in scene.things)]
    shape = pick(rng, present if rng.random() < 0.5 else elsewhere or absent)
    group = _Group(shape, plural(shape), tuple(thing for thing in beside if thing.shape == shape))
    return (
        f"Are any {group.plural} {relation} the {name}?",
        "yes" if group.things else "no",
        f"find the {name}, then look for {group.plural} {relation} it.",
        [anchor_step, group.count_step(f"{group.plural} {relation} {line}")],
    )


def _colour_beside_problem(scene: Scene, rng: np.random.Generator) -> _Parts | None:
    if (sampled := _sample_anchor(scene, rng, max_beside=1)) is None:
        return None
    name, relation, (thing,), line, anchor_step = sampled
    others = tuple(f"color is {colour}" for colour in COLOURS if colour != thing.colour)
    return (
        f"What color is the object {relation} the {name}?",
        thing.colour,
        f"find the {name}, then what is {relation} it, then its color.",
        [
            anchor_step,
            _Group("object", "objects", (thing,)).count_step(f"{relation} {line}"),
            (f"its color is {thing.colour}.", KeyStep((f"color is {thing.colour}",), others)),
        ],
    )


def _sample_anchor(
    scene: Scene, rng: np.random.Generator, max_beside: int = 0
) -> tuple[str, str, tuple[Thing, ...], str, _Step] | None:
    """Return the name of a unique thing, a relation, the things in it, the thing's row or column, and its step.

    With `max_beside`, one to so many things are in the relation. Rows and columns count from 1.
    """
    counts = Counter((thing.colour, thing.shape) for thing in scene.things)
    options = [
        (anchor, relation, tuple(t for t in scene.things if relation_holds(relation, t.place, anchor.place)))
        for anchor in scene.things
        if counts[anchor.colour, anchor.shape] == 1
        for relation in RELATIONS
    ]
    options = [option for option in options if not max_beside or 1 <= len(option[2]) <= max_beside]
    if not options:
        return None
    anchor, relation, beside = pick(rng, options)
    line, number = ("column", anchor.column + 1) if relation in ("left of", "right of") else ("row", anchor.row + 1)
    others = tuple(f"{line} {other}" for other in (1, 2, 3) if other != number)
    step = f"{describe_thing(anchor)} is in {line} {number}.", KeyStep((f"{line} {number}",), others)
    return f"{anchor.colour} {anchor.shape}", relation, beside, f"{line} {number}", step


_KINDS: dict[str, Callable[[Scene, np.random.Generator], _Parts | None]] = {
    "sum": _sum_problem,
    "difference": _difference_problem,
    "equality": _equality_problem,
    "count beside": _count_beside_problem,
    "shape beside": _shape_beside_problem,
    "colour beside": _colour_beside_problem,
}
PROBLEM_KINDS = tuple(_KINDS)
