from __future__ import annotations

import json

import numpy as np
import pytest

from latentbridge.evaluation.metrics import average, format_score, recall_at_1, share
from latentbridge.evaluation.statistics import bootstrap_interval, wilson_interval


def test_a_share_counts_failures_and_keeps_every_item():
    score = share("draw", "six", [True, False, True, True], aim=0.5, note="by hand")
    assert (score.value, score.n, score.aim, score.note) == (0.75, 4, 0.5, "by hand")
    assert (score.low, score.high) == wilson_interval(3, 4)
    assert (score.outcomes, score.unit, score.better) == ("1011", "share", "higher")
    assert score.to_dict()["metric"] == "six"
    empty = share("draw", "none", [])
    assert (empty.value, empty.low, empty.high, empty.n) == (0.0, 0.0, 1.0, 0)


def test_an_average_keeps_every_item_and_survives_json():
    values = np.array([0.5, 0.123456, -0.25], dtype=np.float32)
    score = average("loopback", "drift", values, "cosine", "lower", "by hand")
    assert score.outcomes == (0.5, 0.12346, -0.25)
    assert score.value == pytest.approx((0.5 + 0.12346 - 0.25) / 3)
    assert (score.low, score.high) == bootstrap_interval(score.outcomes) and score.low < score.value < score.high
    assert (score.n, score.unit, score.better, score.note) == (3, "cosine", "lower", "by hand")
    assert json.loads(json.dumps(score.to_dict()))["outcomes"] == [0.5, 0.12346, -0.25]


def test_scores_in_words():
    assert (format_score(0.9534), format_score(1), format_score(-0.02)) == ("95.3 %", "100.0 %", "-2.0 %")
    assert (format_score(0.5, "cosine"), format_score(1.25, "nats")) == ("0.500", "1.250")


def test_recall_uses_the_nearest_target_only():
    targets = np.eye(3)
    queries = np.array([[0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0.9, 0.1]])
    positive = np.array([[True, False, False], [False, False, True], [True, True, False]])
    assert recall_at_1(queries, targets, positive) == [True, False, True]
