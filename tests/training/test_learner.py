"""Interpolation of final weights with the initial ones (`blend`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.runs import run, run_until
from tests.training.test_loop import run_config

from latentbridge.config import RunConfig, SftConfig
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import new_model, save_model, unique_state


@pytest.fixture
def config(small_config, tmp_path: Path) -> RunConfig:
    """Return a run that starts from a saved model."""
    save_model(new_model(small_config, 5), tmp_path / "start" / "model")
    return run_config(small_config, "sft", steps=3, init=(("", "start"),), checkpoint_every=1)


def test_blend_interpolates_between_start_and_trained_weights(config: RunConfig, tmp_path: Path):
    start = unique_state(new_model(config.model, 5))
    run(config, tmp_path / "whole")
    run(replace(config, blend=0.25), tmp_path / "part")
    learned, blended = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "part"))
    moved = [name for name in start if not torch.equal(start[name], learned[name])]
    assert moved and all(torch.equal(blended[name], start[name]) for name in start.keys() - set(moved))
    for name in moved:
        assert torch.equal(blended[name], start[name].lerp(learned[name], 0.25)), name


def test_blend_is_the_same_after_a_resume(config: RunConfig, tmp_path: Path):
    blended = replace(config, blend=0.25)
    whole = run(blended, tmp_path / "whole")
    run_until(blended, tmp_path / "cut", 2)
    assert run(blended, tmp_path / "cut", resume=True) == whole


@pytest.mark.parametrize(
    "changes", [{"blend": 0.0}, {"blend": 1.5}, {"blend": 0.5, "init": ()}, {"blend": 0.5, "stage": "lora"}]
)
def test_an_invalid_blend_is_an_error(config: RunConfig, changes: dict):
    if "stage" in changes:
        changes = {**changes, "stage": SftConfig(lora_rank=2)}
    with pytest.raises(UserError, match="^blend is "):
        replace(config, **changes)
