"""Plans of studies: runs, progress and the time left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentbridge import recipes
from latentbridge.config import LatentUMMConfig
from latentbridge.errors import UserError
from latentbridge.files import write_json
from latentbridge.run_folder import RunFolder
from latentbridge.studies import ABLATIONS, LORA, METHODS, Arm, Study
from latentbridge.study.plan import FAILURE, arm_run, arms_by_base, base_run, estimate, planned_runs, run_status


def test_every_seed_of_every_method_starts_from_the_shipped_model() -> None:
    runs = planned_runs(METHODS)
    assert len(runs) == 1 + 7 * 3 and runs[0] == base_run("tiny")
    assert [run.name.endswith("seed=0") for run in runs[1:8]] == [True] * 7
    configs = [run.config for run in runs[1:]]
    assert all(config and config.threads == 1 for config in configs)
    assert [config.seed for config in configs if config] == [0] * 7 + [1] * 7 + [2] * 7


def test_values_of_a_sweep_that_the_focus_has_are_not_trained_twice() -> None:
    (arms,) = arms_by_base(ABLATIONS).values()
    assert len(arms) < len(ABLATIONS.arms)
    assert [arm_run(arm, 0) for arm in arms].count(arm_run(ABLATIONS.arms[0], 0)) == 1
    shared = {run.name for run in planned_runs(ABLATIONS)} & {run.name for run in planned_runs(METHODS)}
    assert shared == {"tiny", "post-latentumm_seed=0"}
    configs = [replace(run.config, seed=0) for run in planned_runs(ABLATIONS) if run.config and not run.is_base]
    assert all(
        configs.count(config) == len(ABLATIONS.seeds) for config in configs
    )  # else names would hide a difference


def test_adapters_and_full_fine_tuning_differ_in_rank_and_rate_alone() -> None:
    base, *runs = planned_runs(LORA)
    configs = [run.config for run in runs if run.config]
    assert base == base_run("tiny") and [config.stage.lora_rank for config in configs] == [0, 4, 16, 64]
    assert len({run.name for run in runs}) == 4 and [config.optim.lr for config in configs] == [1e-4] + 3 * [1e-3]
    full = configs[0]
    alike = [replace(each, stage=full.stage, optim=replace(each.optim, lr=full.optim.lr)) for each in configs]
    assert alike == 4 * [full]


def test_one_arm_includes_its_prerequisites(toy: Study) -> None:
    assert planned_runs(toy, "sft") == [base_run("toy-base"), *(arm_run(toy.arms[0], seed) for seed in (0, 1))]


def test_a_trained_teacher_comes_first(toy: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "scene-teacher", replace(recipes.RECIPES["toy-base"], name="scene-teacher"))
    umm = replace(recipes.RECIPES["toy-sft"], name="toy-umm", stage=LatentUMMConfig(items=5))
    monkeypatch.setitem(recipes.RECIPES, "toy-umm", umm)
    taught = replace(toy, arms=(toy.arms[0], Arm("taught", "toy-umm", ("stage.teacher=scene",))))
    names = [run.name for run in planned_runs(taught)]
    assert names[:4] == ["toy-base", "toy-sft_seed=0", "scene-teacher", "toy-umm_teacher=scene_seed=0"]


def test_a_finished_run_is_not_repeated(tmp_path: Path, toy: Study, finish: Any) -> None:
    run = arm_run(toy.arms[0], 0)
    finish(base_run("toy-base"), [True], [0.5])
    before = run_status(run, tmp_path, toy.measuring)
    assert (before.trained, before.steps_left, len(before.missing), before.finished) == (False, 2, 3, False)
    finish(run, [True], [0.5])
    assert run_status(run, tmp_path, toy.measuring).finished
    # of another size only loopback and consistency are to be made again
    other = run_status(run, tmp_path, replace(toy.measuring, pairs=7))
    assert other.missing == (("shapes", "consistency.json"), ("shapes", "loopback.json"))
    (RunFolder(tmp_path / run.name).model / "model.safetensors").write_bytes(b"trained anew")
    assert len(run_status(run, tmp_path, toy.measuring).missing) == 3


def test_a_run_resumes_from_its_checkpoint(tmp_path: Path, toy: Study) -> None:
    run = arm_run(toy.arms[0], 0)
    write_json(RunFolder(tmp_path / run.name).checkpoint(1) / "state.json", {"step": 1})
    assert run_status(run, tmp_path, toy.measuring).steps_left == 1


def test_trainings_by_other_settings_or_from_other_weights_are_refused(tmp_path: Path, toy: Study, finish: Any) -> None:
    run = arm_run(toy.arms[0], 0)
    finish(base_run("toy-base"), [True], [0.5])
    finish(run, [True], [0.5])
    renamed = replace(run, overrides=("seed=0", "batch_size=3"))
    with pytest.raises(UserError, match="trained with other settings.*--out"):
        run_status(renamed, tmp_path, toy.measuring)
    finish(base_run("toy-base"), [True], [0.5], weights=b"others")
    with pytest.raises(UserError, match="started from other weights than toy-base"):
        run_status(run, tmp_path, toy.measuring)


def test_a_run_that_failed_is_finished(tmp_path: Path, toy: Study) -> None:
    run = arm_run(toy.arms[1], 0)
    write_json(tmp_path / run.name / FAILURE, {"reason": "it burst"})
    result = run_status(run, tmp_path, toy.measuring)
    assert result.finished and result.failure == "it burst"


def test_the_time_left_is_estimated_from_similar_runs(tmp_path: Path, toy: Study, finish: Any) -> None:
    base = base_run("toy-base")
    sft, burst = (arm_run(arm, 0) for arm in toy.arms)
    strange = arm_run(Arm("other", "post-sft"), 0)
    finish(base, [True], [0.5])
    finish(sft, [True], [0.5])
    statuses = [run_status(run, tmp_path, toy.measuring) for run in (base, sft, burst, strange)]
    # two steps in half an hour, three reports of a minute each; of post-sft only the reports are known
    result = estimate(statuses)
    assert result.hours == pytest.approx(0.5 + 2 * 3 / 60) and result.unknown == 1
    assert result.describe(2).startswith("At least 0.3 hours with 2 at a time")
    assert estimate(statuses[:2]).hours == 0
