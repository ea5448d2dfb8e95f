"""Headline measures of a study, and their outcomes item by item from stored reports."""

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
    """A column of the results table: rows of a report, averaged item by item."""

    name: str
    world: World
    report: str
    about: Literal["skill", "agreement", "reasoning"]
    rows: tuple[tuple[str, str], ...]
    """(skill, metric); with an empty metric the first row of the skill, its summary in each report."""


class Outcomes(NamedTuple):
    """The outcome of each item."""

    items: np.ndarray
    """float64 [n]."""
    unit: Unit
    better: str


def headline_measures(measuring: MeasurementConfig) -> list[Measure]:
    """Return the headline measures of a study: skills, then agreement, then reasoning."""
    kinds = (_skills, _agreement, _reasoning)
    return [measure for kind in kinds for world in measuring.worlds for measure in kind(world, measuring)]


def _skills(world: World, measuring: MeasurementConfig) -> list[Measure]:
    """Return the scores of `eval` or, without it, those of the first hops of loopback and of consistency."""
    if measuring.size:
        skills = {
            "shapes": {"questions": "understand", "drawing": "draw", "edits": "edit", "finding R@1": "find"},
            "drawings": {"naming": "understand", "drawing concepts": "draw"},
        }
        return [Measure(name, world, SCORES, "skill", ((skill, ""),)) for name, skill in skills[world].items()]
    if not measuring.pairs:
        return []
    return [
        Measure("questions", world, CONSISTENCY, "skill", (("consistency", "right answers on the picture"),)),
        Measure("words", world, LOOPBACK, "skill", (("loopback, picture first", "hop 1, text: facts kept"),)),
        Measure("drawing", world, LOOPBACK, "skill", (("loopback, text first", "hop 1, picture: facts kept"),)),
    ]


def _agreement(world: World, measuring: MeasurementConfig) -> list[Measure]:
    if not measuring.pairs:
        return []
    last = f"hop {measuring.hops}"
    facts = [("loopback, text first", f"{last}, text: facts kept")]
    if world == "shapes":  # facts of drawings cannot be read exactly from pictures
        facts.append(("loopback, picture first", f"{last}, picture: facts kept"))
    named = {
        "Unified-Bench cosine": f"Unified-Bench cosine ({measuring.encoder})",
        "agreement gap": "self-question agreement gap",
        "flip rate": "answer flip rate",
        "likelihood gap": "prompt-likelihood gap",
    }
    return [
        Measure(f"facts kept, {last}", world, LOOPBACK, "agreement", tuple(facts)),
        *(Measure(name, world, CONSISTENCY, "agreement", (("consistency", row),)) for name, row in named.items()),
    ]


def _reasoning(world: World, measuring: MeasurementConfig) -> list[Measure]:
    if not measuring.problems:
        return []
    named = {"answers": "answers", "key steps": "key steps reached", "form": "valid form"}
    return [Measure(name, world, REASONING, "reasoning", (("reasoning", row),)) for name, row in named.items()]


def read_outcomes(measure: Measure, documents: Documents) -> Outcomes | None:
    """Return the outcomes of a model's items, or None if its reports lack a row."""
    document = documents.get((measure.world, measure.report), {"rows": []})
    rows = [
        next((row for row in document["rows"] if row["skill"] == skill and metric in ("", row["metric"])), None)
        for skill, metric in measure.rows
    ]
    complete = [row for row in rows if row is not None]
    if len(complete) < len(rows):
        return None
    items = np.mean([outcome_values(row["outcomes"]) for row in complete], axis=0)
    return Outcomes(items, complete[0]["unit"], complete[0]["better"])
