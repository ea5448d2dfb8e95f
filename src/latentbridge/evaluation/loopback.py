"""Loopback: alternate captioning and generation, and measure what is kept hop by hop.

A hop is one caption or one generated picture; a round is both. Facts that get lost are those on which understanding and
generation disagree. The paper names such a diagnostic ("modality loopback") without a definition; this one is ours (spec
LatentUMM 4).
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
from latentbridge.models.trainable import TrainableModel
from latentbridge.prompts import CAPTION_REQUEST
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

Start = Literal["picture", "text"]
_RENDER_TOLERANCE = 0.01
"""Largest mean absolute difference, in [0, 1], between a picture and the rendering of the scene read in it."""


# --- the chain -----------------------------------------------------------------------------------


def loopback_chain(backbone: TrainableModel, items: Items, hops: int, seed: int = 0) -> Iterator[Items]:
    """Yield the items after each hop, from at least one picture or text. Prompts are not rewritten.

    The chain of item i is the one it has alone with `seed + i`.
    """
    for hop in range(hops):
        if isinstance(items[0], str):
            seeds = [int(numpy_rng(seed + i, "loopback", hop // 2).integers(2**31)) for i in range(len(items))]
            parts = zip(batched(cast(Sequence[str], items)), batched(seeds), strict=True)
            items = [picture for texts, part in parts for picture in backbone.draw_descriptions(texts, part)]
        else:
            parts = batched(cast(Sequence[Picture], items))
            items = [text for part in parts for text in backbone.understand(part, [CAPTION_REQUEST] * len(part))]
        yield items


# --- rounds of single pictures -------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """The caption of the previous picture, and the picture generated from it."""

    words: str
    picture: Picture
    to_origin: float
    """Cosine of the model's latents of this picture and of the first."""
    to_previous: float
    """Cosine of the model's latents of this picture and of the previous one."""
    words_kept: float | None
    """Share of the origin's facts in the words; None if the origin is no scene of the `shapes` world."""
    picture_kept: float | None
    """Share of the origin's facts in this picture by the oracle, or None."""


def loopback(
    backbone: TrainableModel, pictures: Sequence[Picture], rounds: int = 4, seed: int = 0
) -> list[list[Round]]:
    """Return the rounds of each picture, computed in batches."""
    chains: list[list[Round]] = [[] for _ in pictures]
    if not pictures:
        return chains
    encoder = model_encoder(backbone)
    scenes = [detect_scene(picture) for picture in pictures]
    first = previous = encoder.encode(pictures)
    hops: Iterator[Any] = loopback_chain(backbone, pictures, 2 * rounds, seed)
    for captions, generated in zip(hops, hops, strict=True):
        vectors = encoder.encode(generated)
        for i, (scene, chain) in enumerate(zip(scenes, chains, strict=True)):
            similarity = float(vectors[i] @ first[i]), float(vectors[i] @ previous[i])
            kept = (facts_kept(captions[i], scene), facts_kept(generated[i], scene)) if scene else (None, None)
            chain.append(Round(captions[i], generated[i], *similarity, *kept))
        previous = vectors
    return chains


def round_cells(picture: Picture, rounds: Sequence[Round]) -> list[Cell]:
    """Return a picture and its rounds as a row of a gallery."""
    cells = [Cell(item.picture, item.words, f"likeness {item.to_origin:.2f}") for item in rounds]
    return [Cell(picture, "", "the first picture"), *cells]


# --- measures over many pairs --------------------------------------------------------------------


@dataclass(frozen=True)
class Loopback:
    """The chains of many pairs, all from pictures or all from texts, with their scores."""

    start: Start
    hops: list[Items]
    """All items after each hop."""
    rows: list[Score]
    half_life: dict[str, float | None]
    """Hops until a measure that starts at 1 and is taken at every hop has halved; None if it never does."""


def measure_loopback(
    backbone: TrainableModel,
    pairs: Sequence[Pair],
    start: Start,
    hops: int,
    encoders: Sequence[ItemEncoder],
    seed: int = 0,
    progress: bool = True,
) -> Loopback:
    """Measure hop by hop what the chains of at least two pairs keep.

    Pictures are compared with the pair's picture and texts with its text, so that no cosine spans the modality gap; the
    spec's draft compares with the start of the chain. Per hop and encoder:

    - drift: 1 - cosine to the pair's own item; step drift: to the previous item of the same kind, two hops ago.
    - origin found: whether the pair's own item is the nearest among all n; chance is 1 / n.
    - paired minus shuffled: cosine to the pair's own item minus the mean cosine to those of other pairs.

    "facts kept" is the share of a known scene's facts in the words or, by the oracle, in the picture; of single drawings the
    share of label and background in words. Shares have Wilson intervals, means bootstrap intervals.
    """
    sides: dict[str, Items] = {"picture": [pair.picture for pair in pairs], "text": [pair.text for pair in pairs]}
    origins = {
        (encoder.name, kind): encoder.encode(items)
        for encoder in encoders
        for kind, items in sides.items()
        if encoder.supports(items)
    }
    previous = dict(origins)
    items_by_hop: list[Items] = []
    rows: list[Score] = []
    shares: dict[str, list[float]] = {}
    chain = loopback_chain(backbone, sides[start], hops, seed)
    for hop, items in enumerate(tqdm(chain, f"{start} first", hops, disable=not progress, unit="hop"), start=1):
        kind = "text" if isinstance(items[0], str) else "picture"
        skill = f"loopback, {start} first"
        facts = [pair_facts_kept(item, pair) for item, pair in zip(items, pairs, strict=True)]
        known = [value for value in facts if value is not None]
        scores = [average(skill, "facts kept", known)] if known else []
        for encoder in encoders:
            if encoder.supports(items):
                key, vectors = (encoder.name, kind), encoder.encode(items)
                scores += _similarity_scores(skill, encoder.name, vectors, origins[key], previous[key])
                previous[key] = vectors
        for score in scores:
            rows.append(replace(score, metric=f"hop {hop}, {kind}: {score.metric}"))
            if score.unit == "share":  # these start at 1
                shares.setdefault(score.metric, []).append(score.value)
        items_by_hop.append(items)
    half_lives = {name: half_life(values) for name, values in shares.items() if len(values) == hops}
    return Loopback(start, items_by_hop, rows, half_lives)


def _similarity_scores(
    skill: str, encoder: str, vectors: np.ndarray, origins: np.ndarray, previous: np.ndarray
) -> list[Score]:
    """Return the scores per encoder; arguments are unit vectors [n e]."""
    cosines = vectors @ origins.T
    paired, count = cosines.diagonal(), len(cosines)
    others = (cosines.sum(axis=1) - paired) / (count - 1)
    retrieved = recall_at_1(vectors, origins, np.eye(count, dtype=bool))
    return [
        share(skill, f"origin found ({encoder})", retrieved, note=f"chance {1 / count:.1%}"),
        average(skill, f"drift ({encoder})", 1 - paired, "cosine", "lower"),
        average(skill, f"step drift ({encoder})", 1 - (vectors * previous).sum(axis=1), "cosine", "lower"),
        average(skill, f"paired minus shuffled ({encoder})", paired - others, "cosine"),
    ]


def pair_cells(measured: Loopback, pairs: Sequence[Pair]) -> list[list[Cell]]:
    """Return the chains of the first pairs as rows of a gallery: the pair's picture, then generated pictures and their prompts."""
    text_first = measured.start == "text"
    rows: list[list[Cell]] = []
    for i, pair in enumerate(pairs):
        chain: list[Any] = [*([pair.text] if text_first else []), *(items[i] for items in measured.hops)]
        generated = zip(chain[1::2], chain[::2], range(1 if text_first else 2, len(chain) + 1, 2), strict=False)
        first = Cell(pair.picture, "", "the picture of the first text" if text_first else "the first picture")
        rows.append([first, *(Cell(picture, prompt, f"hop {hop}") for picture, prompt, hop in generated)])
    return rows


# --- facts ---------------------------------------------------------------------------------------


def pair_facts_kept(item: Picture | str, pair: Pair) -> float | None:
    """Return the share of a pair's facts in an item, or None if they cannot be read exactly."""
    if pair.scene:
        return facts_kept(item, pair.scene)
    if pair.drawing is None or not isinstance(item, str):
        return None
    label, _, background = parse_drawing(item) or ("", "", "")
    return ((label == pair.drawing[0]) + (background == pair.drawing[1])) / 2


def facts_kept(item: Picture | str, scene: Scene) -> float:
    """Return the share of a scene's facts in words or, by the oracle, in a picture."""
    words = item if isinstance(item, str) else describe(_within_grammar(read_scene(fit_square(item, IMAGE_SIZE_PX))))
    kept, total = caption_facts(words, scene)
    return kept / total


def detect_scene(picture: Picture) -> Scene | None:
    """Return the scene of the `shapes` world that a picture renders, or None for any other picture."""
    if picture.shape != (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3):
        return None
    scene = read_scene(picture)
    if not scene.things or scene != _within_grammar(scene):
        return None
    difference = np.abs(render(scene).astype(np.float32) - picture).mean() / 255
    return scene if difference <= _RENDER_TOLERANCE else None


def half_life(values: Sequence[float]) -> float | None:
    """Return the steps until a quantity that starts at 1 falls to one half, linearly interpolated; None if it never does."""
    previous = 1.0
    for step, value in enumerate(values):
        if value <= 0.5:
            return step + (previous - 0.5) / (previous - value)
        previous = value
    return None


def _within_grammar(scene: Scene) -> Scene:
    """Return the scene reduced to what captions can express: one thing per place, at most `MAX_THINGS`."""
    by_place = {thing.place: thing for thing in reversed(scene.things)}
    return Scene.from_things(list(reversed(by_place.values()))[:MAX_THINGS], scene.background)
