"""A toy study from nothing to its page, and what is not done twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from latentbridge import recipes
from latentbridge.config import ModelConfig, RunConfig, StageConfig
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import save_model
from latentbridge.models.unified import Model
from latentbridge.rundir import RunDir, read_json, write_json
from latentbridge.studies import Arm, Measuring, Study
from latentbridge.study.plan import FAILURE, estimate, planned_runs, standing
from latentbridge.study.results import write_results
from latentbridge.study.table import tabulate_study
from latentbridge.study.work import carry_out

MEASURING = Measuring(worlds=("shapes",), size=1, pairs=3, hops=2)
TOY = Study(
    name="toy",
    title="A toy",
    question="Does it run?",
    arms=(Arm("sft", "toy-sft"), Arm("fast", "toy-sft", ("optim.lr=0.5", "steps=2"))),
    focus="fast",
    seeds=(0,),
    measuring=MEASURING,
)


@pytest.fixture
def out(tmp_path: Path, small_model: Model, small_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base that is trained already; recipes that start from it."""
    config = RunConfig(
        name="toy-sft",
        stage=StageConfig("posttrain_sft", items=5),
        steps=2,
        batch_size=2,
        model=small_config,
        init=(("", "toy-base"),),
        bf16=False,
        log_every=1,
        checkpoint_every=1,
    )
    monkeypatch.setitem(recipes.RECIPES, "toy-sft", config)
    monkeypatch.setitem(recipes.RECIPES, "toy-base", replace(config, name="toy-base", init=()))
    save_model(small_model, tmp_path / "toy-base" / "model")
    return tmp_path


def carry_out_all(out: Path) -> None:
    for run in planned_runs(TOY):
        try:
            carry_out(run, out, MEASURING)
        except UserError:
            pass


def test_toy(out: Path) -> None:
    carry_out_all(out)
    document = tabulate_study(TOY, out)
    print(document)
    page = write_results(document, out / "docs" / "results.md")
    print(page.read_text())
