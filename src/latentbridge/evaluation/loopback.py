"""Loopback: pictures put into words, the words drawn, the drawings put into words again; what survives, and how long.

A model whose understanding and drawing share one space comes back to where it started; what gets lost on the way is what
the two skills do not agree about. A hop goes from picture to words or back, a round is both. The paper names such a
diagnostic ("modality loopback") but its definition is lost; this one is ours (spec LatentUMM 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from tqdm import tqdm

from latentbridge.data.drawings.catalogue import parse_drawing
from latentbridge.data.pairs import Pair
from latentbridge.data.shapes.grading import caption_facts
from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import IMAGE_SIZE_PX, render
from latentbridge.data.shapes.scenes import MAX_THINGS, Scene
from latentbridge.evaluation.encoders import ItemEncoder, Items, model_encoder
from latentbridge.evaluation.metrics import Score, average, recall_at_1, share
from latentbridge.evaluation.pages.gallery import Cell
from latentbridge.evaluation.shapes import batched
from latentbridge.images import fit_square
from latentbridge.models.backbones.contract import UnifiedBackbone
from latentbridge.prompts import CAPTION_REQUEST
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

Start = Literal["picture", "text"]
_SAME_SCENE = 0.01
"""Mean absolute difference, in [0, 1], up to which a picture counts as the rendering of the scene that is read in it."""


# --- the walk ------------------------------------------------------------------------------------


def loopback_chain(backbone: UnifiedBackbone, items: Items, hops: int, seed: int = 0) -> Iterator[Items]:
    """What at least one item becomes, hop after hop. Words are drawn as they are, without rewriting.

    Item i of a list walks as it would alone with `seed + i`.
    """
    for hop in range(hops):
        if isinstance(items[0], str):
            seeds = [int(numpy_rng(seed + i, "loopback", hop // 2).integers(2**31)) for i in range(len(items))]
            parts = zip(batched(cast(Sequence[str], items)), batched(seeds), strict=True)
            items = [picture for texts, part in parts for picture in backbone.generate(texts, part)]
        else:
            parts = batched(cast(Sequence[Picture], items))
            items = [text for part in parts for text in backbone.understand(part, [CAPTION_REQUEST] * len(part))]
        yield items


# --- a few pictures, to look at ------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """The words for the picture before, and the picture drawn from them."""

    words: str
    picture: Picture
    to_origin: float
    """Cosine of what the model sees in this picture and in the first."""
    to_previous: float
    """Cosine of what the model sees in this picture and in the one before."""
    words_kept: float | None
    """Share of the origin's facts that the words state; None where the origin is not a scene of the `shapes` world."""
    picture_kept: float | None
    """Share of the origin's facts that the oracle reads in this picture, or None."""


def loopback(
    backbone: UnifiedBackbone, pictures: Sequence[Picture], rounds: int = 4, seed: int = 0
) -> list[list[Round]]:
    """The rounds of each picture, all walking together."""
    walks: list[list[Round]] = [[] for _ in pictures]
    if not pictures:
        return walks
    view = model_encoder(backbone)
    scenes = [detect_scene(picture) for picture in pictures]
    first = previous = view.read(pictures)
    steps: Iterator[Any] = loopback_chain(backbone, pictures, 2 * rounds, seed)
    for words, drawn in zip(steps, steps, strict=True):
        vectors = view.read(drawn)
        for i, (scene, so_far) in enumerate(zip(scenes, walks, strict=True)):
            likeness = float(vectors[i] @ first[i]), float(vectors[i] @ previous[i])
            kept = (facts_kept(words[i], scene), facts_kept(drawn[i], scene)) if scene else (None, None)
            so_far.append(Round(words[i], drawn[i], *likeness, *kept))
        previous = vectors
    return walks


def round_cells(picture: Picture, rounds: Sequence[Round]) -> list[Cell]:
    """A picture and its rounds as a row of a gallery."""
    drawn = [Cell(each.picture, each.words, f"likeness {each.to_origin:.2f}") for each in rounds]
    return [Cell(picture, "", "the first picture"), *drawn]


# --- many pairs, to measure ----------------------------------------------------------------------


@dataclass(frozen=True)
class Loopback:
    """The walks of many pairs that start at one side of each, and what was measured on them."""

    start: Start
    hops: list[Items]
    """All items after each hop."""
    rows: list[Score]
    half_life: dict[str, float | None]
    """Hops until a measure that starts at 1 has halved, where it is measured at every hop; None where it never does."""


def measure_loopback(
    backbone: UnifiedBackbone,
    pairs: Sequence[Pair],
    start: Start,
    hops: int,
    views: Sequence[ItemEncoder],
    seed: int = 0,
    progress: bool = True,
) -> Loopback:
    """What at least two pairs keep of themselves, hop by hop.

    Pictures are compared with the pair's picture and texts with its text, so that no cosine spans the gap between
    modalities; the spec's draft compares with the start, of whichever kind. Per hop and view:

    - drift: 1 - cosine to the pair's own side; step drift: to the item of this kind before, two hops ago.
    - origin found: whether the pair's own side is the nearest among all; chance is one in as many.
    - paired minus shuffled: cosine to the pair's own side minus the mean cosine to those of the others.

    Where scenes are known, the share of their facts that the words say or the oracle reads; of single drawings that of
    label and background, in words alone. A share of right items has
    its Wilson interval, which a bootstrap of equal items lacks; a mean has its bootstrap interval.
    """
    sides: dict[str, Items] = {"picture": [pair.picture for pair in pairs], "text": [pair.text for pair in pairs]}
    origins = {
        (view.name, kind): view.read(items) for view in views for kind, items in sides.items() if view.reads(items)
    }
    before = dict(origins)
    made: list[Items] = []
    rows: list[Score] = []
    falls: dict[str, list[float]] = {}
    steps = loopback_chain(backbone, sides[start], hops, seed)
    for hop, items in enumerate(tqdm(steps, f"{start} first", hops, disable=not progress, unit="hop"), start=1):
        kind = "text" if isinstance(items[0], str) else "picture"
        skill = f"loopback, {start} first"
        found = [pair_facts_kept(item, pair) for item, pair in zip(items, pairs, strict=True)]
        kept = [share for share in found if share is not None]
        scores = [average(skill, "facts kept", kept)] if kept else []
        for view in views:
            if view.reads(items):
                place, vectors = (view.name, kind), view.read(items)
                scores += _likeness(skill, view.name, vectors, origins[place], before[place])
                before[place] = vectors
        for score in scores:
            rows.append(replace(score, metric=f"hop {hop}, {kind}: {score.metric}"))
            if score.unit == "share":  # these start at 1
                falls.setdefault(score.metric, []).append(score.value)
        made.append(items)
    halves = {name: half_life(values) for name, values in falls.items() if len(values) == hops}
    return Loopback(start, made, rows, halves)


def _likeness(skill: str, view: str, vectors: np.ndarray, origins: np.ndarray, before: np.ndarray) -> list[Score]:
    """What a view sees of items, of the sides they belong to and of the items before them, unit vectors [n e] each."""
    cosines = vectors @ origins.T
    paired, count = cosines.diagonal(), len(cosines)
    others = (cosines.sum(axis=1) - paired) / (count - 1)
    found = recall_at_1(vectors, origins, np.eye(count, dtype=bool))
    return [
        share(skill, f"origin found ({view})", found, note=f"chance {1 / count:.1%}"),
        average(skill, f"drift ({view})", 1 - paired, "cosine", "lower"),
        average(skill, f"step drift ({view})", 1 - (vectors * before).sum(axis=1), "cosine", "lower"),
        average(skill, f"paired minus shuffled ({view})", paired - others, "cosine"),
    ]


def pair_cells(measured: Loopback, pairs: Sequence[Pair]) -> list[list[Cell]]:
    """The walks of the first pairs as rows of a gallery: a pair's picture, then every drawing with the words it was drawn from."""
    words_first = measured.start == "text"
    rows: list[list[Cell]] = []
    for i, pair in enumerate(pairs):
        trail: list[Any] = [*([pair.text] if words_first else []), *(items[i] for items in measured.hops)]
        drawings = zip(trail[1::2], trail[::2], range(1 if words_first else 2, len(trail) + 1, 2), strict=False)
        first = Cell(pair.picture, "", "what the first words tell of" if words_first else "the first picture")
        rows.append([first, *(Cell(drawn, words, f"hop {hop}") for drawn, words, hop in drawings)])
    return rows


# --- what is kept --------------------------------------------------------------------------------


def pair_facts_kept(item: Picture | str, pair: Pair) -> float | None:
    """The share of a pair's facts that an item keeps, or None where nothing can tell exactly."""
    if pair.scene:
        return facts_kept(item, pair.scene)
    if pair.drawing is None or not isinstance(item, str):
        return None
    label, _, background = parse_drawing(item) or ("", "", "")
    return ((label == pair.drawing[0]) + (background == pair.drawing[1])) / 2


def facts_kept(item: Picture | str, scene: Scene) -> float:
    """The share of a scene's facts that words state, or that the oracle reads in a picture."""
    words = item if isinstance(item, str) else describe(_within_grammar(read_scene(fit_square(item, IMAGE_SIZE_PX))))
    kept, total = caption_facts(words, scene)
    return kept / total


def detect_scene(picture: Picture) -> Scene | None:
    """The scene of the `shapes` world that a picture is a rendering of, or None; tells the world's pictures from all others."""
    if picture.shape != (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3):
        return None
    scene = read_scene(picture)
    if not scene.things or scene != _within_grammar(scene):
        return None
    difference = np.abs(render(scene).astype(np.float32) - picture).mean() / 255
    return scene if difference <= _SAME_SCENE else None


def half_life(values: Sequence[float]) -> float | None:
    """Steps until a quantity that starts at 1 has fallen to one half, linearly between steps; None where it never does."""
    before = 1.0
    for step, value in enumerate(values):
        if value <= 0.5:
            return step + (before - 0.5) / (before - value)
        before = value
    return None


def _within_grammar(scene: Scene) -> Scene:
    """The scene cut to what words can say: one thing a place, and no more than there may be."""
    by_place = {thing.place: thing for thing in reversed(scene.things)}
    return Scene.of(list(reversed(by_place.values()))[:MAX_THINGS], scene.background)
