"""Statistical comparison of two models by their stored scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latentbridge.errors import UserError
from latentbridge.evaluation.metrics import Unit, outcome_values
from latentbridge.evaluation.statistics import fisher_exact, holm, mcnemar, permutation_test
from latentbridge.files import read_json

REPORTS = ("scores.json", "consistency.json", "loopback.json", "reasoning.json")
"""File names of the reports of `eval`, `consistency`, `loopback` and `reasoning`, in the order in which they are shown."""
BENCH_REPORT = "bench.json"
"""File name of the report of `bench`, shown last."""
SAME_FOR_BOTH = (
    "world",
    "size",
    "seed",
    "hops",
    "encoder",
    "drawings_manifest_sha256",
    "benchmark",
    "data_sha256",
    "items",
)
"""Conditions that must be equal if both reports state them; otherwise the items or the questions differ."""
LEVEL = 0.05
Verdict = Literal["better", "worse", "noise"]


@dataclass(frozen=True)
class Difference:
    """One measure of two models, tested for a difference."""

    skill: str
    metric: str
    before: float
    after: float
    unit: Unit
    p: float
    """p-value before Holm's correction."""
    test: Literal["McNemar", "permutation", "Fisher"]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(before: Path, after: Path) -> list[Difference]:
    """Compare the measures that the reports in two run or model folders share.

    Tests are paired if both reports store outcomes of the same items: McNemar's for right and wrong, a sign permutation test
    for numbers. Otherwise Fisher's exact test compares the shares as of different items. A difference that is not significant
    at `LEVEL` after Holm's correction over all measures is "noise".
    """
    reports = {name: (_report(before, name), _report(after, name)) for name in (*REPORTS, BENCH_REPORT)}
    shared = {name: (a, b) for name, (a, b) in reports.items() if a is not None and b is not None}
    if not shared:
        raise UserError(
            f"{before} and {after} have no report in common; score both with `latentbridge eval --out "
            "FOLDER/scores.json`, for example."
        )
    tested: list[tuple[Mapping[str, Any], Mapping[str, Any], float, Any]] = []
    for name, (first, second) in shared.items():
        _check_conditions(name, first, second)
        others = {(row["skill"], row["metric"]): row for row in second["rows"]}
        for row in first["rows"]:
            other = others.get((row["skill"], row["metric"]))
            is_total = not row.get("outcomes") and row.get("unit", "share") != "share"  # of no test here
            if other is not None and not is_total:
                tested.append((row, other, *_test(row, other)))
    if not tested:
        raise UserError(f"{before} and {after} have no measure in common; score both on the same world.")
    adjusted = holm([p for _, _, p, _ in tested])
    return [
        Difference(
            row["skill"],
            row["metric"],
            row["value"],
            other["value"],
            row.get("unit", "share"),
            p,
            test,
            verdict(other["value"] - row["value"], row.get("better", "higher"), level),
        )
        for (row, other, p, test), level in zip(tested, adjusted, strict=True)
    ]


def _report(folder: Path, name: str) -> dict[str, Any] | None:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give a run or model folder that contains {REPORTS[0]}.")
    path = next((path for path in (folder / name, folder / "model" / name) if path.is_file()), None)
    if path is None:
        return None
    report = read_json(path)
    if not isinstance(report, dict) or not isinstance(report.get("rows"), list):
        raise UserError(f"{path} holds no rows of scores; write it again with `latentbridge eval --out`.")
    return report


def _check_conditions(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for key in SAME_FOR_BOTH:
        if key in first and key in second and first[key] != second[key]:
            raise UserError(
                f"The two {name} were made with different conditions ({key.replace('_', ' ')} {first[key]} and "
                f"{second[key]}), so their items differ; measure both models with the same ones."
            )


def _test(row: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, str]:
    """Return the p-value and the name of the test."""
    first, second = row.get("outcomes") or "", other.get("outcomes") or ""
    if first and second:
        if len(first) != len(second):
            raise UserError(
                f"{row['metric']!r} was measured on {len(first)} items and on {len(second)}; score both models on the same items."
            )
        if isinstance(first, str) and isinstance(second, str):
            return mcnemar([c == "1" for c in first], [c == "1" for c in second]), "McNemar"
        return permutation_test(outcome_values(second) - outcome_values(first)), "permutation"
    counts = [(round(score["value"] * score["n"]), score["n"]) for score in (row, other)]
    return fisher_exact(counts[0], counts[1]), "Fisher"


def verdict(gain: float, better: str, p: float) -> Verdict:
    """Return the verdict on a gain with p-value `p` in a measure of which "higher" or "lower" values are `better`."""
    if p >= LEVEL or gain == 0:
        return "noise"
    return "better" if (gain > 0) == (better == "higher") else "worse"
