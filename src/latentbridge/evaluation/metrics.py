"""Scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from latentbridge.evaluation.statistics import bootstrap_interval, wilson_interval

Unit = Literal["share", "cosine", "nats"]


@dataclass(frozen=True)
class Score:
    """A mean over items with its 95 % interval, and the aim it is held against, where there is one."""

    skill: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    aim: float | None = None
    note: str = ""
    unit: Unit = "share"
    better: Literal["higher", "lower"] = "higher"
    outcomes: str | tuple[float, ...] = ""
    """What each item came to, in the order the seed gives, so that models can be compared item by item: a digit each, 1
    where it is right and 0 where not, or a number each."""

    def to_dict(self) -> dict:
        return asdict(self)


def share(skill: str, metric: str, right: Sequence[bool], aim: float | None = None, note: str = "") -> Score:
    """The share of right items; an item that failed to produce anything is False and counts."""
    n, good = len(right), int(sum(right))
    low, high = wilson_interval(good, n)
    outcomes = "".join("1" if item else "0" for item in right)
    return Score(skill, metric, good / max(1, n), low, high, n, aim, note, outcomes=outcomes)


def average(
    skill: str,
    metric: str,
    values: Sequence[float] | np.ndarray,
    unit: Unit = "share",
    better: Literal["higher", "lower"] = "higher",
    note: str = "",
) -> Score:
    """The mean of one number an item, of at least one, with its bootstrap interval."""
    outcomes = tuple(round(float(value), 5) for value in values)
    low, high = bootstrap_interval(outcomes)
    return Score(skill, metric, float(np.mean(outcomes)), low, high, len(outcomes), None, note, unit, better, outcomes)


def outcome_values(outcomes: str | Sequence[float]) -> np.ndarray:
    """Stored outcomes as one number an item, float64 [n]."""
    return np.array([float(outcome) for outcome in outcomes])


def recall_at_1(queries: np.ndarray, targets: np.ndarray, positive: np.ndarray) -> list[bool]:
    """For each query [q e], whether its nearest target [t e] is a positive (bool [q t]); unit vectors, float32."""
    nearest = (queries.astype(np.float32) @ targets.astype(np.float32).T).argmax(axis=1)
    return [bool(positive[i, j]) for i, j in enumerate(nearest)]


def format_score(value: float, unit: Unit = "share") -> str:
    """A share as per cent with one decimal, anything else with three."""
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f}"
