from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.runs import run, run_until
from tests.training.test_loop import run_config

from latentbridge.config import GrpoConfig, ModelConfig, OptimConfig, RewardWeights, RunConfig, StepGrpoConfig
from latentbridge.data.reasoning import Problem
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import new_model, save_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng
from latentbridge.run_folder import RunFolder
from latentbridge.training.objectives.rewards import REWARDS
from latentbridge.training.rollouts import roll_out
from latentbridge.training.stages import make_stage

EASY = GrpoConfig(generations=3, temperature=1.0, max_tokens=9, rewards=RewardWeights(key_steps=0, validity=0))


def early_letters(reply: str, problem: Problem) -> float:
    """Return the fraction of letters from a to m, a reward that an untrained model can learn."""
    return sum(letter in "abcdefghijklm" for letter in reply.lower()) / max(1, len(reply))


@pytest.fixture
def toy_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "accuracy", early_letters)


@pytest.fixture
def start(small_model: OmniBridge, tmp_path: Path) -> OmniBridge:
    """Save and return a model with many replies of fewer than nine tokens, as the run `start`."""
    model = deepcopy(small_model)
    with torch.no_grad():
        model.backbone.model.lm_head.weight[model.backbone.end_of_turn] *= 2
    save_model(model, RunFolder(tmp_path / "start").model)
    return model


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def config_of(small_config: ModelConfig, lora_rank: int = 0, **changes: Any) -> RunConfig:
    stage = StepGrpoConfig(lora_rank=lora_rank, grpo=EASY)
    made = run_config(small_config, "step_grpo", stage=stage, steps=5, batch_size=2, init=(("", "start"),))
    return replace(made, **changes)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_run_interrupted_between_rollouts_ends_bitwise_equal(
    small_config, tmp_path: Path, start, toy_task, lora_rank: int
):
    config = config_of(small_config, lora_rank)
    whole = run(config, tmp_path / "whole")
    run_until(config, tmp_path / "stopped", last=3)
    assert run(config, tmp_path / "stopped", resume=True) == whole
    records = RunFolder(tmp_path / "whole").metrics()
    resumed = RunFolder(tmp_path / "stopped").metrics()
    for name in ("reward", "KL", "policy", "grad_norm", "reply tokens"):
        assert [record[name] for record in resumed] == [record[name] for record in records]
    # the KL to the start is 0 at the first step and positive later, also after a resume
    assert records[0]["KL"] == 0 and all(record["KL"] > 0 for record in records[1:])
    assert records[0]["grad_norm"] > 0 and all(record["clipped"] == 0 for record in records)


def test_replies_depend_on_seed_step_and_index(small_model, tmp_path: Path):
    stage: Any = make_stage(config_of(small_model.config))
    problems = [stage.worlds.sample_problem(numpy_rng(0, "test"), 0) for _ in range(2)]

    def texts(seed: int, step: int) -> list[str]:
        return small_model.backbone.decode(roll_out(small_model.backbone, problems, EASY, seed, step).replies.tokens)

    assert texts(0, 1) == texts(0, 1) and len(set(texts(0, 1))) == 6
    assert texts(0, 1) != texts(0, 2) and texts(0, 1) != texts(1, 1)


def test_unfinished_replies_have_reward_zero(start, toy_task):
    stage: Any = make_stage(config_of(start.config))
    problems = [stage.worlds.sample_problem(numpy_rng(0, "test"), 0) for _ in range(5)]
    found = roll_out(start.backbone, problems, EASY, 0, 0)
    ended = found.replies.ended.view(5, 3)
    assert (found.rewards[~ended] == 0).all() and (found.rewards[ended] > 0).any()
    assert found.metrics["unfinished"] == pytest.approx(1 - ended.float().mean().item())
    assert found.metrics["reward"] == pytest.approx(found.rewards.mean().item())
    assert found.metrics["reply tokens"] == pytest.approx(found.replies.mask.sum().item() / 15)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_reward_rises_on_a_learnable_task(small_config, tmp_path: Path, start, toy_task, lora_rank: int):
    config = config_of(
        small_config,
        lora_rank,
        steps=24,
        batch_size=4,
        optim=OptimConfig(lr=1e-2, muon_lr=1e-2, warmup_steps=1, decay_fraction=0.0),
    )
    run(config, tmp_path / "run")
    rewards = [record["reward"] for record in RunFolder(tmp_path / "run").metrics()]
    assert np.mean(rewards[-6:]) > np.mean(rewards[:6]) + 0.15


def test_problems_come_from_a_manifest_too(small_model, tmp_path: Path):
    Image.fromarray(np.full((9, 9, 3), 80, np.uint8)).save(tmp_path / "dog.png")
    entry = {"image": "dog.png", "question": "How many legs have two dogs?", "answer": "8", "key_steps": [["4 legs"]]}
    (tmp_path / "own.jsonl").write_text(json.dumps(entry))
    config = config_of(
        small_model.config,
        stage=StepGrpoConfig(sources=((str(tmp_path / "own.jsonl"), 1.0), ("shapes", 1.0)), grpo=EASY),
    )
    stage: Any = make_stage(config)
    questions = {stage.worlds.sample_problem(numpy_rng(0, "test", step), 0)[1].question for step in range(20)}
    assert entry["question"] in questions and len(questions) > 2
    (tmp_path / "own.jsonl").write_text(json.dumps({"image": "dog.png", "texts": ["a dog"]}))
    stage = make_stage(config)
    with pytest.raises(UserError, match="no training record with a question; add that to some lines"):
        for step in range(20):
            stage.worlds.sample_problem(numpy_rng(0, "test", step), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generations": 1}, "a group takes 2 or more"),
        ({"temperature": 0.0}, "above 0 only"),
        ({"max_tokens": 0}, "1 or more"),
    ],
)
def test_invalid_settings_are_errors(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        GrpoConfig(**change)


def test_the_reference_model_is_not_saved(small_config):
    stage: Any = make_stage(config_of(small_config))
    model: Any = new_model(small_config, 0)
    stage.setup(model)
    kept = dict(stage.reference.named_parameters())
    assert kept.keys() == dict(model.backbone.named_parameters()).keys()
    assert not any(p.requires_grad for p in kept.values())
    assert make_stage(config_of(small_config, stage=StepGrpoConfig(grpo=replace(EASY, beta=0.0)))).setup(model) is None
