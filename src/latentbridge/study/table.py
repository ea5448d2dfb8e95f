"""Results of a study as plain numbers: each arm against its base model, and the focus against the other arms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.config import to_dict
from latentbridge.evaluation.compare import verdict
from latentbridge.evaluation.run import World
from latentbridge.evaluation.statistics import bootstrap_interval, holm, permutation_test
from latentbridge.files import read_json
from latentbridge.run_folder import RunFolder
from latentbridge.studies import Arm, MeasurementConfig, Study
from latentbridge.study.documents import LOOPBACK, conditions, reports, stored_document
from latentbridge.study.measures import Documents, Measure, Outcomes, headline_measures, read_outcomes
from latentbridge.study.plan import Run, arm_run, arms_by_base, base_run, planned_runs, run_status, weights_digest

_RESAMPLES = 20_000
"""Resamples of a permutation test: a table has over a hundred tests, so Holm's correction needs p-values below .0005."""
_DIGITS = 6
_CURVES = ("reward", "reply tokens", "KL")
"""Logged values that are drawn over steps."""


# --- two treatments of the same items ------------------------------------------------------------


def difference(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean difference of two treatments of the same items [n], each with one or more seeds.

    Items are averaged over the seeds of a treatment first. Interval and test are those of the n paired differences: they cover
    variation over items, not over seeds.
    """
    gains = np.mean(after, axis=0) - np.mean(before, axis=0)
    low, high = bootstrap_interval(gains)
    p = permutation_test(gains, _RESAMPLES)
    return {"difference": float(gains.mean()), "low": low, "high": high, "p": p}


def add_verdicts(rows: Sequence[dict[str, Any]], better: Sequence[str]) -> None:
    """Add Holm-corrected p-values and verdicts to the differences of one table."""
    for row, direction, p in zip(rows, better, holm([row["p"] for row in rows]), strict=True):
        row |= {"holm": p, "verdict": verdict(row["difference"], direction, p)}


# --- a whole study -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmResults:
    """An arm or a base model, with the reports of its finished runs."""

    name: str
    runs: tuple[Run, ...]
    documents: dict[Run, Documents]
    failures: dict[str, str]
    """Reasons of failure by run name."""

    def outcomes(self, measure: Measure) -> list[Outcomes]:
        """Return the outcomes of each finished run that has the measure."""
        by_run = [read_outcomes(measure, documents) for documents in self.documents.values()]
        return [outcomes for outcomes in by_run if outcomes is not None]


def study_document(study: Study, out: Path) -> dict[str, Any] | None:
    """Return the results of the finished runs under `out`, or None if no base model is finished."""
    groups: list[dict[str, Any]] = []
    all_documents: list[Documents] = []
    for base, arms in arms_by_base(study).items():
        start = _load_results(base, [base_run(base)], out, study.measuring)
        if not start.documents:
            continue
        results = [
            _load_results(arm.name, [arm_run(arm, seed) for seed in study.seeds], out, study.measuring) for arm in arms
        ]
        groups.append(_group(start, results, arms, study, out))
        all_documents += [documents for result in (start, *results) for documents in result.documents.values()]
    if not groups:
        return None
    for table in ("differences", "against"):
        rows = [(row, group["measures"][row["measure"]]["better"]) for group in groups for row in group[table]]
        add_verdicts([row for row, _ in rows], [better for _, better in rows])
    all_reports = [report for documents in all_documents for report in documents.values()]
    trained = [
        records[-1]["seconds"] for run in planned_runs(study) if (records := RunFolder(out / run.name).metrics())
    ]
    document = {
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "seeds": list(study.seeds),
        "focus": study.focus,
        "measuring": to_dict(study.measuring),
        "date": max(report["date"] for report in all_reports),
        "hardware": all_reports[0]["hardware"],
        "hours": {
            "training": sum(trained) / 3600,
            "measuring": sum(report["seconds"] for report in all_reports) / 3600,
        },
        "groups": groups,
    }
    # rounded, so that it is equal on every machine
    return json.loads(json.dumps(document), parse_float=lambda number: round(float(number), _DIGITS))


def _load_results(name: str, runs: Sequence[Run], out: Path, measuring: MeasurementConfig) -> ArmResults:
    documents: dict[Run, Documents] = {}
    failures: dict[str, str] = {}
    for run in runs:
        status = run_status(run, out, measuring)
        if status.failure:
            failures[run.name] = status.failure
        elif status.finished:
            weights = weights_digest(run.name, out)
            documents[run] = {
                (world, report): document
                for world in measuring.worlds
                for report in reports(measuring)
                if (document := stored_document(out / run.name, world, report, conditions(report, measuring, weights)))
            }
    return ArmResults(name, tuple(runs), documents, failures)


def _group(
    start: ArmResults, results: Sequence[ArmResults], arms: Sequence[Arm], study: Study, out: Path
) -> dict[str, Any]:
    """Return the results of a base model and its arms."""
    measures = {
        f"{measure.world}: {measure.name}": measure
        for measure in headline_measures(study.measuring)
        if start.outcomes(measure)
    }
    outcomes = {name: start.outcomes(measure)[0] for name, measure in measures.items()}
    focus = next(result for result in results if result.name == study.focus)
    others = [result for result in results if result is not focus]
    against = {name: measure for name, measure in measures.items() if measure.about != "skill"}
    return {
        "base": start.name,
        "measures": {
            name: {"about": measures[name].about, "unit": first.unit, "better": first.better, "n": len(first.items)}
            for name, first in outcomes.items()
        },
        "arms": [
            {**_arm(result, measures, study.measuring, out), "recipe": recipe, "overrides": list(overrides)}
            for result, (recipe, overrides) in zip(
                (start, *results), (("", ()), *((arm.recipe, arm.overrides) for arm in arms)), strict=True
            )
        ],
        "differences": [row for result in results for row in _differences(start, result, measures)],
        "against": [row for other in others for row in _differences(other, focus, against, arm=other.name)],
    }


def _differences(
    before: ArmResults, after: ArmResults, measures: Mapping[str, Measure], arm: str | None = None
) -> list[dict[str, Any]]:
    """Return a row for each measure that both have."""
    rows: list[dict[str, Any]] = []
    for name, measure in measures.items():
        items = [[outcomes.items for outcomes in result.outcomes(measure)] for result in (before, after)]
        if all(items):
            rows.append({"arm": arm or after.name, "measure": name, **difference(*items)})
    return rows


def _arm(
    result: ArmResults, measures: Mapping[str, Measure], measuring: MeasurementConfig, out: Path
) -> dict[str, Any]:
    """Return an arm by itself: the mean of each measure with its lowest and highest seed, and the data of the figures."""
    values: dict[str, dict[str, float]] = {}
    for name, measure in measures.items():
        if by_seed := [float(outcomes.items.mean()) for outcomes in result.outcomes(measure)]:
            values[name] = {"mean": float(np.mean(by_seed)), "lowest": min(by_seed), "highest": max(by_seed)}
    logs = [RunFolder(out / run.name).metrics() for run in result.documents]
    shares = [{k: v for k, v in record.items() if k.endswith(" share")} for log in logs for record in log]
    terms = dict.fromkeys(term for record in shares for term in record)
    return {
        "name": result.name,
        "finished": len(result.documents),
        "planned": len(result.runs),
        "failures": result.failures,
        "size": _size([out / run.name for run in result.documents]),
        "values": values,
        "facts": {world: _facts_by_hop(result, world, measuring.hops) for world in measuring.worlds},
        "curves": {
            name: _curve(logs, name) for name in _CURVES if any(name in record for log in logs for record in log)
        },
        "shares": {
            term.removesuffix(" share"): float(np.mean([record[term] for record in shares if term in record]))
            for term in terms
        },
    }


def _size(runs: Sequence[Path]) -> dict[str, float]:
    """Return trainable parameters and peak memory (`RunFolder.size`), each the largest over the runs that stored them."""
    sizes = [read_json(path) for run in runs if (path := RunFolder(run).size).exists()]
    return {name: max(size[name] for size in sizes) for name in (sizes[0] if sizes else ())}


def _curve(logs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> list[list[float]]:
    """Return [step, mean over seeds] of a logged value, at the steps where all seeds logged it."""
    by_seed = [{record["step"]: record[name] for record in log if name in record} for log in logs]
    steps = sorted(set.intersection(*(set(values) for values in by_seed)))
    return [[step, float(np.mean([values[step] for values in by_seed]))] for step in steps]


def _facts_by_hop(result: ArmResults, world: World, hops: int) -> list[float | None]:
    """Return the share of facts kept after each hop of text-first chains, mean over seeds; None for hops without it."""
    reports = [docs[world, LOOPBACK] for docs in result.documents.values() if (world, LOOPBACK) in docs]
    rows = [row for report in reports for row in report["rows"]]
    shares: list[float | None] = []
    for hop in range(1, hops + 1):
        kept = [
            row["value"]
            for row in rows
            if row["skill"] == "loopback, text first"
            and row["metric"].startswith(f"hop {hop}, ")
            and row["metric"].endswith(": facts kept")
        ]
        shares.append(float(np.mean(kept)) if kept else None)
    return shares
