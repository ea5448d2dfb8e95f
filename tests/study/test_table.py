"""Arithmetic of a study's results table, by hand on invented scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentbridge.evaluation.metrics import Score, average, share
from latentbridge.studies import MeasurementConfig
from latentbridge.study.measures import Measure, headline_measures, read_outcomes
from latentbridge.study.table import add_verdicts, difference


def documents(*rows: Score, world: Any = "shapes", report: str = "scores.json") -> Any:
    return {(world, report): {"rows": [row.to_dict() for row in rows]}}


def test_a_measure_is_the_mean_of_its_rows_item_by_item() -> None:
    result = documents(
        share("walk", "hop 4", [True, False, True, True, False]), average("talk", "hop 4", [0.5, 0.25, 1, 0, 0])
    )
    measure = Measure("facts", "shapes", "scores.json", "skill", (("walk", "hop 4"), ("talk", "hop 4")))
    outcomes = read_outcomes(measure, result)
    assert outcomes is not None and outcomes.items.tolist() == [0.75, 0.125, 1, 0.5, 0]
    assert (outcomes.unit, outcomes.better) == ("share", "higher")


def test_a_measure_without_a_metric_is_the_first_of_its_skill() -> None:
    result = documents(share("see", "a", [True]), share("draw", "all", [False, True]), share("draw", "some", [True]))
    outcomes = read_outcomes(Measure("drawing", "shapes", "scores.json", "skill", (("draw", ""),)), result)
    assert outcomes is not None and outcomes.items.tolist() == [0, 1]


def test_a_measure_with_a_missing_row_is_none() -> None:
    result = documents(share("walk", "hop 4", [True]))
    half = Measure("facts", "shapes", "scores.json", "skill", (("walk", "hop 4"), ("talk", "hop 4")))
    assert read_outcomes(half, result) is None
    assert read_outcomes(Measure("facts", "drawings", "scores.json", "skill", (("walk", "hop 4"),)), result) is None


def test_items_are_averaged_over_seeds_and_compared_in_pairs() -> None:
    before = [np.array([0.0, 0, 1, 0, 0])]
    after = [np.array([1.0, 0, 1, 1, 0]), np.array([1.0, 0, 1, 0, 0])]
    result = difference(before, after)
    # gains 1, 0, 0, .5, 0; of the four signs of 1 and .5 two sums are as large as 1.5
    assert result["difference"] == pytest.approx(0.3) and result["p"] == pytest.approx(0.5)
    assert 0 <= result["low"] < 0.3 < result["high"] <= 1
    # two seeds that say the same are one: they make no more items
    assert difference(before * 2, after * 3) == pytest.approx(result)
    assert difference(after, before)["difference"] == pytest.approx(-0.3)


def test_a_pairing_of_other_items_is_another_test() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(31)
    after = before + 0.01
    assert difference([before], [after])["p"] < 1e-3
    assert difference([before], [rng.permutation(after)])["p"] > 0.05


def test_verdicts_are_corrected_over_the_whole_table() -> None:
    rows: list[dict[str, Any]] = [{"difference": d, "p": p} for d, p in ((0.5, 0.01), (0.5, 0.04), (0.5, 0.012))]
    add_verdicts(rows, ["higher", "higher", "lower"])
    # 3 * .01, 1 * .04 and 2 * .012 raised to the one before it
    assert [row["holm"] for row in rows] == pytest.approx([0.03, 0.04, 0.03])
    assert [row["verdict"] for row in rows] == ["better", "better", "worse"]
    add_verdicts(rows[1:2] + [{"difference": 1.0, "p": 0.03}], ["higher"] * 2)
    assert rows[1]["holm"] == pytest.approx(0.06) and rows[1]["verdict"] == "noise"


def test_headline_measures_use_the_last_hop_that_is_exact() -> None:
    facts = {m.world: m.rows for m in headline_measures(MeasurementConfig(hops=6)) if m.name.startswith("facts")}
    assert facts == {
        "shapes": (
            ("loopback, text first", "hop 6, text: facts kept"),
            ("loopback, picture first", "hop 6, picture: facts kept"),
        ),
        "drawings": (("loopback, text first", "hop 6, text: facts kept"),),
    }
    names = [(m.world, m.name) for m in headline_measures(MeasurementConfig())]
    assert len(names) == len(set(names)) == 4 + 2 + 2 * 5
    without_eval = headline_measures(MeasurementConfig(worlds=("shapes",), size=0))
    assert [m.name for m in without_eval if m.about == "skill"] == ["questions", "words", "drawing"]
    assert all(m.report != "scores.json" for m in without_eval)


def test_a_study_of_reasoning_has_only_its_measures():
    only = headline_measures(MeasurementConfig(worlds=("shapes",), size=0, pairs=0, problems=7))
    assert [(m.name, m.about) for m in only] == [(name, "reasoning") for name in ("answers", "key steps", "form")]
    result = documents(
        share("reasoning", "answers", [True, False]),
        average("reasoning", "key steps reached", [1, 0.5]),
        share("reasoning", "valid form", [False, False]),
        report="reasoning.json",
    )
    items = [outcomes.items.tolist() for m in only if (outcomes := read_outcomes(m, result)) is not None]
    assert items == [[1, 0], [1, 0.5], [0, 0]]
    assert not [m for m in headline_measures(MeasurementConfig()) if m.about == "reasoning"]
