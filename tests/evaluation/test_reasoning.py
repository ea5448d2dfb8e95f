from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge import prompts
from latentbridge.data.shapes.problems import PROBLEM_KINDS
from latentbridge.data.shapes.scenes import split_of
from latentbridge.errors import UserError
from latentbridge.evaluation.reasoning import evaluate_reasoning, held_out_problems, score_reasoning

SIZE = 7


def values(answer) -> dict[str, float]:
    return {
        score.metric.strip(): score.value for score in score_reasoning(answer, held_out_problems("shapes", SIZE, 3))
    }


def chains() -> dict[tuple[bytes, str], str]:
    posed = held_out_problems("shapes", SIZE, 3)
    return {(picture.tobytes(), prompts.with_long_reasoning(p.question)): p.chain for picture, p in posed}


def test_right_chains_score_one_and_empty_replies_zero():
    known = chains()
    perfect = values(
        lambda pictures, questions: [known[p.tobytes(), q] for p, q in zip(pictures, questions, strict=True)]
    )
    assert set(perfect.values()) == {1.0} and len(perfect) == 3 + len(PROBLEM_KINDS)
    assert set(values(lambda pictures, questions: [""] * len(questions)).values()) == {0.0}


def test_form_steps_and_answers_are_scored_separately():
    known = chains()

    def hasty(pictures, questions):
        replies = [known[p.tobytes(), q] for p, q in zip(pictures, questions, strict=True)]
        return [reply.rpartition("### The final answer is:")[0] for reply in replies]

    result = values(hasty)
    assert (result["answers"], result["key steps reached"], result["valid form"]) == (0, 1, 0)
    agreeable = values(lambda pictures, questions: ["yes"] * len(questions))
    assert agreeable["answers, sum"] == 0 and 0 < agreeable["answers, equality"] < 1
    assert agreeable["key steps reached"] == agreeable["valid form"] == 0


def test_problems_depend_on_the_seed_and_are_on_test_scenes():
    first, second = (held_out_problems("shapes", SIZE, seed) for seed in (3, 3))
    assert [p for _, p in first] == [p for _, p in second] != [p for _, p in held_out_problems("shapes", SIZE, 4)]
    assert len(first) == SIZE * len(PROBLEM_KINDS)
    assert all(split_of(scene) == "test" for scene in map(scene_of, first))
    assert [p.kind for _, p in first] == [kind for kind in PROBLEM_KINDS for _ in range(SIZE)]


def scene_of(posed):
    from latentbridge.data.shapes.oracle import read_scene

    return read_scene(posed[0])


def test_only_test_questions_of_a_manifest_are_used(tmp_path: Path):
    for name, level in (("a", 10), ("b", 200)):
        Image.fromarray(np.full((5, 7, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
    lines = [
        {"image": "a.png", "question": "How many?", "answer": "2", "split": "test"},
        {"image": "b.png", "question": "Why?", "answer": "so"},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    posed = held_out_problems(str(path), SIZE, 0)
    assert [p.question for _, p in posed] == ["How many?"]
    document = evaluate_reasoning(lambda pictures, questions: ["2."] * len(questions), posed, world=str(path), seed=0)
    assert document["world"] == str(path) and document["rows"][0]["value"] == 1 and len(document["rows"]) == 3
    path.write_text(json.dumps(lines[1]))
    with pytest.raises(UserError, match='no question in the split "test"'):
        held_out_problems(str(path), SIZE, 0)
