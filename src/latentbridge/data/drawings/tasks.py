"""Conversations about drawings, with exact replies."""

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
from latentbridge.data.sampling import pick, pick_other
from latentbridge.data.shapes.language import caption_request
from latentbridge.data.shapes.scenes import BACKGROUNDS
from latentbridge.types import Conversation

BACKGROUND_NAMES = tuple(BACKGROUNDS)
_NUM_QUESTIONS = 3


def drawable_drawings(drawings: Drawings) -> list[Drawing]:
    """Return the training drawings of the forty concepts that models learn to draw."""
    return [drawing for drawing in drawings.split("train") if drawing.label in FORTY_CONCEPTS]


def render_drawing(drawings: Drawings, drawing: Drawing, background: str) -> np.ndarray:
    """Return a drawing on a background of the `shapes` world, uint8 [64, 64, 3]."""
    return drawings.on_background(drawing.index, BACKGROUNDS[background])


def drawing_conversation(
    drawings: Drawings, bank: SpriteBank, drawable: list[Drawing], rng: np.random.Generator
) -> Conversation:
    """Return a conversation about training drawings, of a random kind."""
    kind = rng.random()
    if kind < 0.40:
        return drawing_questions(drawings, rng)
    if kind < 0.65:
        return composition_questions(drawings, bank, rng)
    return (drawing_request if kind < 0.85 else drawing_edit)(drawings, drawable, rng)[0]


def drawing_questions(drawings: Drawings, rng: np.random.Generator) -> Conversation:
    """Return a conversation that names and describes one drawing, in either order."""
    drawing, background = pick(rng, drawings.split("train")), pick(rng, BACKGROUND_NAMES)
    turns = [(prompts.NAME_REQUEST, drawing.label), (caption_request(rng), describe_drawing(drawing, background))]
    return Conversation.with_picture(
        tuple(turns[i] for i in rng.permutation(2)), render_drawing(drawings, drawing, background)
    )


def composition_questions(drawings: Drawings, bank: SpriteBank, rng: np.random.Generator) -> Conversation:
    """Return a caption of a composition and questions about it, in random order."""
    composition = sample_composition(rng, bank)
    turns = [(caption_request(rng), caption_composition(composition))]
    turns += [sample_composition_question(composition, bank, rng)[:2] for _ in range(_NUM_QUESTIONS)]
    order = rng.permutation(len(turns))
    return Conversation.with_picture(tuple(turns[i] for i in order), render_composition(composition, drawings))


def drawing_request(
    drawings: Drawings, drawable: list[Drawing], rng: np.random.Generator
) -> tuple[Conversation, np.ndarray]:
    """Return a prompt for a concept rewritten as a full description, and the picture described."""
    drawing, background = pick(rng, drawable), pick(rng, BACKGROUND_NAMES)
    noun = drawing.label if rng.random() < 0.3 else with_article(drawing.label)
    style = f", {drawing.style}" if rng.random() < 0.3 else ""
    place = f" on {background}" if rng.random() < 0.3 else ""
    opening = pick(rng, ("", "", "draw ", "a picture of ", "a photo of "))
    request = prompts.draw_request(f"{opening}{noun}{style}{place}")
    conversation = Conversation(((request, prompts.wrap_description(describe_drawing(drawing, background))),))
    return conversation, render_drawing(drawings, drawing, background)


def drawing_edit(
    drawings: Drawings, drawable: list[Drawing], rng: np.random.Generator
) -> tuple[Conversation, np.ndarray]:
    """Return an edit (another background, or another concept in the same style), and the target picture."""
    drawing, background = pick(rng, drawable), pick(rng, BACKGROUND_NAMES)
    picture = render_drawing(drawings, drawing, background)
    if rng.random() < 0.5:
        target, target_background = drawing, pick_other(rng, BACKGROUND_NAMES, background)
        opening = pick(rng, ("make the background", "change the background to"))
        instruction = f"{opening} {target_background}"
    else:
        same_style = [other for other in drawable if other.style == drawing.style and other.label != drawing.label]
        target, target_background = pick(rng, same_style), background
        instruction = f"replace the {drawing.label} with {with_article(target.label)}"
    reply = prompts.wrap_description(describe_drawing(target, target_background))
    conversation = Conversation.with_picture(((prompts.edit_request(instruction), reply),), picture)
    return conversation, render_drawing(drawings, target, target_background)
