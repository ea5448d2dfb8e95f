"""Loopback: a picture put into words, the words drawn, the drawing put into words again; what survives, and how long.

A model whose understanding and drawing share one space comes back to where it started; what gets lost on the way is what
the two skills do not agree about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentbridge.data.grading import caption_facts
from latentbridge.data.language import describe
from latentbridge.data.oracle import read_scene
from latentbridge.data.render import IMAGE_SIZE_PX, render
from latentbridge.data.scenes import MAX_THINGS, Scene
from latentbridge.images import ImageLike, fit_square, open_picture
from latentbridge.models.unified import Model
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

_SAME_SCENE = 0.01
"""Mean absolute difference, in [0, 1], up to which a picture counts as the rendering of the scene that is read in it."""
_SHEET_SCALE = 3
_SHEET_GAP_PX = 12
_SHEET_TEXT_PX = 11
_SHEET_LINES = 5


@dataclass(frozen=True)
class Hop:
    """One round: the words for the picture before, and the picture drawn from them."""

    words: str
    picture: Picture
    to_origin: float
    """Cosine of the embeddings of this picture and of the first."""
    to_previous: float
    """Cosine of the embeddings of this picture and of the one before."""
    words_kept: float | None
    """Share of the origin's facts that the words state; None where the origin is not a scene of the `shapes` world."""
    picture_kept: float | None
    """Share of the origin's facts that the oracle reads in this picture, or None."""


def loopback(model: Model, picture: ImageLike, rounds: int = 4, seed: int = 0) -> list[Hop]:
    """The hops of one picture; see `loopback_many`."""
    return loopback_many(model, [picture], rounds, seed)[0]


def loopback_many(model: Model, pictures: Sequence[ImageLike], rounds: int = 4, seed: int = 0) -> list[list[Hop]]:
    """The hops of each picture, all walking together. The words are drawn as they are, without rewriting.

    Picture i of a list walks as it would alone with `seed + i`.
    """
    origins = [fit_square(open_picture(picture), model.config.backbone.image_size_px) for picture in pictures]
    scenes = [shown_scene(origin) for origin in origins]
    walks: list[list[Hop]] = [[] for _ in origins]
    if not origins:
        return walks
    current = origins
    first = previous = model.embed(images=origins)
    for hop in range(rounds):
        words = model.understand(current)
        seeds = [int(numpy_rng(seed + i, "loopback", hop).integers(2**31)) for i in range(len(origins))]
        current = model.generate(words, seeds, rewrite=False)
        vectors = model.embed(images=current)
        for i, walk in enumerate(walks):
            walk.append(
                Hop(
                    words[i],
                    current[i],
                    float(vectors[i] @ first[i]),
                    float(vectors[i] @ previous[i]),
                    _share(words[i], scenes[i]),
                    _share(describe(_within_grammar(read_scene(current[i]))), scenes[i]) if scenes[i] else None,
                )
            )
        previous = vectors
    return walks


def shown_scene(picture: Picture) -> Scene | None:
    """The scene of the `shapes` world that a picture is a rendering of, or None; tells the world's pictures from all others."""
    if picture.shape != (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3):
        return None
    scene = read_scene(picture)
    if not scene.things or scene != _within_grammar(scene):
        return None
    difference = np.abs(render(scene).astype(np.float32) - picture).mean() / 255
    return scene if difference <= _SAME_SCENE else None


def half_life(values: Sequence[float]) -> float | None:
    """Hops until a quantity that starts at 1 has fallen to one half, linearly between hops; None where it never does."""
    before = 1.0
    for hop, value in enumerate(values):
        if value <= 0.5:
            return hop + (before - 0.5) / (before - value)
        before = value
    return None


def draw_sheet(pictures: Sequence[Picture], walks: Sequence[Sequence[Hop]]) -> Image.Image:
    """A gallery of walks, one a row: the first picture, then each hop with its words and its likeness to the first."""
    font = ImageFont.load_default(_SHEET_TEXT_PX)
    width, height = _SHEET_SCALE * pictures[0].shape[1], _SHEET_SCALE * pictures[0].shape[0]
    line_px = _SHEET_TEXT_PX + 3
    cell_width, cell_height = width + _SHEET_GAP_PX, height + _SHEET_GAP_PX + (_SHEET_LINES + 1) * line_px
    columns = 1 + max(len(walk) for walk in walks)
    sheet = Image.new("RGB", (columns * cell_width + _SHEET_GAP_PX, len(walks) * cell_height + _SHEET_GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (picture, walk) in enumerate(zip(pictures, walks, strict=True)):
        cells = [
            (picture, "", "the first picture"),
            *((h.picture, h.words, f"likeness {h.to_origin:.2f}") for h in walk),
        ]
        for column, (image, words, note) in enumerate(cells):
            x, y = column * cell_width + _SHEET_GAP_PX, row * cell_height + _SHEET_GAP_PX
            enlarged = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (x, y))
            draw.text((x, y + height + 2), note, font=font, fill="#666666")
            for number, line in enumerate(_wrap(words, font, width)[:_SHEET_LINES], start=1):
                draw.text((x, y + height + 2 + number * line_px), line, font=font, fill="black")
    return sheet


def _share(words: str, scene: Scene | None) -> float | None:
    if scene is None:
        return None
    kept, total = caption_facts(words, scene)
    return kept / total


def _within_grammar(scene: Scene) -> Scene:
    """The scene cut to what words can say: one thing a place, and no more than there may be."""
    by_place = {thing.place: thing for thing in reversed(scene.things)}
    return Scene.of(list(reversed(by_place.values()))[:MAX_THINGS], scene.background)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
