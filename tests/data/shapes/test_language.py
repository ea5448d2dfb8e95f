from __future__ import annotations

import re

import numpy as np
import pytest

from latentbridge.data.shapes.language import (
    EDIT_KINDS,
    QUESTION_KINDS,
    Question,
    describe,
    final_answer,
    paraphrase,
    parse_description,
    plural,
    reasoning_chain,
    sample_edit,
    sample_question,
    with_article,
)
from latentbridge.data.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    PLACES,
    SHAPES,
    SPLITS,
    Scene,
    Thing,
    distinct_scenes,
    sample_scene,
    split_of,
)
from latentbridge.rng import numpy_rng

SINGULAR = {
    "circles": "circle",
    "squares": "square",
    "triangles": "triangle",
    "stars": "star",
    "crosses": "cross",
    "diamonds": "diamond",
}
WHERE = {
    "in the top left corner": (0, 0),
    "at the top": (1, 0),
    "in the top right corner": (2, 0),
    "on the left": (0, 1),
    "in the center": (1, 1),
    "on the right": (2, 1),
    "in the bottom left corner": (0, 2),
    "at the bottom": (1, 2),
    "in the bottom right corner": (2, 2),
}
CROWD = Scene.from_things(
    [
        Thing(0, "star", "blue", "large"),
        Thing(4, "star", "yellow", "small"),
        Thing(6, "cross", "red", "large"),
        Thing(8, "circle", "red", "small", offset_px=(1, -1)),
    ],
    "sand",
)
LONE = Scene.from_things([Thing(7, "square", "orange", "small")], "gray")
TWINS = Scene.from_things([Thing(1, "diamond", "green", "large"), Thing(2, "diamond", "green", "small")], "sky")
HAND_MADE = (CROWD, LONE, TWINS)


def rng(step: int = 0) -> np.random.Generator:
    return numpy_rng(0, "test language", step)


# --- descriptions --------------------------------------------------------------------------------


def test_descriptions_by_hand():
    assert describe(LONE) == "small orange square bottom, on gray"
    assert describe(CROWD) == (
        "large blue star top left, small yellow star center, large red cross bottom left, "
        "small red circle bottom right, on sand"
    )


@pytest.mark.parametrize("split", SPLITS)
def test_a_description_parses_to_its_scene(split):
    for scene in distinct_scenes(split, rng(), 150):
        assert parse_description(describe(scene)) == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        "on white",
        "small orange square bottom",
        "small orange square bottom, on pink",
        "small orange square bottom, gray",
        "orange square bottom, on gray",
        "small orange squares bottom, on gray",
        "small orange square bottom, small red star bottom, on gray",
        ", ".join(f"small red star {place}" for place in PLACES[:5]) + ", on gray",
    ],
)
def test_other_texts_do_not_parse(text):
    parsed = parse_description(text)
    assert parsed is None or (text == "on white" and parsed.things == ())


def test_a_paraphrase_names_every_thing():
    for step, scene in enumerate(distinct_scenes("train", rng(), 50)):
        text = paraphrase(scene, rng(step))
        for thing in scene.things:
            assert re.search(rf"\b(an?) (small|little|tiny|large|big) {thing.colour} ", text), text
        assert text.count(" background") <= 1 and scene.background in text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_plurals_and_articles():
    assert [plural(word) for word in ("cross", "box", "plus sign", "rhombus", "round shape", "red cross")] == [
        "crosses", "boxes", "plus signs", "rhombuses", "round shapes", "red crosses",
    ]  # fmt: skip
    assert {plural(shape) for shape in SHAPES} == SINGULAR.keys()
    assert [with_article(noun) for noun in ("orange star", "red star")] == ["an orange star", "a red star"]


# --- questions -----------------------------------------------------------------------------------


def place(thing: Thing) -> tuple[int, int]:
    """Return (column, row)."""
    return thing.place % 3, thing.place // 3


def solve(scene: Scene, text: str) -> str:
    """Return the answer, parsed from the question."""
    things = scene.things
    if match := re.fullmatch(r"How many (?:(\w+) )?(\w+) are there\?", text):
        colour, noun = match.groups()
        return str(sum(colour in (None, t.colour) and (noun == "objects" or SINGULAR[noun] == t.shape) for t in things))
    if match := re.fullmatch(r"What color is the (\w+)\?", text):
        (colour,) = [t.colour for t in things if t.shape == match[1]]
        return colour
    if match := re.fullmatch(r"What shape is (.+)\?", text):
        (shape,) = [t.shape for t in things if place(t) == WHERE[match[1]]]
        return shape
    if match := re.fullmatch(r"Is there (an?) (\w+) (\w+)\?", text):
        assert (match[1] == "an") == (match[2][0] in "aeiou")
        return "yes" if any((t.colour, t.shape) == (match[2], match[3]) for t in things) else "no"
    if match := re.fullmatch(r"Are there more (\w+) than (\w+)\?", text):
        first, second = (sum(t.shape == SINGULAR[noun] for t in things) for noun in match.groups())
        return "yes" if first > second else "no"
    match = re.fullmatch(r"Is the (\w+) (\w+) (left of|right of|above|below) the (\w+) (\w+)\?", text)
    assert match, text
    ((x1, y1),) = [place(t) for t in things if (t.colour, t.shape) == (match[1], match[2])]
    ((x2, y2),) = [place(t) for t in things if (t.colour, t.shape) == (match[4], match[5])]
    true = {"left of": x1 < x2, "right of": x1 > x2, "above": y1 < y2, "below": y1 > y2}[match[3]]
    return "yes" if true else "no"


def test_answers_follow_from_the_questions_words():
    answers: dict[str, set[str]] = {kind: set() for kind in QUESTION_KINDS}
    for step, scene in enumerate([*HAND_MADE * 30, *distinct_scenes("train", rng(), 150)]):
        generator = rng(step)
        for kind in QUESTION_KINDS:
            try:
                question = sample_question(scene, generator, kind)
            except ValueError:
                assert kind in ("colour", "relation")
                continue
            assert question.kind == kind
            assert question.answer == solve(scene, question.text), (question, describe(scene))
            answers[kind].add(question.answer)
    assert answers["count"] == {"0", "1", "2", "3", "4"}
    assert answers["colour"] == set(COLOURS) and answers["shape"] == set(SHAPES)
    for kind in ("relation", "existence", "comparison"):
        assert answers[kind] == {"yes", "no"}


def test_questions_without_a_unique_answer_are_not_sampled():
    for kind in ("colour", "relation"):
        with pytest.raises(ValueError, match=kind):
            sample_question(TWINS, rng(), kind)
    assert {sample_question(TWINS, rng(step)).kind for step in range(60)} == set(QUESTION_KINDS) - {
        "colour",
        "relation",
    }


def test_only_scenes_with_a_held_out_pair_are_asked_about_one():
    others = [scene for scene in HAND_MADE if split_of(scene) != "test_pairs"]
    unseen = Scene.from_things([*CROWD.things[:3], Thing(8, "star", "red", "small")], "sand")
    assert others and split_of(unseen) == "test_pairs"
    for scene, allowed in [*((scene, False) for scene in others), (unseen, True)]:
        named = set()
        for step in range(200):
            words = re.findall(r"\w+", sample_question(scene, rng(step)).text)
            named |= {(colour, SINGULAR.get(noun, noun)) for colour, noun in zip(words, words[1:], strict=False)}
        assert bool(named & HELD_OUT_PAIRS) == allowed


def test_a_reasoning_chain_ends_with_the_answer():
    question = Question("count", "How many stars are there?", "2", ("stars: a; b",))
    chain = reasoning_chain(LONE, question)
    assert chain.splitlines() == [
        "### Image Description: small orange square bottom, on gray",
        "### Step 1: stars: a; b",
        "### The final answer is: 2",
    ]
    assert final_answer(chain) == "2"
    assert [final_answer(text) for text in ("Yes.", " no ", "")] == ["yes", "no", ""]


# --- edits ---------------------------------------------------------------------------------------


def apply_instruction(scene: Scene, text: str) -> Scene:
    """Return the target, parsed from the instruction."""
    things = list(scene.things)
    if match := re.fullmatch(r"(?:make|change) the background (?:to )?(\w+)", text):
        return Scene.from_things(things, match[1])
    if match := re.fullmatch(r"add an? (\w+) (\w+) (\w+) (.+)", text):
        x, y = WHERE[match[4]]
        return Scene.from_things([*things, Thing(3 * y + x, match[3], match[2], match[1])], scene.background)
    named = re.search(r"the (?:(\w+) )??(circle|square|triangle|star|cross|diamond)\b", text)
    assert named, text
    (old,) = [t for t in things if named[1] in (None, t.colour) and t.shape == named[2]]
    rest, words = [t for t in things if t is not old], text[named.end() :].split()
    if not words:
        assert text.startswith(("remove", "delete", "take away"))
        return Scene.from_things(rest, scene.background)
    shape = words[-1] if words[-1] in SHAPES else old.shape
    colour = words[-1] if words[-1] in COLOURS else old.colour
    size = {"smaller": "small", "bigger": "large"}.get(words[-1], old.size)
    return Scene.from_things([*rest, Thing(old.place, shape, colour, size)], scene.background)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_targets_follow_from_the_instructions_words(kind):
    made = 0
    for step, scene in enumerate([*HAND_MADE * 10, *(sample_scene(rng(s)) for s in range(60))]):
        try:
            change = sample_edit(scene, rng(step), kind)
        except ValueError:
            continue
        made += 1
        assert change.kind == kind
        assert change.target == apply_instruction(scene, change.instruction), (change, describe(scene))
        assert change.target != scene
        before = {t.place: t.offset_px for t in scene.things}
        assert all(t.offset_px == before[t.place] for t in change.target.things if t.place in before)
    assert made > 25


@pytest.mark.parametrize(("scene", "kind"), [(LONE, "remove"), (TWINS, "recolour"), (TWINS, "remove"), (CROWD, "add")])
def test_impossible_edits_are_refused(scene, kind):
    for step in range(20):
        with pytest.raises(ValueError, match=kind):
            sample_edit(scene, rng(step), kind)
    assert sample_edit(scene, rng()).kind in EDIT_KINDS
    assert set(BACKGROUNDS) >= {sample_edit(scene, rng(step), "background").target.background for step in range(9)}
