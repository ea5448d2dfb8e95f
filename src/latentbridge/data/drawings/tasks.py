"""Conversations about real drawings: naming, describing, asking, rewriting and editing, every reply exact."""

from __future__ import annotations

import numpy as np

from latentbridge import prompts
from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, Drawing, Drawings, describe_drawing, with_article
from latentbridge.data.drawings.composer import (
    SpriteBank,
    caption_composition,
    render_composition,
    sample_composition,
    sample_composition_question,
)
from latentbridge.data.shapes.language import caption_request
from latentbridge.data.shapes.scenes import BACKGROUNDS
from latentbridge.types import Conversation

BACKGROUND_NAMES = tuple(BACKGROUNDS)
_QUESTIONS_EACH = 3


def drawable_drawings(drawings: Drawings) -> list[Drawing]:
    """The training drawings of the forty concepts the decoder learns to draw."""
    return [drawing for drawing in drawings.split("train") if drawing.label in FORTY_CONCEPTS]


def render_drawing(drawings: Drawings, drawing: Drawing, ground: str) -> np.ndarray:
    """A drawing on a background of the `shapes` world: uint8 [64, 64, 3]."""
    return drawings.on_background(drawing.index, BACKGROUNDS[ground])


def drawing_conversation(
    drawings: Drawings, bank: SpriteBank, drawable: list[Drawing], rng: np.random.Generator
) -> Conversation:
    """A conversation of a random kind about training drawings."""
    kind = rng.random()
    if kind < 0.40:
        return drawing_questions(drawings, rng)
    if kind < 0.65:
        return composition_questions(drawings, bank, rng)
    return (drawing_request if kind < 0.85 else drawing_edit)(drawings, drawable, rng)[0]


def drawing_questions(drawings: Drawings, rng: np.random.Generator) -> Conversation:
    """One drawing named and described, in either order."""
    known = drawings.split("train")
    drawing, ground = known[rng.integers(len(known))], _ground(rng)
    turns = [(prompts.NAME_REQUEST, drawing.label), (caption_request(rng), describe_drawing(drawing, ground))]
    return Conversation(tuple(turns[i] for i in rng.permutation(2)), render_drawing(drawings, drawing, ground))


def composition_questions(drawings: Drawings, bank: SpriteBank, rng: np.random.Generator) -> Conversation:
    """Drawings beside each other, described and asked about, in any order."""
    composition = sample_composition(rng, bank)
    turns = [(caption_request(rng), caption_composition(composition))]
    for _ in range(_QUESTIONS_EACH):
        question, answer, _ = sample_composition_question(composition, bank, rng)
        turns.append((question, answer))
    order = rng.permutation(len(turns))
    return Conversation(tuple(turns[i] for i in order), render_composition(composition, drawings))


def drawing_request(
    drawings: Drawings, drawable: list[Drawing], rng: np.random.Generator
) -> tuple[Conversation, np.ndarray]:
    """A prompt that names a concept, completed with a hand and a background, and the picture that describes."""
    drawing, ground = drawable[rng.integers(len(drawable))], _ground(rng)
    noun = drawing.label if rng.random() < 0.3 else with_article(drawing.label)
    style = f", {drawing.style}" if rng.random() < 0.3 else ""
    place = f" on {ground}" if rng.random() < 0.3 else ""
    opening = ("", "", "draw ", "a picture of ", "a photo of ")[rng.integers(5)]
    request = prompts.draw_request(f"{opening}{noun}{style}{place}")
    talk = Conversation(((request, prompts.wrap_description(describe_drawing(drawing, ground))),))
    return talk, render_drawing(drawings, drawing, ground)


def drawing_edit(
    drawings: Drawings, drawable: list[Drawing], rng: np.random.Generator
) -> tuple[Conversation, np.ndarray]:
    """A drawing edited (another background, or another concept by the same hand), and the picture after it."""
    drawing, ground = drawable[rng.integers(len(drawable))], _ground(rng)
    picture = render_drawing(drawings, drawing, ground)
    if rng.random() < 0.5:
        target, target_ground = drawing, _other_ground(ground, rng)
        opening = ("make the background", "change the background to")[rng.integers(2)]
        instruction = f"{opening} {target_ground}"
    else:
        same_hand = [other for other in drawable if other.style == drawing.style and other.label != drawing.label]
        target, target_ground = same_hand[rng.integers(len(same_hand))], ground
        instruction = f"replace the {drawing.label} with {with_article(target.label)}"
    reply = prompts.wrap_description(describe_drawing(target, target_ground))
    talk = Conversation(((prompts.edit_request(instruction), reply),), picture)
    return talk, render_drawing(drawings, target, target_ground)


def _ground(rng: np.random.Generator) -> str:
    return BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))]


def _other_ground(ground: str, rng: np.random.Generator) -> str:
    others = [name for name in BACKGROUND_NAMES if name != ground]
    return others[rng.integers(len(others))]
