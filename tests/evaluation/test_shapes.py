from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from latentbridge.data.shapes.grading import GENEVAL_CATEGORIES
from latentbridge.data.shapes.language import EDIT_KINDS, QUESTION_KINDS
from latentbridge.evaluation.run import evaluate
from latentbridge.evaluation.shapes import batched, embed_batched, score_captions, score_questions
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge


def test_batches_cover_all_items_in_order():
    assert [list(part) for part in batched([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert list(batched([], 2)) == []


def test_vectors_of_all_batches_are_stacked():
    sizes: list[int] = []

    def embed(part: list[int]) -> np.ndarray:
        sizes.append(len(part))
        return np.array(part)[:, None] * np.ones(3)

    vectors = embed_batched(embed, list(range(250)))
    assert sizes == [100, 100, 50] and vectors.shape == (250, 3)
    assert vectors[:, 0].tolist() == list(range(250))


@pytest.fixture(scope="module")
def scores(small_model: OmniBridge) -> dict:
    return evaluate(small_model, "shapes", size=2, seed=5, progress=False)


def test_every_skill_is_scored_with_its_interval(scores: dict):
    rows = {(row["skill"], row["metric"]): row for row in json.loads(json.dumps(scores))["rows"]}
    assert len(rows) == len(scores["rows"])
    assert {skill for skill, _ in rows} == {"understand", "draw", "edit", "find"}
    for row in rows.values():
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    expected = {
        ("understand", "questions, direct (test)"): 2 * len(QUESTION_KINDS),
        ("understand", "questions, worked (test)"): 2 * len(QUESTION_KINDS),
        ("understand", "whole caption (test_pairs)"): 6,
        ("draw", "mean of six, query (test)"): 2 * len(GENEVAL_CATEGORIES),
        ("draw", "mean of six, text (test)"): 2 * len(GENEVAL_CATEGORIES),
        ("draw", "mean of six, query (test_pairs)"): len(GENEVAL_CATEGORIES),
        ("edit", "right, nothing else changed (test)"): 2 * len(EDIT_KINDS),
        ("find", "text to picture R@1 (test)"): 40,
    }
    assert {key: rows[key]["n"] for key in expected} == expected
    assert {row["aim"] for (_, metric), row in rows.items() if "test_pairs" in metric} == {None}


def test_a_random_model_has_no_right_replies(scores: dict):
    said = [row for row in scores["rows"] if row["skill"] == "understand" or "mean of six" in row["metric"]]
    assert {row["value"] for row in said} == {0.0}


def test_scores_store_their_conditions(scores: dict):
    assert (scores["world"], scores["size"], scores["seed"]) == ("shapes", 2, 5)
    assert f"{torch.get_num_threads()} CPU threads" in scores["hardware"]


def test_samples_depend_on_the_seed_only(small_model: OmniBridge):
    def metrics(seed: int) -> list[dict]:
        result = [*score_captions(small_model, "test", 3, seed), *score_questions(small_model, "test", 1, seed, False)]
        return [score.to_dict() for score in result]

    first = metrics(1)
    np.random.default_rng().random()
    assert metrics(1) == first
