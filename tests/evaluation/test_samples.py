"""Samples show what is learned and disturb nothing: a run ends bit for bit as without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.test_native import CONFIGS

from latentbridge.config import AlignConfig, ModelConfig, OptimConfig, PostTrainSftConfig, RunConfig
from latentbridge.errors import UserError
from latentbridge.evaluation import samples
from latentbridge.evaluation.samples import Samples, sampled_scenes
from latentbridge.files import read_json
from latentbridge.recipes import recipe
from latentbridge.run_folder import RunFolder
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage

SMALL = RunConfig(
    name="small",
    stage=PostTrainSftConfig(items=8, roundtrip_steps=1),
    steps=3,
    batch_size=2,
    optim=OptimConfig(warmup_steps=1),
    bf16=False,
    log_every=2,
    threads=1,
)


@pytest.fixture(autouse=True)
def few_and_one_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latentbridge.training.stages.posttrain._HELD_OUT_PAIRS", 3)
    monkeypatch.setattr(samples, "_SHOWN", 3)
    monkeypatch.setattr(samples, "_QUESTIONS", 1)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["omnibridge", *CONFIGS])
def test_sampling_does_not_change_a_run(small_config: ModelConfig, tmp_path: Path, kind: str) -> None:
    config = replace(SMALL, model=small_config) if kind == "omnibridge" else replace(SMALL, model=CONFIGS[kind])
    observer = Samples(config, every=2)
    observer.draws = True  # a decoder of random weights draws, too
    weights = [
        (train(config, make_stage(config), tmp_path / name, progress=False, observers=observers) / "model.safetensors").read_bytes()
        for name, observers in (("plain", []), ("seen", [observer]))
    ]  # fmt: skip
    assert weights[0] == weights[1]
    run = RunFolder(tmp_path / "seen")
    assert list(run.samples()) == [2, 3]
    assert not (tmp_path / "plain" / "samples").exists()
    assert len(read_json(run.prompts)) == 3
    for record in run.metrics():
        assert 0 <= record["held-out facts drawn"] <= 1 and 0 <= record["held-out answers right"] <= 1
    sheets = [np.asarray(Image.open(path)) for path in run.samples().values()]
    assert sheets[0].shape == (128, 6 * 132 - 4, 3)
    assert (sheets[0] != sheets[1]).any(), "one step later the same noise becomes another drawing"


def test_equal_weights_give_equal_samples(small_model, small_config: ModelConfig, tmp_path: Path) -> None:
    config = replace(SMALL, model=small_config, stage=AlignConfig(), init=(("decoder.", "x"),))
    observer = Samples(config, every=5)
    observer.on_train_begin(tmp_path, config)
    assert not observer.should_evaluate(4)
    assert observer.on_evaluate(small_model, 5) == observer.on_evaluate(
        small_model, 3
    )  # the last of the run is sampled, too
    sheets = [path.read_bytes() for path in RunFolder(tmp_path).samples().values()]
    assert sheets[0] == sheets[1]


def test_a_run_samples_only_skills_it_has() -> None:
    can = {
        name: Samples(recipe(name), 1) for name in ("pretrain-decoder", "sft", "align", "post-sft", "pretrain-bagel")
    }
    assert {name for name, each in can.items() if each.draws} == {
        "pretrain-decoder",
        "align",
        "post-sft",
        "pretrain-bagel",
    }
    assert {name for name, each in can.items() if each.answers} == {"sft", "post-sft", "pretrain-bagel"}
    for name in ("scene-teacher", "pretrain-janus-codes"):
        with pytest.raises(UserError, match=f"{name} trains .* leave out --sample-every"):
            Samples(recipe(name), 1)


def test_the_prompts_are_held_out_and_differ() -> None:
    scenes = sampled_scenes()
    assert len(set(scenes)) == len(scenes) == 3 and scenes == sampled_scenes()
