"""The picture at the top of the README, made by the shipped model: python docs/first_light.py

Shows what works: of the prompts and edits below, the first that the oracle accepts, with their number. `latentbridge eval` has
the rates, and the README's table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import latentbridge
from latentbridge.data.drawings.catalogue import load_drawings
from latentbridge.data.shapes.grading import GENEVAL_CATEGORIES, grade_edit, sample_prompt, satisfies
from latentbridge.data.shapes.language import Edit, sample_edit
from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import BACKGROUNDS, Scene, distinct_scenes
from latentbridge.query import build_index, search_index
from latentbridge.rng import numpy_rng

Panel = tuple[str, np.ndarray]
EDITS = ("recolour", "add", "background", "remove", "recolour", "resize", "background")
QUERIES = ("guitar", "strawberry")
COLUMNS = 6


def main() -> None:
    model = latentbridge.load("tiny")
    rows = [_generated(model), _edited(model), *_found(model)]
    figure = Figure(figsize=(1.7 * COLUMNS, 2.05 * len(rows)), layout="constrained")
    for part, (title, panels) in zip(figure.subfigures(len(rows), 1), rows, strict=True):
        part.suptitle(title, fontsize=8, x=0.01, ha="left")
        for axis in (axes := part.subplots(1, COLUMNS)):
            axis.axis("off")
        for axis, (caption, picture) in zip(axes, panels, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(caption, fontsize=6, wrap=True)
    figure.savefig(Path(__file__).with_name("first_light.png"), dpi=110)


def _generated(model: latentbridge.UnifiedModel) -> tuple[str, list[Panel]]:
    rng = numpy_rng(5, "first light")
    prompts = [sample_prompt(rng, category, "test") for category in GENEVAL_CATEGORIES for _ in range(2)]
    results = model.generate([prompt.text for prompt in prompts], seed=7)
    right = [
        (prompt.text, result.picture)
        for prompt, result in zip(prompts, results, strict=True)
        if satisfies(read_scene(result.picture), prompt)
    ]
    shown = right[-COLUMNS:]  # the harder categories
    return f"generate: {len(right)} of {len(prompts)} prompts drawn as asked, {len(shown)} of them", shown


def _edited(model: latentbridge.UnifiedModel) -> tuple[str, list[Panel]]:
    rng, right = numpy_rng(4, "first light"), list[Panel]()
    count = 0
    scenes = iter(distinct_scenes("test", rng, 99, num_things=3))
    for kind in EDITS:
        scene, change = _first_edit(scenes, kind, rng)
        picture = render(scene)
        result = model.edit(picture, change.instruction, seed=7)
        grade = grade_edit(scene, change.target, result.picture, picture)
        if grade.right and grade.preserved:
            count += 1
            right += [("before", picture), (change.instruction, result.picture)]
    return f"edit: {count} of {len(EDITS)} right with nothing else changed", right[:COLUMNS]


def _first_edit(scenes: Iterator[Scene], kind: str, rng: np.random.Generator) -> tuple[Scene, Edit]:
    """Return the next scene that allows an edit of this kind, and the edit."""
    for scene in scenes:
        with suppress(ValueError):
            return scene, sample_edit(scene, rng, kind)
    raise AssertionError("99 scenes are enough")


def _found(model: latentbridge.UnifiedModel) -> list[tuple[str, list[Panel]]]:
    drawings = load_drawings()
    held_out = {str(d.index): d for d in drawings.split("test_artist")}
    pictures = {name: drawings.on_background(d.index, BACKGROUNDS["white"]) for name, d in held_out.items()}
    index = build_index(model, pictures.items())
    rows = []
    for query in QUERIES:
        hits = search_index(model, index, query, k=COLUMNS)
        panels = [(f"{held_out[hit.id].label} {hit.score:.2f}", pictures[hit.id]) for hit in hits]
        rows.append((f"search: {query!r} among {len(pictures):,} drawings by unseen artists", panels))
    return rows


if __name__ == "__main__":
    main()
