"""Runs carried out: trained, measured, given up, interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.checkpoint import save_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.run_folder import RunFolder
from latentbridge.studies import Study
from latentbridge.study.child_process import execute_run
from latentbridge.study.plan import FAILURE, arm_run, base_run, planned_runs, run_status
from latentbridge.study.table import study_document


def test_a_diverged_run_stores_its_reason(tmp_path: Path, toy: Study, small_model: OmniBridge) -> None:
    save_model(small_model, RunFolder(tmp_path / "toy-base").model)
    run = arm_run(toy.arms[1], 0)
    with pytest.raises(UserError, match="loss of toy-sft became"):
        execute_run(run, tmp_path, None)
    assert "loss of toy-sft became" in read_json(tmp_path / run.name / FAILURE)["reason"]
    assert run_status(run, tmp_path, toy.measuring).finished


def test_a_run_that_cannot_start_stores_nothing(tmp_path: Path, toy: Study) -> None:
    run = arm_run(toy.arms[0], 0)
    with pytest.raises(UserError, match="starts from the run toy-base, which is not in"):
        execute_run(run, tmp_path, None)
    assert not (tmp_path / run.name / FAILURE).exists()


def test_a_run_stopped_by_a_full_disk_resumes(tmp_path: Path, toy: Study, small_model: OmniBridge) -> None:
    save_model(small_model, RunFolder(tmp_path / "toy-base").model)
    run = arm_run(toy.arms[0], 0)
    (tmp_path / run.name).mkdir()
    RunFolder(tmp_path / run.name).model.write_text("in the way")
    with pytest.raises(UserError, match="Cannot write to .*model"):
        execute_run(run, tmp_path, None)
    RunFolder(tmp_path / run.name).model.unlink()
    execute_run(run, tmp_path, None)
    assert run_status(run, tmp_path, toy.measuring).trained


@pytest.mark.slow
def test_a_toy_study_is_executed_once(tmp_path: Path, toy: Study, small_model: OmniBridge) -> None:
    save_model(small_model, RunFolder(tmp_path / "toy-base").model)
    runs = [run for run in planned_runs(toy, "sft") if run.is_base or "seed=0" in run.name]
    for run in runs:
        execute_run(run, tmp_path, toy.measuring)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    for run in runs:
        execute_run(run, tmp_path, toy.measuring)
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    document: Any = study_document(toy, tmp_path)
    (group,) = document["groups"]
    assert group["base"] == "toy-base" and base_run("toy-base") in runs
    assert len(group["measures"]) == 9 == len({row["measure"] for row in group["differences"]})
