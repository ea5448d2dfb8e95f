"""Stored reports of one model, a folder for each world, reused if their conditions are equal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from latentbridge.data.pairs import held_out_pairs
from latentbridge.evaluation.agreement import evaluate_consistency, evaluate_loopback
from latentbridge.evaluation.compare import REPORTS
from latentbridge.evaluation.encoders import external_encoder
from latentbridge.evaluation.reasoning import evaluate_reasoning, held_out_problems
from latentbridge.evaluation.run import World, evaluate
from latentbridge.files import read_json, write_json
from latentbridge.models.teachers import load_teacher
from latentbridge.models.trainable import TrainableModel
from latentbridge.studies import MeasurementConfig

SCORES, CONSISTENCY, LOOPBACK, REASONING = REPORTS


_CONDITIONS = {
    SCORES: ("size",),
    CONSISTENCY: ("pairs", "encoder"),
    LOOPBACK: ("pairs", "encoder", "hops"),
    REASONING: ("problems",),
}
"""Fields of `MeasurementConfig` that determine a report; the first is its number of items."""


def reports(measuring: MeasurementConfig) -> list[str]:
    """Return the reports that each model gets on each world."""
    return [report for report in REPORTS if getattr(measuring, _CONDITIONS[report][0])]


def conditions(report: str, measuring: MeasurementConfig, weights: str) -> dict[str, Any]:
    """Return what determines the scores of a report besides its world; `weights` is the digest of the model's weights."""
    return {"weights": weights, **{name: getattr(measuring, name) for name in ("seed", *_CONDITIONS[report])}}


def stored_document(folder: Path, world: str, report: str, expected: dict[str, Any]) -> dict[str, Any] | None:
    """Return the report in a model's folder, or None if there is none with the `expected` conditions."""
    path = folder / world / report
    if not path.is_file():
        return None
    document = read_json(path)
    return document if all(document.get(name) == value for name, value in expected.items()) else None


def make_document(
    backbone: TrainableModel, folder: Path, world: World, report: str, measuring: MeasurementConfig, weights: str
) -> None:
    """Measure a model and store the report."""
    start, stored_conditions = time.perf_counter(), conditions(report, measuring, weights)
    if report == SCORES:
        document = evaluate(backbone, world, size=measuring.size, seed=measuring.seed, progress=False)
    elif report == REASONING:
        problems = held_out_problems(world, measuring.problems, measuring.seed)
        document = evaluate_reasoning(backbone.understand, problems, world=world, seed=measuring.seed)
    else:
        pairs = held_out_pairs(world, measuring.pairs, measuring.seed)
        external = external_encoder(measuring.encoder, load_teacher(measuring.encoder))
        if report == LOOPBACK:
            document, _ = evaluate_loopback(
                backbone, pairs, external, hops=measuring.hops, seed=measuring.seed, world=world, progress=False
            )
        else:
            document = evaluate_consistency(backbone, pairs, external, seed=measuring.seed, world=world, progress=False)
    seconds = round(time.perf_counter() - start, 1)
    write_json(folder / world / report, {"model": folder.name, **stored_conditions, "seconds": seconds, **document})
