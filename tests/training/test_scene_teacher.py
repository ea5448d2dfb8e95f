from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import run, run_until

from latentbridge.config import LatentUMMConfig, ModelConfig, OptimConfig, PretrainTeacherConfig, RunConfig, SceneConfig
from latentbridge.data.shapes.language import parse_description
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import load_model, new_model, unique_state
from latentbridge.recipes import recipe
from latentbridge.run_folder import RunFolder
from latentbridge.training.stages import make_stage

SMALL = RunConfig(
    name="small-scene-teacher",
    stage=PretrainTeacherConfig(),
    steps=6,
    batch_size=7,
    model=SceneConfig(picture_width=32, picture_layers=1, picture_heads=2, text_width=32, text_layers=1, text_heads=2),
    optim=OptimConfig(lr=3e-3, muon_lr=1e-2, warmup_steps=3, ema_decay=0.9),
    bf16=False,
    log_every=1,
    checkpoint_every=2,
    threads=1,
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latentbridge.training.stages.pretrain_teacher._HELD_OUT_PAIRS", 31)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_an_interrupted_run_ends_bitwise_equal_and_all_but_the_unused_bias_are_trained(tmp_path: Path):
    whole = run(SMALL, tmp_path / "whole")
    run_until(SMALL, tmp_path / "stopped", last=5)
    assert run(SMALL, tmp_path / "stopped", resume=True) == whole

    before, after = unique_state(new_model(SMALL.model, SMALL.seed)), unique_state(load_model(tmp_path / "whole"))
    assert before.keys() == after.keys()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"model.logit_bias"}


@torch.no_grad()
def test_training_improves_retrieval(tmp_path: Path):
    config = replace(SMALL, steps=150, batch_size=31, checkpoint_every=1000)
    stage: Any = make_stage(config)
    first = stage.check(new_model(config.model, config.seed), 0)
    with torch.enable_grad():
        run(config, tmp_path)
    last = RunFolder(tmp_path).metrics()[-1]
    assert all(last[way] >= first[way] + 0.1 for way in ("image to text", "text to image")), (first, last)


def test_a_run_uses_the_teacher_trained_beside_it_or_tells_how_to_train_one(
    small_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("latentbridge.training.stages.posttrain._HELD_OUT_PAIRS", 3)
    stage = LatentUMMConfig(items=7, teacher="scene", rollouts=2, roundtrip_steps=1)
    config = replace(SMALL, name="pupil", stage=stage, model=small_config, steps=1)
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match=f"train scene-teacher --out {runs}/scene-teacher --resume"):
        run(config, runs / "pupil")
    run(replace(SMALL, steps=1), runs / "scene-teacher")
    run(config, runs / "pupil")
    logged = RunFolder(runs / "pupil").metrics()[-1]
    assert logged["anchor"] > 0 and (tmp_path / "cache" / "embeddings").is_dir()


def test_scenes_grow_and_a_batch_is_all_canonical_or_all_free():
    stage: Any = make_stage(replace(SMALL, steps=40, batch_size=24))
    things, free = [], []
    for step in (0, 4, 20, 23, 27, 31, 35, 39):
        parsed = [parse_description(text) for text in stage.batch(None, step).texts]
        free.append(not any(parsed))
        assert free[-1] or all(parsed)
        things.append(max((len(scene.things) for scene in parsed if scene), default=0))
    assert 0 < sum(free) < len(free)
    assert things[0] in (0, 1) and max(things) == 4


def test_the_recipe_trains_on_both_worlds():
    found = recipe("scene-teacher")
    assert found.stage.drawings_share > 0 and found.batch_size >= 256 and isinstance(found.model, SceneConfig)
