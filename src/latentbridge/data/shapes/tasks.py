"""Conversations about scenes, with exact replies."""

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

_MAX_EDITS = 64


def scene_conversation(scene: Scene, rng: np.random.Generator, mix: TaskMix) -> Conversation:
    """Return a conversation about a scene, of a random kind."""
    weights = np.array([mix.vqa, mix.cot, mix.generation, mix.editing, mix.long_cot])
    kind = rng.choice(len(weights), p=weights / weights.sum())
    if kind == 4:
        problem = sample_problem(scene, rng)
        return problem_conversation(problem, render(scene), problem.chain)
    if kind < 2:
        return (scene_questions, scene_reasoning)[kind](scene, rng, mix.relations)
    return (scene_request, scene_edit)[kind - 2](scene, rng)[0]


def scene_questions(scene: Scene, rng: np.random.Generator, relation: float = 0.0) -> Conversation:
    """Return five questions about the picture, or a description and two questions, in random order."""
    described = rng.random() < 0.5
    turns = [(caption_request(rng), describe(scene))] if described else []
    for _ in range(2 if described else 5):
        question = sample_question(scene, rng, relation=relation)
        turns.append((question.text, question.answer))
    return Conversation.with_picture(tuple(turns[i] for i in rng.permutation(len(turns))), render(scene))


def scene_reasoning(scene: Scene, rng: np.random.Generator, relation: float = 0.0) -> Conversation:
    """Return a question answered by a reasoning chain (R1 distillation)."""
    question = sample_question(scene, rng, relation=relation)
    return Conversation.with_picture(
        ((prompts.with_reasoning(question.text), reasoning_chain(scene, question)),), render(scene)
    )


def problem_conversation(problem: Problem, picture: Picture, reply: str = "") -> Conversation:
    """Return a problem as a conversation that asks for a long reasoning chain (the form of R1-VL)."""
    return Conversation.with_picture(((prompts.with_long_reasoning(problem.question), reply),), picture)


def scene_request(scene: Scene, rng: np.random.Generator) -> tuple[Conversation, Scene]:
    """Return a prompt rewritten as the full description, half of the prompts partial, and the scene described."""
    request = prompts.draw_request(_prompt(scene, rng))
    return Conversation(((request, prompts.wrap_description(describe(scene))),)), scene


def scene_drawing_plan(scene: Scene, rng: np.random.Generator) -> Conversation:
    """Return a prompt answered by numbered steps and then the full description."""
    request = prompts.with_reasoning(prompts.draw_request(_prompt(scene, rng)))
    return Conversation(((request, f"{drawing_plan(scene)}\n{prompts.wrap_description(describe(scene))}"),))


def scene_edit(scene: Scene, rng: np.random.Generator) -> tuple[Conversation, Scene]:
    """Return an edit instruction answered by the target's description, and the target.

    The target of a training scene is a training scene. A few have no such edit (with four equal things no thing can be
    named, and all backgrounds may be held out) and give a `scene_request`.
    """
    training = split_of(scene) == "train"
    for _ in range(_MAX_EDITS):
        edit = sample_edit(scene, rng)
        if not training or split_of(edit.target) == "train":
            turn = prompts.edit_request(edit.instruction), prompts.wrap_description(describe(edit.target))
            return Conversation.with_picture((turn,), render(scene)), edit.target
    return scene_request(scene, rng)


def _prompt(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < 0.1:
        return describe(scene)
    return (paraphrase if rng.random() < 0.45 else partial_prompt)(scene, rng)
