"""All scores of a model on a world, as one table that names its own conditions."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from latentbridge.data.drawings import load_drawings
from latentbridge.evaluation import drawings as on_drawings
from latentbridge.evaluation import shapes as on_shapes
from latentbridge.evaluation.manifest import score_manifest
from latentbridge.evaluation.metrics import Score
from latentbridge.models.unified import Model
from latentbridge.rng import numpy_rng

World = Literal["shapes", "drawings"]


def evaluate(
    model: Model, world: World | Path, *, size: int = 100, seed: int = 1, progress: bool = True
) -> dict[str, Any]:
    """The scores of a model: {"rows": [Score as dict], "world", "size", "seed", "date", "hardware", "threads"}.

    `world` may also be the path of a user's manifest, of which the test split is scored. `size` scales every sample: 100 gives 600 questions, 600 drawings, 600 edits and retrieval among 1,000 scenes.
    """
    if isinstance(world, Path):
        jobs = [lambda: score_manifest(model, world)]
    else:
        jobs = (_shapes_jobs if world == "shapes" else _drawings_jobs)(model, size, seed)
    rows: list[Score] = []
    for job in tqdm(jobs, desc=f"scores on {world}", disable=not progress):
        rows += job()
    return {
        "world": str(world),
        "size": size,
        "seed": seed,
        "date": date.today().isoformat(),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
        "rows": [row.to_dict() for row in rows],
    }


def _shapes_jobs(model: Model, size: int, seed: int) -> list[Any]:
    return [
        lambda: on_shapes.score_questions(model, "test", size, seed, reasoning=False),
        lambda: on_shapes.score_questions(model, "test", size, seed, reasoning=True),
        lambda: on_shapes.score_captions(model, "test", 3 * size, seed),
        lambda: on_shapes.score_drawing(model, "test", size, seed, "query"),
        lambda: on_shapes.score_drawing(model, "test", size, seed, "text"),
        lambda: on_shapes.score_edits(model, "test", size, seed),
        lambda: on_shapes.score_retrieval(model, "test", 10 * size, seed),
        lambda: on_shapes.score_questions(model, "test_pairs", size, seed, reasoning=False),
        lambda: on_shapes.score_captions(model, "test_pairs", 3 * size, seed),
        lambda: on_shapes.score_drawing(model, "test_pairs", size // 2, seed, "query"),
        lambda: on_shapes.score_retrieval(model, "test_pairs", 10 * size, seed),
    ]


def _drawings_jobs(model: Model, size: int, seed: int) -> list[Any]:
    drawings = load_drawings()

    finding = [lambda split=split: on_drawings.score_finding(model, drawings, split) for split in on_drawings.BASELINE]
    naming = [
        lambda split=split: [
            on_drawings.score_naming(model, drawings, split, 3 * size, numpy_rng(seed, f"naming {split}"))
        ]
        for split in on_drawings.BASELINE
    ]
    return [*finding, *naming, lambda: [on_drawings.score_forty(model, drawings, max(1, size // 20), seed)]]
