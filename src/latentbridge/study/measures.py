"""The measures a study is judged by, and what each item of a model's reports came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from latentbridge.evaluation.metrics import Unit, outcome_values
from latentbridge.evaluation.run import World
from latentbridge.studies import MeasurementConfig
from latentbridge.study.documents import CONSISTENCY, LOOPBACK, REASONING, SCORES

Documents = Mapping[tuple[World, str], Mapping[str, Any]]
"""By world and report."""


@dataclass(frozen=True)
class Measure:
    """A column of the table: rows of a report, averaged item by item."""

    name: str
    world: World
    report: str
    about: Literal["skill", "agreement", "reasoning"]
    rows: tuple[tuple[str, str], ...]
    """(skill, metric); without a metric the first row of the skill, which every report begins it with as its summary."""


class Outcomes(NamedTuple):
    """What each item came to."""

    items: np.ndarray
    """float64 [n]."""
    unit: Unit
    better: str


def headline_measures(measuring: MeasurementConfig) -> list[Measure]:
    """The measures a study is judged by: skills, then agreement, then reasoning."""
    return [
        each
        for kind in (_skills, _agreement, _reasoning)
        for world in measuring.worlds
        for each in kind(world, measuring)
    ]


def _skills(world: World, measuring: MeasurementConfig) -> list[Measure]:
    """What `eval` says, or, where it is left out, what the first steps of loopback and consistency do."""
    if measuring.size:
        named = {
            "shapes": {"questions": "understand", "drawing": "draw", "edits": "edit", "finding R@1": "find"},
            "drawings": {"naming": "understand", "drawing concepts": "draw"},
        }
        return [Measure(name, world, SCORES, "skill", ((skill, ""),)) for name, skill in named[world].items()]
    if not measuring.pairs:
        return []
    first = (
        Measure("words", world, LOOPBACK, "skill", (("loopback, picture first", "hop 1, text: facts kept"),)),
        Measure("drawing", world, LOOPBACK, "skill", (("loopback, text first", "hop 1, picture: facts kept"),)),
    )
    return [
        Measure("questions", world, CONSISTENCY, "skill", (("consistency", "right answers on the picture"),)),
        *first,
    ]


def _agreement(world: World, measuring: MeasurementConfig) -> list[Measure]:
    if not measuring.pairs:
        return []
    last = f"hop {measuring.hops}"
    walks = [("loopback, text first", f"{last}, text: facts kept")]
    if world == "shapes":  # pictures of drawings do not tell their facts exactly
        walks.append(("loopback, picture first", f"{last}, picture: facts kept"))
    named = {
        "Unified-Bench cosine": f"Unified-Bench cosine ({measuring.encoder})",
        "agreement gap": "self-question agreement gap",
        "flip rate": "answer flip rate",
        "likelihood gap": "prompt-likelihood gap",
    }
    return [
        Measure(f"facts kept, {last}", world, LOOPBACK, "agreement", tuple(walks)),
        *(Measure(name, world, CONSISTENCY, "agreement", (("consistency", row),)) for name, row in named.items()),
    ]


def _reasoning(world: World, measuring: MeasurementConfig) -> list[Measure]:
    if not measuring.problems:
        return []
    named = {"answers": "answers", "key steps": "key steps reached", "form": "valid form"}
    return [Measure(name, world, REASONING, "reasoning", (("reasoning", row),)) for name, row in named.items()]


def read_outcomes(measure: Measure, documents: Documents) -> Outcomes | None:
    """What a model's items came to, or None where its reports do not tell."""
    document = documents.get((measure.world, measure.report), {"rows": []})
    rows = [
        next((row for row in document["rows"] if row["skill"] == skill and metric in ("", row["metric"])), None)
        for skill, metric in measure.rows
    ]
    told = [row for row in rows if row is not None]
    if len(told) < len(rows):
        return None
    items = np.mean([outcome_values(row["outcomes"]) for row in told], axis=0)
    return Outcomes(items, told[0]["unit"], told[0]["better"])
