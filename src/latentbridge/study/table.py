"""What the runs of a study came to, as plain numbers: arm by arm against what they start from, and the focus against the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.config import to_dict
from latentbridge.evaluation.compare import verdict
from latentbridge.evaluation.run import World
from latentbridge.evaluation.statistics import bootstrap_interval, holm, permutation_test
from latentbridge.rundir import RunDir, read_json
from latentbridge.studies import Arm, MeasurementConfig, Study
from latentbridge.study.documents import LOOPBACK, conditions, reports, stored_document
from latentbridge.study.measures import Documents, Measure, Outcomes, headline_measures, read_outcomes
from latentbridge.study.plan import Run, arm_run, arms_by_base, base_run, planned_runs, run_status, weights_digest

_RESAMPLES = 20_000
"""Of a permutation test: a hundred and more of them share a table, so Holm asks for p-values below .0005."""
_DIGITS = 6
_CURVES = ("reward", "reply tokens", "KL")
"""What is drawn over steps, where a stage logs it."""


# --- two treatments of the same items ------------------------------------------------------------


def difference(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> dict[str, float]:
    """What the same items [n] come to under two treatments, each with one or more seeds.

    Items are averaged over the seeds of a treatment first; interval and test are those of their n paired differences, so
    they say how far the items stand for others, not how far the seeds do.
    """
    gains = np.mean(after, axis=0) - np.mean(before, axis=0)
    low, high = bootstrap_interval(gains)
    p = permutation_test(gains, _RESAMPLES)
    return {"difference": float(gains.mean()), "low": low, "high": high, "p": p}


def add_verdicts(found: Sequence[dict[str, Any]], better: Sequence[str]) -> None:
    """Adds to the differences of one table their p-values after Holm's correction and what they then are."""
    for each, sense, p in zip(found, better, holm([each["p"] for each in found]), strict=True):
        each |= {"holm": p, "verdict": verdict(each["difference"], sense, p)}


# --- a whole study -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmResults:
    """An arm, or what arms start from, with the documents of each of its finished runs."""

    name: str
    runs: tuple[Run, ...]
    documents: dict[Run, Documents]
    failures: dict[str, str]
    """Run: why it failed."""

    def outcomes(self, measure: Measure) -> list[Outcomes]:
        """One a finished run that tells."""
        found = [read_outcomes(measure, documents) for documents in self.documents.values()]
        return [each for each in found if each is not None]


def study_document(study: Study, out: Path) -> dict[str, Any] | None:
    """The study's document, of what is finished under `out`; None where no model that arms start from is."""
    groups: list[dict[str, Any]] = []
    everything: list[Documents] = []
    for base, arms in arms_by_base(study).items():
        start = _treated(base, [base_run(base)], out, study.measuring)
        if not start.documents:
            continue
        treated = [
            _treated(arm.name, [arm_run(arm, seed) for seed in study.seeds], out, study.measuring) for arm in arms
        ]
        groups.append(_group(start, treated, arms, study, out))
        everything += [documents for each in (start, *treated) for documents in each.documents.values()]
    if not groups:
        return None
    for rows in ("differences", "against"):
        found = [(row, group["measures"][row["measure"]]["better"]) for group in groups for row in group[rows]]
        add_verdicts([row for row, _ in found], [better for _, better in found])
    made = [report for documents in everything for report in documents.values()]
    trained = [records[-1]["seconds"] for run in planned_runs(study) if (records := RunDir(out / run.name).metrics())]
    return _rounded(
        {
            "name": study.name,
            "title": study.title,
            "question": study.question,
            "seeds": list(study.seeds),
            "focus": study.focus,
            "measuring": to_dict(study.measuring),
            "date": max(report["date"] for report in made),
            "hardware": made[0]["hardware"],
            "hours": {
                "training": sum(trained) / 3600,
                "measuring": sum(report["seconds"] for report in made) / 3600,
            },
            "groups": groups,
        }
    )


def _treated(name: str, runs: Sequence[Run], out: Path, measuring: MeasurementConfig) -> ArmResults:
    documents: dict[Run, Documents] = {}
    failures: dict[str, str] = {}
    for run in runs:
        now = run_status(run, out, measuring)
        if now.failure:
            failures[run.name] = now.failure
        elif now.finished:
            documents[run] = _documents(run, out, measuring)
    return ArmResults(name, tuple(runs), documents, failures)


def _documents(run: Run, out: Path, measuring: MeasurementConfig) -> Documents:
    weights = weights_digest(run.name, out)
    places: list[tuple[World, str]] = [(world, report) for world in measuring.worlds for report in reports(measuring)]
    found = {at: stored_document(out / run.name, *at, conditions(at[1], measuring, weights)) for at in places}
    return {at: document for at, document in found.items() if document is not None}


def _group(
    start: ArmResults, treated: Sequence[ArmResults], arms: Sequence[Arm], study: Study, out: Path
) -> dict[str, Any]:
    """One model that arms start from, and those arms."""
    measures = {
        f"{measure.world}: {measure.name}": measure
        for measure in headline_measures(study.measuring)
        if start.outcomes(measure)
    }
    senses = {name: start.outcomes(measure)[0] for name, measure in measures.items()}
    focus = next(each for each in treated if each.name == study.focus)
    rivals = [each for each in treated if each is not focus]
    against = {name: measure for name, measure in measures.items() if measure.about != "skill"}
    return {
        "base": start.name,
        "measures": {
            name: {
                "about": measures[name].about,
                "unit": sense.unit,
                "better": sense.better,
                "n": len(sense.items),
            }
            for name, sense in senses.items()
        },
        "arms": [
            {**_arm(each, measures, study.measuring, out), "recipe": recipe, "overrides": list(overrides)}
            for each, (recipe, overrides) in zip(
                (start, *treated), (("", ()), *((arm.recipe, arm.overrides) for arm in arms)), strict=True
            )
        ],
        "differences": [row for each in treated for row in _differences(start, each, measures)],
        "against": [row for each in rivals for row in _differences(each, focus, against, named=each.name)],
    }


def _differences(
    before: ArmResults, after: ArmResults, measures: Mapping[str, Measure], named: str | None = None
) -> list[dict[str, Any]]:
    """One row a measure that both tell."""
    found: list[dict[str, Any]] = []
    for name, measure in measures.items():
        items = [[each.items for each in treated.outcomes(measure)] for treated in (before, after)]
        if all(items):
            found.append({"arm": named or after.name, "measure": name, **difference(*items)})
    return found


def _arm(
    treated: ArmResults, measures: Mapping[str, Measure], measuring: MeasurementConfig, out: Path
) -> dict[str, Any]:
    """An arm by itself: the mean of each measure with its lowest and highest seed, and what the figures show."""
    values: dict[str, dict[str, float]] = {}
    for name, measure in measures.items():
        if by_seed := [float(each.items.mean()) for each in treated.outcomes(measure)]:
            values[name] = {"mean": float(np.mean(by_seed)), "lowest": min(by_seed), "highest": max(by_seed)}
    logs = [RunDir(out / run.name).metrics() for run in treated.documents]
    shares = [{k: v for k, v in record.items() if k.endswith(" share")} for log in logs for record in log]
    terms = dict.fromkeys(term for record in shares for term in record)
    return {
        "name": treated.name,
        "finished": len(treated.documents),
        "planned": len(treated.runs),
        "failures": treated.failures,
        "size": _size([out / run.name for run in treated.documents]),
        "values": values,
        "facts": {world: _facts_by_hop(treated, world, measuring.hops) for world in measuring.worlds},
        "curves": {
            name: _curve(logs, name) for name in _CURVES if any(name in record for log in logs for record in log)
        },
        "shares": {
            term.removesuffix(" share"): float(np.mean([record[term] for record in shares if term in record]))
            for term in terms
        },
    }


def _size(runs: Sequence[Path]) -> dict[str, float]:
    """What moved, and the most memory a process held, of the runs that tell (`RunDir.size`); the largest of several seeds."""
    told = [read_json(path) for run in runs if (path := RunDir(run).size).exists()]
    return {name: max(each[name] for each in told) for name in (told[0] if told else ())}


def _curve(logs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> list[list[float]]:
    """[step, mean over seeds] of something logged, at the steps that all seeds logged it."""
    by_seed = [{record["step"]: record[name] for record in log if name in record} for log in logs]
    steps = sorted(set.intersection(*(set(values) for values in by_seed)))
    return [[step, float(np.mean([values[step] for values in by_seed]))] for step in steps]


def _facts_by_hop(treated: ArmResults, world: World, hops: int) -> list[float | None]:
    """The share of facts kept after each hop of the walks that begin with words, mean over seeds; None where no hop tells them."""
    told = [documents[world, LOOPBACK] for documents in treated.documents.values() if (world, LOOPBACK) in documents]
    rows = [row for document in told for row in document["rows"]]
    found: list[float | None] = []
    for hop in range(1, hops + 1):
        kept = [
            row["value"]
            for row in rows
            if row["skill"] == "loopback, text first"
            and row["metric"].startswith(f"hop {hop}, ")
            and row["metric"].endswith(": facts kept")
        ]
        found.append(float(np.mean(kept)) if kept else None)
    return found


def _rounded(value: Any) -> Any:
    """The document with its numbers rounded, so that it reads well and is the same wherever it is made."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
