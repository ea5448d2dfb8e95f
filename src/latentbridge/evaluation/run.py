"""Evaluation of a model on a world: all scores in one report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from latentbridge.data.drawings.catalogue import load_drawings
from latentbridge.errors import UserError
from latentbridge.evaluation import drawings as on_drawings
from latentbridge.evaluation import shapes as on_shapes
from latentbridge.evaluation.manifest import score_manifest
from latentbridge.evaluation.metrics import Score
from latentbridge.evaluation.skills import skill_jobs
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.trainable import TrainableModel

World = Literal["shapes", "drawings"]
Job = Callable[[], list[Score]]


def evaluate(
    model: TrainableModel, world: World | Path, *, size: int = 100, seed: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Return the scores of a model: {"rows": [Score as dict], "world", "size", "seed", "date", "hardware"}.

    Janus-Pro, BAGEL and Harmon have the scores of `evaluation/skills.py`, on `shapes` only. For an OmniBridge `world` may be the
    path of a user's manifest, of which `size` per cent of the test split are scored. On the built-in worlds `size` scales each
    sample: 50 gives 300 questions, 300 drawings, 300 edits and retrieval among 1,000 scenes, the most of the last.
    """
    if not isinstance(model, OmniBridge):
        if world != "shapes":
            raise UserError(
                f"Only an OmniBridge is scored on {world}; use --world shapes, or loopback and consistency, which accept any backbone and world."
            )
        jobs: list[Job] = skill_jobs(model, size, seed)
    elif isinstance(world, Path):
        jobs = [partial(score_manifest, model, world, size, seed)]
    else:
        jobs = (_shapes_jobs if world == "shapes" else _drawings_jobs)(model, size, seed)
    rows: list[Score] = []
    for job in tqdm(jobs, desc=f"scores on {world}", disable=not progress):
        rows += job()
    return make_report(rows, world=str(world), size=size, seed=seed)


def make_report(rows: Sequence[Score], **conditions: Any) -> dict[str, Any]:
    """Return scores as a report with the given conditions, date and hardware."""
    return {
        **conditions,
        "date": date.today().isoformat(),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
        "rows": [row.to_dict() for row in rows],
    }


def _shapes_jobs(model: OmniBridge, size: int, seed: int) -> list[Job]:
    return [
        partial(on_shapes.score_questions, model, "test", size, seed, reasoning=False),
        partial(on_shapes.score_questions, model, "test", size, seed, reasoning=True),
        partial(on_shapes.score_captions, model, "test", 3 * size, seed),
        partial(on_shapes.score_drawing, model, "test", size, seed, "query"),
        partial(on_shapes.score_drawing, model, "test", size, seed, "text"),
        partial(on_shapes.score_edits, model, "test", size, seed),
        partial(on_shapes.score_retrieval, model, "test", min(1000, 20 * size), seed),
        partial(on_shapes.score_questions, model, "test_pairs", size, seed, reasoning=False),
        partial(on_shapes.score_captions, model, "test_pairs", 3 * size, seed),
        partial(on_shapes.score_drawing, model, "test_pairs", max(1, size // 2), seed, "query"),
        partial(on_shapes.score_retrieval, model, "test_pairs", min(1000, 20 * size), seed),
    ]


def _drawings_jobs(model: OmniBridge, size: int, seed: int) -> list[Job]:
    drawings = load_drawings()
    jobs: list[Job] = []
    for split in on_drawings.BASELINE:
        jobs.append(partial(on_drawings.score_drawing_retrieval, model, drawings, split))
        jobs.append(partial(on_drawings.score_naming, model, drawings, split, 3 * size, seed))
    return [*jobs, partial(on_drawings.score_concepts, model, drawings, max(1, size // 20), seed)]
