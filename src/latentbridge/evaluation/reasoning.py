"""Scores of long reasoning on held-out problems of several steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from latentbridge import prompts
from latentbridge.data.own.manifest import load_manifest
from latentbridge.data.reasoning import Problem, is_correct, key_step_recall, read_chain
from latentbridge.data.shapes.problems import PROBLEM_KINDS, problems
from latentbridge.data.shapes.render import render
from latentbridge.data.worlds import record_problem
from latentbridge.errors import UserError
from latentbridge.evaluation.metrics import Score, average, share
from latentbridge.evaluation.run import make_report
from latentbridge.evaluation.shapes import batched
from latentbridge.images import open_picture
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

Answer = Callable[[list[Picture], list[str]], list[str]]
"""A function from pictures and questions to replies, such as the `understand` of a backbone."""


def held_out_problems(world: str, size: int, seed: int) -> list[tuple[Picture, Problem]]:
    """Return `size` problems of each kind about test scenes, or all questions of a manifest's test split."""
    if world == "shapes":
        return [
            (render(scene), problem)
            for kind in PROBLEM_KINDS
            for _, (scene, problem) in zip(
                range(size), problems("test", numpy_rng(seed, f"problems {kind}"), kind), strict=False
            )
        ]
    records = [record for record in load_manifest(Path(world)) if record.split == "test" and record.question]
    if not records:
        raise UserError(f'{world} has no question in the split "test"; mark the lines to score with it.')
    return [(open_picture(record.image), record_problem(record)) for record in records]


def evaluate_reasoning(
    answer: Answer, examples: Sequence[tuple[Picture, Problem]], **conditions: Any
) -> dict[str, Any]:
    """Return the report `reasoning.json`: `conditions` and the scores of replies to the problems."""
    return make_report(score_reasoning(answer, examples), **conditions)


def score_reasoning(answer: Answer, examples: Sequence[tuple[Picture, Problem]]) -> list[Score]:
    """Return the shares of right answers, key steps reached and valid forms when `answer` is asked to reason at length."""
    replies: list[str] = []
    for part in batched(examples):
        replies += answer(
            [picture for picture, _ in part], [prompts.with_long_reasoning(problem.question) for _, problem in part]
        )
    graded = [(reply, problem) for reply, (_, problem) in zip(replies, examples, strict=True)]
    right = [is_correct(reply, problem) for reply, problem in graded]
    scores = [
        share("reasoning", "answers", right),
        average("reasoning", "key steps reached", [key_step_recall(reply, problem) for reply, problem in graded]),
        share("reasoning", "valid form", [read_chain(reply) is not None for reply, _ in graded]),
    ]
    for kind in dict.fromkeys(problem.kind for _, problem in graded if problem.kind):
        of_kind = [is_correct for is_correct, (_, problem) in zip(right, graded, strict=True) if problem.kind == kind]
        scores.append(share("reasoning", f"  answers, {kind}", of_kind))
    return scores
