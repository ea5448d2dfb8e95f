from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latentbridge.data.shapes.grading import (
    GENEVAL_CATEGORIES,
    PRESERVED_CHANGE,
    ObjectSpec,
    Prompt,
    caption_facts,
    grade_edit,
    sample_prompt,
    satisfies,
)
from latentbridge.data.shapes.language import EDIT_KINDS, describe, sample_edit
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    SPLITS,
    Scene,
    Split,
    Thing,
    sample_scene,
)
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng

RED_CIRCLE = Thing(0, "circle", "red", "large")
BLUE_STAR = Thing(5, "star", "blue", "small")
PAIR = Scene((RED_CIRCLE, BLUE_STAR), "white")


def prompt(*specs: ObjectSpec, relations: tuple[tuple[int, str, int], ...] = ()) -> Prompt:
    return Prompt("", specs, relations)


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ((ObjectSpec("circle"), ObjectSpec("star")), True),
        ((ObjectSpec("star"), ObjectSpec("circle")), True),
        ((ObjectSpec("circle", "red"), ObjectSpec("star", "blue")), True),
        ((ObjectSpec("circle", "blue"), ObjectSpec("star", "red")), False),
        ((ObjectSpec("circle", size="large", place=0), ObjectSpec()), True),
        ((ObjectSpec("circle", size="small"), ObjectSpec()), False),
        ((ObjectSpec("star", place=4), ObjectSpec()), False),
        ((ObjectSpec("circle"),), False),
        ((ObjectSpec("circle"), ObjectSpec("star"), ObjectSpec()), False),
        ((ObjectSpec(count=2),), True),
        ((ObjectSpec("circle", count=2),), False),
    ],
)
def test_satisfies_needs_all_objects_and_no_others(specs: tuple[ObjectSpec, ...], expected: bool) -> None:
    assert satisfies(PAIR, prompt(*specs)) is expected


def test_satisfies_finds_a_bijection_that_a_greedy_match_misses() -> None:
    """The open object could take the red circle, which the second object needs."""
    assert satisfies(PAIR, prompt(ObjectSpec(), ObjectSpec("circle", "red")))
    assert satisfies(PAIR, prompt(ObjectSpec(), ObjectSpec(), relations=((0, "right of", 1),)))


@pytest.mark.parametrize(
    ("relation", "expected"), [("left of", True), ("right of", False), ("above", True), ("below", False)]
)
def test_satisfies_checks_relations(relation: str, expected: bool) -> None:
    sampled = prompt(ObjectSpec("circle"), ObjectSpec("star"), relations=((0, relation, 1),))
    assert satisfies(PAIR, sampled) is expected
    assert satisfies(PAIR, replace(sampled, relations=((1, relation, 0),))) is not expected


def test_a_relation_applies_to_every_thing_of_a_count() -> None:
    sampled = prompt(ObjectSpec("star", count=2), ObjectSpec("circle"), relations=((0, "below", 1),))
    stars = [Thing(place, "star", "red", "small") for place in (3, 8)]
    circle = Thing(1, "circle", "red", "small")
    assert satisfies(Scene.from_things([*stars, circle], "white"), sampled)
    assert not satisfies(Scene.from_things([*stars, replace(circle, place=4)], "white"), sampled)


def test_an_empty_scene_satisfies_only_an_empty_prompt() -> None:
    assert satisfies(Scene((), "white"), prompt())
    assert not satisfies(Scene((), "white"), prompt(ObjectSpec()))
    assert not satisfies(PAIR, prompt())


@pytest.mark.parametrize("category", GENEVAL_CATEGORIES)
@pytest.mark.parametrize("split", SPLITS)
def test_sampled_prompts_hold_pairs_out(category: str, split: Split) -> None:
    rng = numpy_rng(0, "prompts")
    for _ in range(100):
        sampled_prompt = sample_prompt(rng, category, split)
        held_out = [spec for spec in sampled_prompt.objects if (spec.colour, spec.shape) in HELD_OUT_PAIRS]
        assert sampled_prompt.category == category
        assert len(held_out) == (split == "test_pairs" and category in ("colors", "color_attr"))


def test_sampled_prompts_read_naturally() -> None:
    rng = numpy_rng(1, "prompt texts")
    for category in GENEVAL_CATEGORIES:
        for _ in range(100):
            sampled_prompt = sample_prompt(rng, category, "train")
            first, last = sampled_prompt.objects[0], sampled_prompt.objects[-1]
            if category == "counting":
                plural = f"{first.shape}es" if first.shape == "cross" else f"{first.shape}s"
                assert sampled_prompt.text == f"{ {2: 'two', 3: 'three', 4: 'four'}[first.count] } {plural}"
            elif category == "position":
                assert sampled_prompt.text == f"a {first.shape} {sampled_prompt.relations[0][1]} a {last.shape}"
            elif category in ("colors", "color_attr"):
                colours = [
                    ("an " if w.colour == "orange" else "a ") + f"{w.colour} {w.shape}" for w in sampled_prompt.objects
                ]
                assert sampled_prompt.text == " and ".join(colours)
            else:
                assert sampled_prompt.text == " and ".join(f"a {spec.shape}" for spec in sampled_prompt.objects)


def test_sampled_prompts_name_different_things() -> None:
    rng = numpy_rng(2, "prompt things")
    for category in ("two_object", "position", "color_attr"):
        for _ in range(50):
            first, second = sample_prompt(rng, category, "test_pairs").objects
            assert first.shape != second.shape and (first.colour is None or first.colour != second.colour)


def test_an_unknown_category_is_a_user_error() -> None:
    with pytest.raises(UserError, match="color_attr"):
        sample_prompt(numpy_rng(0, "x"), "color_atr", "train")


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_a_perfect_edit_is_right_and_preserved(kind: str) -> None:
    rng = numpy_rng(0, "perfect edits")
    for _ in range(5):
        source = sample_scene(rng, num_things=3, repeat_probability=0.0)
        target = sample_edit(source, rng, kind).target
        grade = grade_edit(source, target, render(target), render(source))
        assert grade.right and grade.preserved and grade.outside_change == 0.0


def test_an_unedited_picture_is_preserved_but_not_right() -> None:
    target = replace(PAIR, things=(RED_CIRCLE, replace(BLUE_STAR, colour="green")))
    grade = grade_edit(PAIR, target, render(PAIR), render(PAIR))
    assert not grade.right and grade.preserved


def test_a_change_beside_the_edit_is_not_preserved() -> None:
    target = replace(PAIR, things=(RED_CIRCLE, replace(BLUE_STAR, colour="green")))
    recoloured = replace(target, things=(replace(RED_CIRCLE, colour="purple"), target.things[1]))
    added = Scene.from_things([*target.things, Thing(8, "cross", "black", "small")], "white")
    for wrong in (recoloured, added, replace(target, background="sky")):
        grade = grade_edit(PAIR, target, render(wrong), render(PAIR))
        assert not grade.right and not grade.preserved


def test_a_colour_cast_is_not_preserved() -> None:
    target = replace(PAIR, things=(RED_CIRCLE,))
    tinted = np.clip(render(target).astype(int) - 12, 0, 255).astype(np.uint8)
    grade = grade_edit(PAIR, target, tinted, render(PAIR))
    assert grade.right and not grade.preserved
    assert grade.outside_change == pytest.approx(12 / 255, rel=0.01)


def test_the_threshold_lies_between_small_errors_and_another_background() -> None:
    noise = numpy_rng(0, "decoder error").normal(0.0, 5.0, (64, 64, 3))
    noisy = np.clip(np.rint(render(PAIR) + noise), 0, 255).astype(np.uint8)
    assert grade_edit(PAIR, PAIR, noisy, render(PAIR)).preserved
    grounds = np.array(list(BACKGROUNDS.values()), dtype=float)
    apart = np.abs(grounds[:, None] - grounds[None]).mean(axis=2) / 255
    assert apart[apart > 0].min() > 3 * PRESERVED_CHANGE


def test_a_background_edit_grades_the_pixels_of_the_things() -> None:
    target = replace(PAIR, background="gray")
    repainted = replace(target, things=(replace(RED_CIRCLE, colour="orange"), BLUE_STAR))
    grade = grade_edit(PAIR, target, render(repainted), render(PAIR))
    assert grade.outside_change > PRESERVED_CHANGE and not grade.preserved
    empty = Scene((), "white")
    assert grade_edit(empty, replace(empty, background="sand"), render(empty), render(empty)).outside_change == 0.0


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("large red circle top left, small blue star right, on white", 10),
        ("large red circle top left, small blue star right, on gray", 9),
        ("large red circle top left, small green star right, on white", 9),
        ("large red circle top, small blue star right, on white", 9),
        ("large red circle top left, on white", 5),
        ("large red circle top left, small blue star right, small black cross bottom, on white", 9),
        ("small red cross top left, large blue star right, on white", 7),
        ("on white", 1),
        ("a nice picture", 0),
        ("", 0),
    ],
)
def test_caption_facts_by_hand(text: str, correct: int) -> None:
    """Two things of four facts, the background and the count: ten."""
    assert caption_facts(text, PAIR) == (correct, 10)


def test_a_true_caption_has_every_fact() -> None:
    rng = numpy_rng(0, "captions")
    for _ in range(20):
        scene = sample_scene(rng)
        assert caption_facts(describe(scene), scene) == (4 * len(scene.things) + 2,) * 2
    assert caption_facts("on sky", Scene((), "sky")) == (2, 2)


def test_prompts_name_every_colour_and_held_out_pair() -> None:
    rng = numpy_rng(3, "coverage")
    sampled = [sample_prompt(rng, "colors", split).objects[0] for split in ("train", "test_pairs") for _ in range(300)]
    assert {spec.colour for spec in sampled} == set(COLOURS)
    assert {(spec.colour, spec.shape) for spec in sampled} >= HELD_OUT_PAIRS
