"""How sure a number is, and whether two differ: intervals and exact tests, on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt

import numpy as np

from latentbridge.rng import numpy_rng

RESAMPLES = 2_000
_SAME = 1e-9
"""Up to this, two means count as equal: sums of the same numbers in another order differ by less."""


def wilson_interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson 95 % interval of a proportion; (0, 1) for no items."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of the mean of independent items; the same values give the same interval."""
    observed = np.asarray(values, dtype=float)
    chosen = numpy_rng(0, "bootstrap").integers(len(observed), size=(RESAMPLES, len(observed)))
    low, high = np.percentile(observed[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The p-value of McNemar's exact test, two-sided: could both treatments of the same items be right equally often?

    Only the items on which they differ count; each falls to either side like a coin.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differing = only_first + only_second
    tail = sum(comb(differing, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**differing)


def permutation_test(differences: Sequence[float] | np.ndarray, resamples: int = RESAMPLES) -> float:
    """The p-value that paired differences are 0 on average, two-sided: how often random signs give a mean as far from 0.

    Exact over all signs where these are at most `resamples`; else over so many drawn ones, the observed among them. No
    p-value is then below 1 / `resamples`, so tests that are many need more.
    """
    observed = np.asarray(differences, dtype=float)
    count = len(observed)
    if 2**count <= resamples:
        signs = 1 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        drawn = numpy_rng(0, "permutation test").integers(2, size=(resamples, count))
        signs = np.concatenate([np.ones((1, count)), 1 - 2.0 * drawn])
    means = np.abs(signs @ observed) / max(1, count)
    return float((means >= abs(observed.sum()) / max(1, count) - _SAME).mean())


def fisher_exact(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The p-value that two samples (right, n) of different items have one share of right ones, two-sided.

    Fisher's exact test: of all tables with these margins, those no likelier than the one observed.
    """
    (right_first, n_first), (right_second, n_second) = first, second
    right = right_first + right_second
    possible = range(max(0, right - n_second), min(right, n_first) + 1)
    ways = {k: comb(n_first, k) * comb(n_second, right - k) for k in possible}
    return sum(w for w in ways.values() if w <= ways[right_first]) / comb(n_first + n_second, right)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of many tests, raised so that the chance of a single false alarm among all of them stays below the level.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
