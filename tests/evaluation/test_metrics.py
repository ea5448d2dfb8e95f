from __future__ import annotations

import numpy as np
import pytest

from latentbridge.evaluation.metrics import recall_at_1, share, wilson_interval


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


def test_a_share_counts_failures():
    score = share("draw", "six", [True, False, True, True], aim=0.5, note="by hand")
    assert (score.value, score.n, score.aim, score.note) == (0.75, 4, 0.5, "by hand")
    assert (score.low, score.high) == wilson_interval(3, 4)
    assert score.to_dict()["metric"] == "six"
    empty = share("draw", "none", [])
    assert (empty.value, empty.low, empty.high, empty.n) == (0.0, 0.0, 1.0, 0)


def test_recall_looks_at_the_nearest_target_only():
    targets = np.eye(3)
    queries = np.array([[0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0.9, 0.1]])
    positive = np.array([[True, False, False], [False, False, True], [True, True, False]])
    assert recall_at_1(queries, targets, positive) == [True, False, True]
