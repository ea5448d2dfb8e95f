"""Conversations about scenes: what stage 1 learns from. A sample is a conversation with every reply exact."""

from __future__ import annotations

import numpy as np

from latentbridge import prompts
from latentbridge.config import TaskMix
from latentbridge.data.reasoning import Problem
from latentbridge.data.shapes.language import (
    caption_request,
    describe,
    drawing_plan,
    paraphrase,
    partial_prompt,
    reasoning_chain,
    sample_edit,
    sample_question,
)
from latentbridge.data.shapes.problems import sample_problem
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Scene, split_of
from latentbridge.types import Conversation, Picture

_TRIES = 64


def scene_conversation(scene: Scene, rng: np.random.Generator, mix: TaskMix) -> Conversation:
    """A conversation of a random kind about a scene."""
    weights = np.array([mix.look, mix.reason, mix.draw, mix.edit, mix.deliberate])
    kind = rng.choice(len(weights), p=weights / weights.sum())
    if kind == 4:
        return scene_long_reasoning(scene, rng)
    if kind < 2:
        return (scene_questions, scene_reasoning)[kind](scene, rng, mix.relation)
    return (scene_request, scene_edit)[kind - 2](scene, rng)[0]


def scene_questions(scene: Scene, rng: np.random.Generator, relation: float = 0.0) -> Conversation:
    """The picture asked about: five questions, or a description and two questions in random order."""
    described = rng.random() < 0.5
    turns = [(caption_request(rng), describe(scene))] if described else []
    for _ in range(2 if described else 5):
        question = sample_question(scene, rng, relation=relation)
        turns.append((question.text, question.answer))
    order = rng.permutation(len(turns))
    return Conversation(tuple(turns[i] for i in order), render(scene))


def scene_reasoning(scene: Scene, rng: np.random.Generator, relation: float = 0.0) -> Conversation:
    """A question answered by a worked chain (R1 distillation)."""
    question = sample_question(scene, rng, relation=relation)
    return Conversation(((prompts.with_reasoning(question.text), reasoning_chain(scene, question)),), render(scene))


def scene_long_reasoning(scene: Scene, rng: np.random.Generator) -> Conversation:
    """A question of several steps answered by a long chain (R1 distillation in R1-VL's form)."""
    problem = sample_problem(scene, rng)
    return problem_conversation(problem, render(scene), problem.chain)


def problem_conversation(problem: Problem, picture: Picture, reply: str = "") -> Conversation:
    """A problem as a conversation, in which the model is to reason at length."""
    return Conversation(((prompts.with_long_reasoning(problem.question), reply),), picture)


def scene_request(scene: Scene, rng: np.random.Generator) -> tuple[Conversation, Scene]:
    """A prompt rewritten as a full description, and the scene it describes: half the prompts say everything, half leave things open."""
    return Conversation(
        ((prompts.draw_request(_prompt(scene, rng)), prompts.wrap_description(describe(scene))),)
    ), scene


def scene_drawing_plan(scene: Scene, rng: np.random.Generator) -> Conversation:
    """A prompt thought through step by step before the full description is drawn."""
    request = prompts.with_reasoning(prompts.draw_request(_prompt(scene, rng)))
    return Conversation(((request, f"{drawing_plan(scene)}\n{prompts.wrap_description(describe(scene))}"),))


def scene_edit(scene: Scene, rng: np.random.Generator) -> tuple[Conversation, Scene]:
    """An edit instruction answered by the description of the edited picture, and that target; a training scene leads to one.

    A few training scenes have no such edit (four equal things: no thing can be named, and all backgrounds may be held
    out); they are drawn instead.
    """
    training = split_of(scene) == "train"
    for _ in range(_TRIES):
        change = sample_edit(scene, rng)
        if not training or split_of(change.target) == "train":
            request, reply = prompts.edit_request(change.instruction), prompts.wrap_description(describe(change.target))
            return Conversation(((request, reply),), render(scene)), change.target
    return scene_request(scene, rng)


def _prompt(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < 0.1:
        return describe(scene)
    return (paraphrase if rng.random() < 0.45 else partial_prompt)(scene, rng)
