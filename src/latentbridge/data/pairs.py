"""Held-out pictures of any world with their full descriptions, to compare understanding with drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentbridge import prompts
from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, describe_drawing, load_drawings
from latentbridge.data.drawings.tasks import BACKGROUND_NAMES, render_drawing
from latentbridge.data.own.manifest import load_manifest
from latentbridge.data.sampling import pick
from latentbridge.data.shapes.language import describe, sample_question
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Scene, distinct_scenes
from latentbridge.errors import UserError
from latentbridge.images import open_picture
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture


@dataclass(frozen=True)
class Pair:
    """A picture and its full description."""

    picture: Picture
    text: str
    question: str | None = None
    """A question about the picture or a drawing of the text."""
    answer: str | None = None
    scene: Scene | None = None
    """The scene of both, in the `shapes` world."""
    drawing: tuple[str, str] | None = None
    """(label, background) in the `drawings` world; without the style, since most artists are unknown to training."""


def held_out_pairs(world: str, count: int, seed: int) -> list[Pair]:
    """Return at most `count` pairs with different texts; raise UserError for fewer than two.

    `world` is "shapes", "drawings" (unseen pictures of the forty concepts, most by unseen artists), or the path of a
    manifest, whose test pictures are paired with their first texts.
    """
    make_pairs = {"shapes": _shapes_pairs, "drawings": _drawings_pairs}.get(world, _manifest_pairs)
    pairs = make_pairs(world, count, seed)
    if len(pairs) < 2:
        raise UserError(
            f"{world} has fewer than two held-out pairs; build the drawings with `npm`, or add test lines with texts."
        )
    return pairs


def _shapes_pairs(world: str, count: int, seed: int) -> list[Pair]:
    rng = numpy_rng(seed, f"pairs {world}")
    pairs: list[Pair] = []
    for scene in distinct_scenes("test", rng, count):
        question = sample_question(scene, rng)
        pairs.append(Pair(render(scene), describe(scene), question.text, question.answer, scene))
    return pairs


def _drawings_pairs(world: str, count: int, seed: int) -> list[Pair]:
    rng = numpy_rng(seed, f"pairs {world}")
    drawings = load_drawings()
    unseen = [d for split in ("val", "test_artist") for d in drawings.split(split) if d.label in FORTY_CONCEPTS]
    pairs: dict[str, Pair] = {}
    for drawing in (unseen[i] for i in rng.permutation(len(unseen))[:count]):
        background = pick(rng, BACKGROUND_NAMES)
        text = describe_drawing(drawing, background)
        pairs[text] = Pair(
            render_drawing(drawings, drawing, background),
            text,
            prompts.NAME_REQUEST,
            drawing.label,
            drawing=(drawing.label, background),
        )
    return list(pairs.values())


def _manifest_pairs(world: str, count: int, seed: int) -> list[Pair]:
    records = [record for record in load_manifest(Path(world)) if record.split == "test" and record.texts]
    distinct = list({record.texts[0]: record for record in reversed(records)}.values())  # the first of equal texts
    chosen = [distinct[i] for i in numpy_rng(seed, "pairs manifest").permutation(len(distinct))[:count]]
    return [Pair(open_picture(record.image), record.texts[0], record.question, record.answer) for record in chosen]
