"""Held-out pictures with the full descriptions a model draws from, of any world: what understanding and drawing must agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from latentbridge import prompts
from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, describe_drawing, load_drawings
from latentbridge.data.drawings.tasks import BACKGROUND_NAMES, render_drawing
from latentbridge.data.own.manifest import load_manifest
from latentbridge.data.shapes.language import describe, sample_question
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Scene, distinct_scenes
from latentbridge.errors import UserError
from latentbridge.images import open_picture
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture


@dataclass(frozen=True)
class Pair:
    """One thing as a picture and as a text that says everything a drawing needs."""

    picture: Picture
    text: str
    question: str | None = None
    """A question about the picture, also answered by a drawing of the text."""
    answer: str | None = None
    scene: Scene | None = None
    """What both show, in the exact world."""
    drawing: tuple[str, str] | None = None
    """Label and background of the single drawing that both show. Its hand is left out: most pairs are by artists that no
    training has named."""


def held_out_pairs(world: str, count: int, seed: int) -> list[Pair]:
    """At most `count` pairs, and at least two, with different texts that no training has seen.

    `world` is "shapes", "drawings" (unseen pictures of the forty concepts that are learned to be drawn, most by unseen
    artists), or the path of a manifest, of which the test split is used, each picture with its first text.
    """
    pairs = _OF_WORLD.get(world, _manifest_pairs)(world, count, seed)
    if len(pairs) < 2:
        raise UserError(
            f"There are fewer than two held-out pairs in {world}; build the drawings with `npm` installed, or give more "
            'lines of a manifest the split "test" and texts.'
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
    known = [d for split in ("val", "test_artist") for d in drawings.split(split) if d.label in FORTY_CONCEPTS]
    pairs: dict[str, Pair] = {}
    for drawing in (known[i] for i in rng.permutation(len(known))[:count]):
        ground = BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))]
        text = describe_drawing(drawing, ground)
        pairs[text] = Pair(
            render_drawing(drawings, drawing, ground),
            text,
            prompts.NAME_REQUEST,
            drawing.label,
            drawing=(drawing.label, ground),
        )
    return list(pairs.values())


def _manifest_pairs(world: str, count: int, seed: int) -> list[Pair]:
    records = [record for record in load_manifest(Path(world)) if record.split == "test" and record.texts]
    different = list({record.texts[0]: record for record in reversed(records)}.values())  # of equal texts the first
    chosen = [different[i] for i in numpy_rng(seed, "pairs manifest").permutation(len(different))[:count]]
    return [Pair(open_picture(record.image), record.texts[0], record.question, record.answer) for record in chosen]


_OF_WORLD: dict[str, Callable[[str, int, int], list[Pair]]] = {"shapes": _shapes_pairs, "drawings": _drawings_pairs}
