"""Scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class Score:
    """A share of right items with its 95 % interval, and the aim it is held against, where there is one."""

    skill: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    aim: float | None = None
    note: str = ""

    def to_dict(self) -> dict:
        return asdict(self)


def wilson_interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson 95 % interval of a proportion; (0, 1) for no items."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(skill: str, metric: str, right: Sequence[bool], aim: float | None = None, note: str = "") -> Score:
    """The share of right items; an item that failed to produce anything is False and counts."""
    n, good = len(right), int(sum(right))
    low, high = wilson_interval(good, n)
    return Score(skill, metric, good / max(1, n), low, high, n, aim, note)


def recall_at_1(queries: np.ndarray, targets: np.ndarray, positive: np.ndarray) -> list[bool]:
    """For each query [q e], whether its nearest target [t e] is a positive (bool [q t]); unit vectors, float32."""
    nearest = (queries.astype(np.float32) @ targets.astype(np.float32).T).argmax(axis=1)
    return [bool(positive[i, j]) for i, j in enumerate(nearest)]
