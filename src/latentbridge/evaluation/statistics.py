"""Confidence intervals and exact significance tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, sqrt

import numpy as np

from latentbridge.rng import numpy_rng

Columns = np.ndarray
"""float64 [n k]: k numbers of each item."""
RESAMPLES = 2_000
_MOST_INDICES = 4_000_000
"""Resampled indices held at once: 32 MB."""
_TOLERANCE = 1e-9
"""Largest difference of means that count as equal: sums of the same numbers in another order differ by less."""


def wilson_interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a proportion; (0, 1) for no items."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, center - half), min(1.0, center + half)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 % interval of a mean; equal values give equal intervals."""
    observed = np.asarray(values, dtype=float)
    indices = numpy_rng(0, "bootstrap").integers(len(observed), size=(RESAMPLES, len(observed)))
    low, high = np.percentile(observed[indices].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def resampled_interval(
    groups: Sequence[Columns], statistic: Callable[[list[np.ndarray]], np.ndarray]
) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 % interval of a statistic of the column means of groups.

    Items are resampled within their group. `statistic` takes means [r k] per group and returns [r]; nan counts as 0.
    """
    rng = numpy_rng(0, "bootstrap of groups")
    means: list[np.ndarray] = []
    for group in groups:
        rows = max(1, min(RESAMPLES, _MOST_INDICES // len(group)))
        counts = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
        parts = [group[rng.integers(len(group), size=(count, len(group)))].mean(axis=1) for count in counts]
        means.append(np.concatenate(parts))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.nan_to_num(np.asarray(statistic(means), dtype=float))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the two-sided p-value of McNemar's exact test of paired outcomes."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    tail = sum(comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def permutation_test(differences: Sequence[float] | np.ndarray, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p-value of a sign permutation test that the mean of paired differences is 0.

    Exact if there are at most `resamples` sign patterns; otherwise over so many random ones and the observed one, so p-values
    are at least 1 / `resamples`.
    """
    observed = np.asarray(differences, dtype=float)
    count = len(observed)
    if 2**count <= resamples:
        signs = 1 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        flips = numpy_rng(0, "permutation test").integers(2, size=(resamples, count))
        signs = np.concatenate([np.ones((1, count)), 1 - 2.0 * flips])
    means = np.abs(signs @ observed) / max(1, count)
    return float((means >= abs(observed.sum()) / max(1, count) - _TOLERANCE).mean())


def fisher_exact(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the two-sided p-value of Fisher's exact test on two samples, each as (right, n)."""
    (right_first, n_first), (right_second, n_second) = first, second
    right = right_first + right_second
    possible = range(max(0, right - n_second), min(right, n_first) + 1)
    ways = {k: comb(n_first, k) * comb(n_second, right - k) for k in possible}
    return sum(w for w in ways.values() if w <= ways[right_first]) / comb(n_first + n_second, right)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple tests (Holm 1979, A simple sequentially rejective multiple test procedure)."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
