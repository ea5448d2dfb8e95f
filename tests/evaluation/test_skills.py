from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.fake_backbones import Clumsy, Perfect, Stuck

from latentbridge.data.shapes.language import QUESTION_KINDS, describe
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import UserError
from latentbridge.evaluation.metrics import Score
from latentbridge.evaluation.run import evaluate
from latentbridge.evaluation.skills import score_descriptions_drawn, score_latent_retrieval, skill_jobs
from latentbridge.rng import numpy_rng

COUNT = 13


def drawn(backbone: Any) -> tuple[Score, Score]:
    facts, exact = score_descriptions_drawn(backbone, "test", COUNT, seed=5)
    return facts, exact


def test_complete_generation_is_exact_and_partial_is_not():
    facts, exact = drawn(Perfect())
    assert facts.value == exact.value == 1 and facts.n == exact.n == COUNT
    scenes = distinct_scenes("test", numpy_rng(5, "descriptions drawn test"), COUNT)
    facts, exact = drawn(Clumsy())
    assert exact.outcomes == "".join("1" if len(scene.things) == 1 else "0" for scene in scenes)
    assert isinstance(facts.outcomes, tuple) and all(
        (kept == 1) == (len(scene.things) == 1) for kept, scene in zip(facts.outcomes, scenes, strict=True)
    )
    stuck, _ = drawn(Stuck())
    assert 0 < stuck.value < facts.value < 1


def test_every_drawing_has_its_own_description_and_seed():
    asked: list[tuple[str, int]] = []

    class Watched(Perfect):
        def draw_descriptions(self, prompts, seeds=(0,)):
            asked.extend(zip(prompts, seeds, strict=True))
            return super().draw_descriptions(prompts, seeds)

    score_descriptions_drawn(Watched(), "test", 53, seed=5)  # more than one batch
    scenes = distinct_scenes("test", numpy_rng(5, "descriptions drawn test"), 53)
    assert asked == [(describe(scene), 5 + i) for i, scene in enumerate(scenes)]


def test_aligned_latents_give_full_recall():
    for score in score_latent_retrieval(Perfect(), "test", COUNT, seed=5):  # pyright: ignore[reportArgumentType]
        assert score.value == 1 and score.n == COUNT

    class Blind(Perfect):
        def und_latent(self, items):
            result = super().und_latent(items)
            return result if isinstance(items[0], str) else result[:1].expand_as(result)

    for score in score_latent_retrieval(Blind(), "test", COUNT, seed=5):  # pyright: ignore[reportArgumentType]
        assert score.outcomes.count("1") == 1, "one of all finds itself"


def test_question_rows_equal_those_of_an_omnibridge():
    class Agreeable(Perfect):
        def understand(self, pictures, questions):
            return ["yes"] * len(pictures)

    questions, *_ = skill_jobs(Agreeable(), 7, 5)  # pyright: ignore[reportArgumentType]
    overall, *kinds = questions()
    assert overall.metric == "questions, direct (test)" and overall.n == 7 * len(QUESTION_KINDS)
    values = {score.metric: score.value for score in kinds}
    assert values["  count, direct (test)"] == 0 and 0 < values["  existence, direct (test)"] < 1
    assert overall.value == pytest.approx(sum(values.values()) / len(QUESTION_KINDS))


def test_eval_scores_other_backbones(small_harmon, tmp_path: Path):
    result = evaluate(small_harmon, "shapes", size=1, progress=False)
    skills = [row["skill"] for row in result["rows"]]
    assert skills == ["understand"] * (1 + len(QUESTION_KINDS)) + ["draw"] * 2 + ["find"] * 2
    assert result == evaluate(small_harmon, "shapes", size=1, progress=False)
    for world in ("drawings", tmp_path / "own.jsonl"):
        with pytest.raises(UserError, match="Only an OmniBridge is scored on"):
            evaluate(small_harmon, world, progress=False)  # pyright: ignore[reportArgumentType]
