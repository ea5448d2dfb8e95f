"""The core set by hand on backbones that are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.evaluation.fake_backbones import Clumsy, Forgetful, Perfect

from latentbridge.data.pairs import Pair, held_out_pairs
from latentbridge.evaluation.consistency import measure_consistency
from latentbridge.evaluation.encoders import model_encoder
from latentbridge.evaluation.metrics import Score
from latentbridge.models.backbones.janus.modeling_janus import JanusPro

METRICS = [
    "Unified-Bench cosine (own)",
    "right answers on the picture",
    "right answers on the drawing of its text",
    "self-question agreement gap",
    "answer flip rate",
    "prompt-likelihood gap",
]


def measure(backbone: Any, pairs: list[Pair]) -> dict[str, Score]:
    rows = measure_consistency(backbone, pairs, [model_encoder(backbone)], progress=False)
    assert {row.skill for row in rows} == {"consistency"}
    return {row.metric: row for row in rows}


def values(rows: dict[str, Score]) -> list[float]:
    assert list(rows) == METRICS
    return [row.value for row in rows.values()]


def test_a_perfect_backbone_is_consistent(seven_pairs: list[Pair]):
    rows = measure(Perfect(), seven_pairs)
    assert values(rows) == pytest.approx([1, 1, 1, 0, 0, 0], abs=1e-5)
    assert "McNemar p = 1" in rows["self-question agreement gap"].note


def test_captions_of_half_the_things_flip_answers_but_not_generation(seven_pairs: list[Pair]):
    # redrawn pictures hold two of four things (squared norms 7 and 13), drawings of full texts all
    assert values(measure(Forgetful(), seven_pairs)) == pytest.approx([(7 / 13) ** 0.5, 1, 1, 0, 1, 0], abs=1e-4)


def test_generating_half_the_things_lowers_agreement(seven_pairs: list[Pair]):
    rows = measure(Clumsy(), seven_pairs)
    # two things drawn; the full text lacks nothing of the picture, but says a count that the drawing does not have
    assert values(rows) == pytest.approx([(7 / 13) ** 0.5, 1, 0, 1, 1, 1 / 10], abs=1e-4)
    assert "only on the picture 7, only on the drawing 0; McNemar p = 0.016" in rows["self-question agreement gap"].note
    better = {metric: row.better for metric, row in rows.items()}
    assert [better[metric] for metric in METRICS] == ["higher"] * 3 + ["lower"] * 3


def test_without_questions_no_answers_are_scored(seven_pairs: list[Pair]):
    silent = [Pair(pair.picture, pair.text) for pair in seven_pairs]
    assert list(measure(Perfect(), silent)) == [METRICS[0], METRICS[-1]]


def test_another_backbone_is_measured(small_janus: JanusPro):
    rows = measure(small_janus, held_out_pairs("shapes", 2, seed=1))
    assert list(rows) == METRICS and all(np.isfinite(row.value) for row in rows.values())
