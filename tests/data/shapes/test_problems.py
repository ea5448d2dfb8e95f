from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen2Tokenizer

from latentbridge import models
from latentbridge.data.reasoning import is_right, read_chain, steps_reached
from latentbridge.data.shapes.language import QUESTION_KINDS, describe
from latentbridge.data.shapes.problems import PROBLEM_KINDS, pose, problems
from latentbridge.data.shapes.scenes import HELD_OUT_PAIRS, Scene, Thing, split_of
from latentbridge.rng import numpy_rng

SCENE = Scene(
    (
        Thing(0, "circle", "red", "large"),
        Thing(2, "star", "blue", "small"),
        Thing(4, "circle", "blue", "small"),
        Thing(7, "square", "green", "small"),
    ),
    "white",
)


def sample(kind: str, count: int) -> list:
    rng = numpy_rng(3, f"problems {kind}")
    return [pair for pair, _ in zip(problems("train", rng, kind), range(count), strict=False)]


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_every_chain_is_valid_right_and_reaches_all_its_key_steps(kind: str):
    for scene, problem in sample(kind, 97):
        chain = read_chain(problem.chain)
        assert chain is not None and problem.kind == kind
        assert chain.description == describe(scene) and chain.answer == problem.answer
        assert is_right(problem.chain, problem)
        assert steps_reached(problem.chain, problem) == 1
        assert len(chain.steps) == len(problem.key_steps) >= 2


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_no_answer_can_be_guessed_without_looking(kind: str):
    answers = Counter(problem.answer for _, problem in sample(kind, 211))
    (_, commonest), *_ = answers.most_common(1)
    assert len(answers) > 1 and commonest < 0.75 * 211


def answer_by_hand(scene: Scene, question: str) -> str:
    """The answer read from the words of a question in another way than they were made."""
    words = question.lower().rstrip("?").split()

    def count(noun: str) -> int:
        adjective = noun.split()[0]
        stem = adjective.removesuffix("es") if adjective in ("crosses",) else adjective.removesuffix("s")
        return sum(
            {"colour": t.colour, "size": t.size}.get(kind) == adjective or t.shape == stem
            for t in scene.things
            for kind in ("colour",)
        ) or sum(t.size == adjective for t in scene.things)

    if "together" in words or "as" in words or "than" in words:
        middle = question.lower().rstrip("?")
        for start in ("how many more ", "how many ", "are there as many "):
            middle = middle.removeprefix(start)
        middle = middle.removesuffix(" are there together").removesuffix(" are there")
        joint = " and " if "together" in words else " than " if "than" in words else " as "
        first, second = (count(noun) for noun in middle.split(joint))
        if joint == " and ":
            return str(first + second)
        return str(first - second) if joint == " than " else ("yes" if first == second else "no")
    colour, shape = words[-2:]
    (anchor,) = [t for t in scene.things if (t.colour, t.shape) == (colour, shape)]
    beside = [
        t
        for t in scene.things
        if ("left" in words and t.column < anchor.column)
        or ("right" in words and t.column > anchor.column)
        or ("above" in words and t.row < anchor.row)
        or ("below" in words and t.row > anchor.row)
    ]
    if words[0] == "how":
        return str(len(beside))
    if words[0] == "what":
        return beside[0].colour
    return "yes" if any(words[2].startswith(t.shape) for t in beside) else "no"


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_answers_are_true_of_the_scene(kind: str):
    for scene, problem in sample(kind, 61):
        assert problem.answer == answer_by_hand(scene, problem.question), (describe(scene), problem.question)


def test_a_sum_worked_by_hand():
    asked = {pose(SCENE, np.random.default_rng(seed), "sum") for seed in range(200)}
    problem = next(p for p in asked if p.question == "How many circles and stars are there together?")
    assert problem.answer == "3"
    assert problem.chain == (
        "### Image Description: large red circle top left, small blue star top right, small blue circle center, "
        "small green square bottom, on white\n"
        "### Rationales: count the circles, count the stars, then add.\n"
        "### Let's think step by step.\n"
        "### Step 1: circles: large red circle top left; small blue circle center. That is 2 circles.\n"
        "### Step 2: stars: small blue star top right. That is 1 star.\n"
        "### Step 3: 2 plus 1 is 3.\n"
        "### The final answer is: 3"
    )
    assert problem.key_steps[1].forms == ("1 star", "one star")


def test_places_are_told_by_rows_and_columns():
    asked = {pose(SCENE, np.random.default_rng(seed), "shape beside") for seed in range(400)}
    problem = next(p for p in asked if p.question == "Are any circles below the blue star?")
    assert problem.answer == "yes"
    assert "### Step 1: small blue star top right is in row 1." in problem.chain
    assert "### Step 2: circles below row 1: small blue circle center. That is 1 circle." in problem.chain


def test_a_scene_that_allows_no_problem_of_a_kind_says_so():
    twins = Scene((Thing(0, "star", "red", "large"), Thing(1, "star", "red", "large")), "white")
    with pytest.raises(ValueError, match="colour beside"):
        pose(twins, np.random.default_rng(0), "colour beside")
    assert pose(twins, np.random.default_rng(0)).kind in PROBLEM_KINDS


def test_problems_keep_to_their_split_and_name_no_held_out_pair():
    rng = numpy_rng(0, "splits")
    for split in ("train", "test"):
        for (scene, problem), _ in zip(problems(split, rng), range(97), strict=False):
            assert split_of(scene) == split and len(scene.things) >= 2
            assert not any(f"{colour} {shape}" in problem.question for colour, shape in HELD_OUT_PAIRS)
    assert not set(PROBLEM_KINDS) & set(QUESTION_KINDS)


def test_chains_fit_a_reply_of_the_shipped_model():
    tokenizer = Qwen2Tokenizer.from_pretrained(Path(models.__file__).parents[1] / "assets" / "tokenizer")
    longest = max(len(tokenizer.encode(problem.chain)) for kind in PROBLEM_KINDS for _, problem in sample(kind, 53))
    assert 100 < longest < 160  # what `OmniBridge.understand` writes unless told otherwise
