"""Intervals and tests by hand, and beside scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from latentbridge.evaluation.statistics import (
    bootstrap_interval,
    fisher_exact,
    holm,
    mcnemar,
    permutation_test,
    wilson_interval,
)
from latentbridge.rng import numpy_rng


@pytest.mark.parametrize(
    ("right", "n", "expected"),
    [
        (0, 0, (0.0, 1.0)),
        (5, 10, (0.23659, 0.76341)),  # Wilson (1927), worked by hand for z = 1.96
        (0, 10, (0.0, 0.27754)),  # z^2 / (n + z^2)
        (10, 10, (0.72246, 1.0)),
        (81, 263, (0.2553, 0.3662)),  # Newcombe (1998), table I
    ],
)
def test_wilson_intervals_by_hand(right: int, n: int, expected: tuple[float, float]):
    assert wilson_interval(right, n) == pytest.approx(expected, abs=5e-5)  # four published digits


def test_a_bootstrap_interval_is_deterministic():
    values = numpy_rng(0, "test bootstrap").normal(3.0, 2.0, 101)
    low, high = bootstrap_interval(values.tolist())
    assert (low, high) == bootstrap_interval(values.tolist())
    half = 1.96 * values.std() / 101**0.5
    # the percentiles of 2,000 resamples stray by some hundredths of the interval
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert bootstrap_interval([0.25] * 5) == (0.25, 0.25)


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def test_mcnemar_by_hand_and_as_scipys_coin():
    assert mcnemar(*outcomes(3, 1, 5, 2)) == 14 / 64  # twice the chance of at most one head in six
    assert mcnemar(*outcomes(90, 0, 0, 7)) == 1.0
    assert mcnemar(*outcomes(0, 4, 4, 0)) == 1.0
    assert mcnemar([], []) == 1.0
    for only_first, only_second in ((0, 7), (11, 29), (700, 613)):
        expected = stats.binomtest(only_first, only_first + only_second).pvalue
        for both in (0, 13):  # agreement says nothing
            assert mcnemar(*outcomes(both, only_first, only_second, 5)) == pytest.approx(expected)


def test_random_signs_by_hand_and_as_scipys():
    assert permutation_test([1.0, 1.0, 1.0]) == 2 / 8
    assert permutation_test([2.0, 1.0]) == 2 / 4
    assert permutation_test([-2.0, -1.0]) == 2 / 4
    assert permutation_test([0.0, 0.0]) == 1.0
    differences = numpy_rng(0, "test signs").normal(0.2, 1.0, 10)
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert permutation_test(differences.tolist()) == pytest.approx(float(expected))
    assert permutation_test(differences.tolist()) != pytest.approx(float(expected) / 2)  # one-sided


def test_many_items_draw_their_signs():
    rng = numpy_rng(1, "test signs")
    assert permutation_test(rng.normal(0.5, 1.0, 101).tolist()) == pytest.approx(1 / 2001)
    differences = rng.normal(0.1, 1.0, 101)
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert permutation_test(differences.tolist()) == pytest.approx(expected, abs=0.03)  # three errors of 2,000 draws


def test_two_shares_as_scipys_table():
    assert fisher_exact((3, 3), (0, 3)) == 2 / 20  # of 20 tables, this one and its mirror
    for first, second in (((8, 11), (3, 13)), ((47, 50), (38, 50)), ((0, 7), (0, 5)), ((1400, 1796), (1302, 1796))):
        table = [[right, n - right] for right, n in (first, second)]
        assert fisher_exact(first, second) == pytest.approx(float(stats.fisher_exact(table)[1]))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
