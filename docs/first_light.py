"""The picture at the top of the README, made by the shipped model: python docs/first_light.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import latentbridge
from latentbridge.data.drawings.catalogue import load_drawings
from latentbridge.data.shapes.language import edit
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import BACKGROUNDS, distinct_scenes
from latentbridge.query import build_index, search_index
from latentbridge.rng import numpy_rng

PROMPTS = (
    "a red circle left of a blue star",
    "three green squares",
    "a yellow triangle and a purple cross",
    "a large black diamond on sand",
    "a red apple",
    "an umbrella",
)
EDITS = ("background", "remove", "recolour")
QUERIES = ("penguin", "guitar", "strawberry")


def main() -> None:
    model = latentbridge.load("tiny")
    panels: list[list[tuple[str, np.ndarray]]] = [
        [(prompt, each.picture) for prompt, each in zip(PROMPTS, model.generate(PROMPTS, seed=7), strict=True)]
    ]
    panels.append(_edits(model))
    panels += _finds(model)
    columns = max(len(row) for row in panels)
    figure, axes = plt.subplots(len(panels), columns, figsize=(1.7 * columns, 2.0 * len(panels)), squeeze=False)
    for line, row in zip(axes, panels, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, (title, picture) in zip(line, row, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=6.5, wrap=True)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("first_light.png"), dpi=110)


def _edits(model: latentbridge.UnifiedModel) -> list[tuple[str, np.ndarray]]:
    row, rng = [], numpy_rng(4, "first light")
    for scene, kind in zip(distinct_scenes("test", rng, len(EDITS), num_things=3), EDITS, strict=True):
        picture, instruction = render(scene), edit(scene, rng, kind).instruction
        row += [("before", picture), (instruction, model.edit(picture, instruction, seed=7).picture)]
    return row


def _finds(model: latentbridge.UnifiedModel) -> list[list[tuple[str, np.ndarray]]]:
    drawings = load_drawings()
    held_out = drawings.split("test_artist")
    pictures = {str(d.index): drawings.on_background(d.index, BACKGROUNDS["white"]) for d in held_out}
    index = build_index(model, pictures.items())
    rows = []
    for query in QUERIES:
        hits = search_index(model, index, query, k=6)
        rows.append([(f"{query!r} {hit.score:.2f}", pictures[hit.id]) for hit in hits])
    return rows


if __name__ == "__main__":
    main()
