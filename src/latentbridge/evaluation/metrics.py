"""Scores with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from latentbridge.evaluation.statistics import bootstrap_interval, wilson_interval

Unit = Literal["share", "cosine", "nats", "points"]
""""points" are sums or scales of a benchmark's own, such as MME's 2,800."""


@dataclass(frozen=True)
class Score:
    """A mean over items with its 95 % interval and, for some, an aim."""

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
    """Outcome of each item, for paired comparison of models: a string of digits, 1 for right and 0 for wrong, or numbers."""

    def to_dict(self) -> dict:
        return asdict(self)


def share(skill: str, metric: str, right: Sequence[bool], aim: float | None = None, note: str = "") -> Score:
    """Return the share of right items with its Wilson interval; items without a result count as False."""
    n, hits = len(right), int(sum(right))
    low, high = wilson_interval(hits, n)
    outcomes = "".join("1" if item else "0" for item in right)
    return Score(skill, metric, hits / max(1, n), low, high, n, aim, note, outcomes=outcomes)


def average(
    skill: str,
    metric: str,
    values: Sequence[float] | np.ndarray,
    unit: Unit = "share",
    better: Literal["higher", "lower"] = "higher",
    note: str = "",
) -> Score:
    """Return the mean of one number per item, of at least one item, with its bootstrap interval."""
    outcomes = tuple(round(float(value), 5) for value in values)
    low, high = bootstrap_interval(outcomes)
    return Score(skill, metric, float(np.mean(outcomes)), low, high, len(outcomes), None, note, unit, better, outcomes)


def outcome_values(outcomes: str | Sequence[float]) -> np.ndarray:
    """Return stored outcomes as float64 [n]."""
    return np.array([float(outcome) for outcome in outcomes])


def recall_at_1(queries: np.ndarray, targets: np.ndarray, positive: np.ndarray) -> list[bool]:
    """Return for each query [q e] whether its nearest target [t e] is a positive (bool [q t]); vectors have unit length."""
    nearest = (queries.astype(np.float32) @ targets.astype(np.float32).T).argmax(axis=1)
    return [bool(positive[i, j]) for i, j in enumerate(nearest)]


def retrieval_scores(
    metrics: tuple[str, str],
    texts: np.ndarray,
    pictures: np.ndarray,
    positive: np.ndarray,
    aims: tuple[float | None, float | None] = (None, None),
    note: str = "",
) -> list[Score]:
    """Return R@1 of pictures by text and of texts by picture, from unit vectors [t e] and [p e] and positives (bool [t p])."""
    hits = recall_at_1(texts, pictures, positive), recall_at_1(pictures, texts, positive.T)
    return [share("find", metric, right, aim, note) for metric, right, aim in zip(metrics, hits, aims, strict=True)]


def format_score(value: float, unit: Unit = "share") -> str:
    """Return a share in per cent and points with one decimal, other units with three decimals."""
    if unit == "points":
        return f"{value:.1f}"
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f}"
