"""Two models by their stored scores: what got better, what got worse, and what may be chance."""

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
"""What `eval`, `consistency`, `loopback` and `reasoning` write, in the order it is shown in."""
SAME_FOR_BOTH = ("world", "size", "seed", "hops", "encoder", "drawings_manifest_sha256")
"""Conditions that must agree where both reports state them; else the items differ, or what is asked of them."""
LEVEL = 0.05
Verdict = Literal["better", "worse", "noise"]


@dataclass(frozen=True)
class Difference:
    """One measure of two models."""

    skill: str
    metric: str
    before: float
    after: float
    unit: Unit
    p: float
    """Of the one test, before any correction."""
    test: Literal["McNemar", "permutation", "Fisher"]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(before: Path, after: Path) -> list[Difference]:
    """What the reports in two run or model folders say of the same measures.

    Paired tests where outcomes of the same items are stored with both: McNemar's for right and wrong, random signs for
    numbers. Else Fisher's on the shares, as if the items were different ones. A difference that could be chance at
    `LEVEL` is noise, after Holm's correction for as many tests as there are measures.
    """
    found = {name: (_report(before, name), _report(after, name)) for name in REPORTS}
    both = {name: (a, b) for name, (a, b) in found.items() if a is not None and b is not None}
    if not both:
        raise UserError(
            f"{before} and {after} have no report in common; score both with `latentbridge eval --out "
            "FOLDER/scores.json`, for example."
        )
    tested: list[tuple[Mapping[str, Any], Mapping[str, Any], float, Any]] = []
    for name, (first, second) in both.items():
        _check_conditions(name, first, second)
        others = {(row["skill"], row["metric"]): row for row in second["rows"]}
        for row in first["rows"]:
            if (other := others.get((row["skill"], row["metric"]))) is not None:
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
        raise UserError(f"There is no folder {folder}; give a run or model folder with {REPORTS[0]} in it.")
    places = [path for path in (folder / name, folder / "model" / name) if path.is_file()]
    if not places:
        return None
    found = read_json(places[0])
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise UserError(f"{places[0]} holds no rows of scores; write it again with `latentbridge eval --out`.")
    return found


def _check_conditions(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for key in SAME_FOR_BOTH:
        if key in first and key in second and first[key] != second[key]:
            raise UserError(
                f"The two {name} were made with different conditions ({key.replace('_', ' ')} {first[key]} and "
                f"{second[key]}), so their items differ; make both alike."
            )


def _test(row: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, str]:
    """(p-value, name of the test)."""
    first, second = row.get("outcomes") or "", other.get("outcomes") or ""
    if first and second:
        if len(first) != len(second):
            raise UserError(
                f"{row['metric']!r} was measured on {len(first)} items and on {len(second)}; score both models alike."
            )
        if isinstance(first, str) and isinstance(second, str):
            return mcnemar([c == "1" for c in first], [c == "1" for c in second]), "McNemar"
        return permutation_test(outcome_values(second) - outcome_values(first)), "permutation"
    counts = [(round(score["value"] * score["n"]), score["n"]) for score in (row, other)]
    return fisher_exact(counts[0], counts[1]), "Fisher"


def verdict(gain: float, better: str, p: float) -> Verdict:
    """What a gain in a measure is, where "higher" or "lower" is `better`, if chance gives as much with probability `p`."""
    if p >= LEVEL or gain == 0:
        return "noise"
    return "better" if (gain > 0) == (better == "higher") else "worse"
