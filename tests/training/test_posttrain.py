from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.runs import stage_with
from torch import nn

from latentbridge import prompts
from latentbridge.config import (
    LatentUMMWeights,
    ModelConfig,
    OptimConfig,
    PostTrainSftConfig,
    RunConfig,
)
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import save_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.teachers import TEACHERS
from latentbridge.models.trainable import TrainableModel
from latentbridge.recipes import POST_SFT, RECIPES
from latentbridge.rng import torch_rng
from latentbridge.run_folder import RunFolder
from latentbridge.training.gradient_norms import gradient_norm_shares
from latentbridge.training.loop import train
from latentbridge.training.stage import Objective
from latentbridge.training.stages import make_stage
from latentbridge.training.stages.native import PairBatch, Terms
from latentbridge.types import EmbeddingSpace, LossOutputs, Picture, Teacher

METHODS = ("posttrain_sft", "reca", "unigame", "unicot", "latentumm")
SIZE = 3


class Grey(Teacher):
    """A teacher with embeddings of an image's brightness and a text's length; knows texts about several things only."""

    space = EmbeddingSpace("grey", 3, "none")

    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        return np.stack([np.array([1.0, picture.mean() / 255, 0.0]) for picture in pictures]).astype(np.float32)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([np.array([0.0, len(text) / 100, 1.0]) for text in texts]).astype(np.float32)

    def knows(self, text: str) -> bool:
        return text.count(",") > 1  # more than one thing


@pytest.fixture(autouse=True)
def temporary_cache_and_grey_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("latentbridge.training.stages.posttrain._HELD_OUT_PAIRS", 5)  # 32 take most of a run's time
    monkeypatch.setitem(TEACHERS, "grey", lambda source: Grey())


def run_config(kind: Any, model: ModelConfig | None = None, **settings: Any) -> RunConfig:
    settings = {"items": 7, "roundtrip_steps": 1, "rollouts": 2, **settings}
    return RunConfig(
        name=kind,
        stage=stage_with(kind, **settings),
        steps=6,
        batch_size=SIZE,
        model=model or ModelConfig(),
        optim=OptimConfig(lr=1e-9, muon_lr=1e-9, weight_decay=0.0, warmup_steps=1),
        bf16=False,
        log_every=1,
        checkpoint_every=2,
        threads=1,
    )


def some_batch(kind: str = "posttrain_sft", step: int = 0, seed: int = 0) -> PairBatch:
    stage: Any = make_stage(replace(run_config(kind), seed=seed))
    return stage.batch(None, step)


def objective(model: OmniBridge, kind: str, **settings: Any) -> Objective:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, stage = copy.deepcopy(model), make_stage(run_config(kind, model.config, **settings))
        stage.setup(model)
        return Objective(model, stage)


def outputs(built: Objective, rng_seed: int = 0) -> LossOutputs:
    return built(built.stage.batch(built.model, 0), torch_rng(rng_seed, "loss"))


def moved(module: nn.Module, value: Any) -> set[str]:
    """Return the parts with a gradient: the first two components of their parameters' names."""
    module.zero_grad()
    value.backward()
    names = [name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())]
    return {".".join(name.split(".")[:2]) for name in names}


# --- data ------------------------------------------------------------------------


def content(batch: PairBatch) -> tuple:
    pictures = [picture.tobytes() for picture in batch.pictures]
    return pictures, batch.prompts, batch.seeds, batch.ids.tolist()


def test_methods_with_one_seed_get_the_same_data():
    first = some_batch()
    assert len(first.conversations) == len(first.pictures) == SIZE
    for kind in METHODS:
        assert content(some_batch(kind)) == content(first)
        same = [a.turns for a in some_batch(kind).conversations] == [b.turns for b in first.conversations]
        assert same == (kind != "unicot")
    assert content(some_batch(step=1)) != content(first) and content(some_batch(seed=1)) != content(first)


def test_half_of_unicots_conversations_reason_before_drawing():
    talks = [talk for step in range(20) for talk in some_batch("unicot", step).conversations]
    planned = [talk for talk in talks if "### Step 1" in talk.turns[0][1] and prompts.IMG_START in talk.turns[0][1]]
    assert 0.3 < len(planned) / len(talks) < 0.7
    assert all(prompts.REASONING_REQUEST in talk.turns[0][0] for talk in planned)


def test_recipes_differ_in_the_method_only():
    posts = [config for name, config in RECIPES.items() if name.startswith("post-")]
    assert len(posts) == 6
    for config in posts:
        shared = {field.name: getattr(config.stage, field.name) for field in fields(POST_SFT.stage)}
        stage = PostTrainSftConfig(**shared | {"kind": "posttrain_sft"})
        assert replace(config, name=POST_SFT.name, stage=stage) == POST_SFT


# --- losses ----------------------------------------------------------------------------


def test_native_losses_are_those_of_the_backbone(small_model: OmniBridge):
    built = objective(small_model, "posttrain_sft", understanding_weight=0.5, generation_weight=3.0)
    stage: Any = built.stage
    found, batch = outputs(built), stage.batch(built.model, 0)
    understanding = stage.backbone.understanding_loss(batch.conversations).item()
    generation = stage.backbone.generation_loss(batch.prompts, batch.pictures, torch_rng(0, "loss")).item()
    assert found.parts == pytest.approx({"understanding": understanding, "generation": generation})
    loss: Any = found.loss
    assert loss.item() == pytest.approx(0.5 * understanding + 3 * generation)


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_keeps_the_native_losses(small_model: OmniBridge, kind: str):
    found = outputs(objective(small_model, kind))
    assert list(found.terms)[:2] == ["understanding", "generation"]
    loss: Any = found.loss
    assert loss.item() == pytest.approx(sum(term.item() for term in found.terms.values()), rel=1e-5)  # pyright: ignore
    assert {name for name in found.terms if name not in found.parts} == set()


REACHED = {
    "reca": {"reconstruction": {"projector", "aligner", "decoder"}},
    "unigame": {"self_play": {"backbone", "projector", "aligner", "decoder"}},
    "latentumm": {
        "modal": {"backbone"},
        "task": {"backbone", "projector", "aligner", "decoder"},
        "preference": {"backbone", "projector", "aligner", "decoder"},
        "contrast": {"backbone"},
        "cycle": {"backbone", "projector", "aligner", "decoder"},
        "anchor": {"backbone", "heads"},
    },
}


@pytest.mark.parametrize("kind", REACHED)
def test_terms_have_gradients_in_the_expected_parts(small_model: OmniBridge, kind: str):
    for term, parts in REACHED[kind].items():
        built = objective(small_model, kind, teacher="grey", weights=LatentUMMWeights(preference=1.0))
        found = {name.removeprefix("model.").split(".")[0] for name in moved(built, outputs(built).terms[term])}
        assert found == parts, term
    frozen = [name for name, _ in built.named_parameters() if not built.stage.trainable(name)]
    assert {name.split(".")[1] for name in frozen} == {"text_encoder", "retrieval"}


@pytest.mark.parametrize("kind", METHODS)
def test_terms_work_with_any_unified_backbone(small_janus: TrainableModel, kind: str):
    stage: Any = make_stage(run_config(kind, rollouts=2))
    found: Terms = stage.terms(small_janus, some_batch(kind), torch_rng(0, "loss"), None)
    assert all(bool(term.isfinite()) for term in found.weighted.values())
    assert bool(found.weighted) == (kind in REACHED)


def test_reconstruction_depends_on_images_and_not_on_descriptions(small_model: OmniBridge):
    built = objective(small_model, "reca")
    stage: Any = built.stage
    batch = stage.batch(built.model, 0)

    def value(changed: PairBatch) -> float:
        return stage.terms(stage.backbone, changed, torch_rng(0, "loss"), None).parts["reconstruction"]

    assert value(replace(batch, prompts=["a"] * SIZE)) == value(batch)
    assert value(replace(batch, pictures=batch.pictures[::-1])) != value(batch)


def test_anchors_are_the_pairs_the_teacher_knows(small_model: OmniBridge):
    built = objective(small_model, "latentumm", teacher="grey")
    stage: Any = built.stage
    batch = stage.batch(built.model, 0)
    known = torch.tensor([Grey().knows(prompt) for prompt in batch.prompts])
    assert 0 < known.sum() < SIZE
    predicted = torch.eye(3)
    ((text, text_target), (image, image_target)), share = stage._targets(batch, predicted, 2 * predicted)
    assert share == 1
    assert torch.equal(text, predicted[known]) and torch.equal(image, 2 * predicted[known])
    all_targets = stage.anchors.lookup([stage.item(index) for index in range(7)])
    expected = torch.nn.functional.normalize(
        torch.from_numpy(Grey().embed_texts([p for p in batch.prompts if Grey().knows(p)])) - all_targets.text.mean(0),
        dim=-1,
    )
    torch.testing.assert_close(text_target, expected)
    assert image_target.shape == text_target.shape and not torch.allclose(image_target, text_target)
    released: Any = objective(small_model, "latentumm", teacher="grey", objective="reference").stage
    ((_, raw), _), _ = released._targets(batch, predicted, predicted)
    assert raw[:, 2].tolist() == [1.0] * int(known.sum())  # as the teacher gave them


def test_the_released_preference_has_no_gradient_share(small_model: OmniBridge):
    def share(**settings: Any) -> float:
        built = objective(small_model, "latentumm", teacher="grey", **settings)
        found: Any = outputs(built).terms
        return gradient_norm_shares(found, [p for n, p in built.named_parameters() if built.stage.trainable(n)])[
            "preference"
        ]

    released = RECIPES["post-latentumm-reference"].stage.weights
    assert share(objective="reference", weights=released) < 1e-5  # W3
    assert share(weights=LatentUMMWeights(preference=1.0)) > 1e-3


def test_bfloat16_is_an_error():
    with pytest.raises(UserError, match="set bf16=false"):
        make_stage(replace(run_config("latentumm"), bf16=True))


# --- runs -----------------------------------------------------------------------------------------


def test_a_collapsed_run_stops_and_keeps_its_checkpoint(small_model: OmniBridge, tmp_path: Path):
    flat = copy.deepcopy(small_model)
    nn.init.zeros_(flat.backbone.model.model.language_model.norm.weight)  # all states, hence all latents, are equal
    save_model(flat, tmp_path / "flat")
    config = replace(
        run_config("latentumm", small_model.config, guard_warmup_steps=3),
        init=(("", str(tmp_path / "flat")),),
        optim=OptimConfig(lr=0.0, muon_lr=0.0),
    )
    with pytest.raises(UserError, match="The latents collapsed by step 4: "):
        train(config, make_stage(config), tmp_path / "run", progress=False)
    run = RunFolder(tmp_path / "run")
    assert run.newest_checkpoint() == run.checkpoint(2) and not run.model.exists()
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]


def test_a_healthy_run_logs_measures_and_shares(small_model: OmniBridge, tmp_path: Path):
    save_model(small_model, tmp_path / "small")
    config = replace(
        run_config("latentumm", small_model.config, teacher="grey", guard_warmup_steps=0),
        init=(("", str(tmp_path / "small")),),
        steps=3,
        log_every=2,
    )
    train(config, make_stage(config), tmp_path / "run", progress=False)
    records = RunFolder(tmp_path / "run").metrics()
    assert [record["step"] for record in records] == [2, 3]
    stage: Any = objective(small_model, "latentumm").stage
    expected = stage.check(small_model, step=3)  # three steps at that rate change nothing
    for record in records:
        shares = {name: value for name, value in record.items() if name.endswith(" share")}
        assert sum(shares.values()) == pytest.approx(1) and shares["anchor share"] > 0
        assert {name: record[name] for name in expected} == pytest.approx(expected, abs=1e-3)
