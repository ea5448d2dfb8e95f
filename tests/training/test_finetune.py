from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.data.manifests import write_manifest

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.recipes import recipe
from latentbridge.rng import torch_rng
from latentbridge.training.stages.finetune import Finetune


def stage_for(model: OmniBridge, manifest: Path) -> Finetune:
    config = recipe("finetune")
    stage = replace(config.stage, sources=((str(manifest), 1.0), ("shapes", 1.0)))
    made = Finetune(replace(config, stage=stage, model=model.config, batch_size=8))
    made.setup(model)
    return made


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "questions", 0, a={"question": "Who?", "answer": "me"})


def test_questions_train_the_backbone_only_with_all_pairs_rehearsed(small_model: OmniBridge, questions: Path):
    stage = stage_for(small_model, questions)
    moving = {name.split(".")[0] for name, _ in small_model.named_parameters() if stage.trainable(f"model.{name}")}
    assert moving == {"backbone"}
    batch = stage.batch(small_model, 0)
    assert (len(batch.pairs), batch.own_count) == (2, 0)
    parts = stage.loss(small_model, batch, torch_rng(0, "test"), None).parts
    assert set(parts) == {"understanding", "drift"} and parts["drift"] == 0


def test_drift_measures_the_distance_from_the_start(small_model: OmniBridge, questions: Path):
    model = deepcopy(small_model)
    stage = stage_for(model, questions)
    batch = stage.batch(model, 0)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch_rng(0, "moved")))
    found = stage.loss(model, batch, torch_rng(0, "test"), None)
    assert found.parts["drift"] > 0.01
    found.loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(parameter.grad is None for parameter in stage.start.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.backbone.parameters())


def test_texts_train_generation_and_retrieval_too(small_model: OmniBridge, tmp_path: Path):
    stage = stage_for(small_model, write_manifest(tmp_path, 3))
    moving = {name.split(".")[0] for name, _ in small_model.named_parameters() if stage.trainable(f"model.{name}")}
    assert moving == {"backbone", "projector", "aligner", "decoder", "retrieval"}
    batches = [stage.batch(small_model, step) for step in range(4)]
    assert {batch.own_count for batch in batches} > {1}
    for batch in batches:
        own = [pair.caption.startswith("text ") for pair in batch.pairs]
        assert own == [index < batch.own_count for index in range(2)]
        parts = stage.loss(small_model, batch, torch_rng(0, "test"), None).parts
        assert ({"generation", "retrieval"} <= set(parts)) == (batch.own_count > 0)
        assert ("drift" in parts) == (batch.own_count < 2)
