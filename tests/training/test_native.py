"""Pretraining, post-training and resuming of Janus-Pro, BAGEL and Harmon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.runs import run, run_until, stage_with

from latentbridge.config import (
    DataStageConfig,
    MarConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TaskMix,
    TinyBagelConfig,
    TinyHarmonConfig,
    TinyJanusConfig,
)
from latentbridge.errors import UserError
from latentbridge.models.backbones.janus.codes import (
    codebook,
    codes_loss,
    init_codes,
    nearest_codes,
    square_latents,
    squares_loss,
)
from latentbridge.models.backbones.loading import UNIFIED
from latentbridge.models.checkpoint import load, load_model, new_model, unique_state
from latentbridge.recipes import RECIPES, recipe
from latentbridge.rng import torch_rng
from latentbridge.training.stages import STAGES, make_stage

LOOK = TaskMix(vqa=1.0, cot=0.0, generation=0.0, editing=0.0)
CONFIGS: dict[str, Any] = {
    "janus": TinyJanusConfig(width=32, num_layers=1, num_heads=2, image_size_px=16, patch_size_px=4, codebook_size=61),
    "bagel": TinyBagelConfig(width=32, num_layers=1, num_heads=2, num_kv_heads=1, image_size_px=16),
    "harmon": TinyHarmonConfig(
        width=32,
        num_layers=1,
        num_heads=2,
        mar=MarConfig(width=28, num_layers=1, num_heads=2, grid=3, channels=5, num_buffers=3, head_width=31),
        patch_size_px=4,
    ),
}
FROZEN = {"janus": "model.model.vqmodel.", "bagel": "autoencoder.", "harmon": "autoencoder."}
kinds = pytest.mark.parametrize("kind", CONFIGS)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("latentbridge.training.stages.posttrain._HELD_OUT_PAIRS", 3)
    monkeypatch.setattr("latentbridge.training.fits.autoencoder._FIT_PICTURES", 30)
    monkeypatch.setattr("latentbridge.training.stages.pretrain_codes._INIT_PICTURES", 30)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run_config(kind: str, stage: Any, **changes: Any) -> RunConfig:
    settings = {"rollouts": 2, "roundtrip_steps": 2, "guard_warmup_steps": 1000}
    run = RunConfig(
        name=stage,
        stage=stage_with(stage, items=8, tasks=LOOK, **settings),
        steps=3,
        batch_size=2,
        model=CONFIGS[kind],
        optim=OptimConfig(warmup_steps=1),
        bf16=False,
        log_every=1,
        checkpoint_every=2,
        threads=1,
    )
    return replace(run, **changes)


@kinds
@pytest.mark.parametrize("stage", ["posttrain_sft", "latentumm", "pretrain_unified"])
def test_an_interrupted_run_ends_bitwise_equal_and_the_image_codec_is_frozen(tmp_path: Path, kind: str, stage: str):
    config = run_config(kind, stage)
    whole = run(config, tmp_path / "whole")
    run_until(config, tmp_path / "stopped", last=2)
    same = run(config, tmp_path / "stopped", resume=True) == whole
    assert same
    before, after = unique_state(new_model(config.model, 0)), unique_state(load_model(tmp_path / "whole"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in moved if name.startswith(FROZEN[kind])}
    fitted = stage == "pretrain_unified" and kind != "janus"
    assert frozen == ({f"autoencoder.{name}" for name in ("mean", "basis", "scale")} if fitted else set())
    free = [name for name in before if not name.startswith(FROZEN[kind])]
    assert len(moved) > 0.8 * len(free)
    assert load(tmp_path / "whole").generate("a star").picture.ndim == 3


@pytest.mark.parametrize("stage", ["pretrain_squares", "pretrain_codes"])
def test_only_codes_are_trained_and_an_interrupted_run_ends_bitwise_equal(tmp_path: Path, stage: str):
    config = run_config("janus", stage)
    whole = run(config, tmp_path / "codes")
    run_until(config, tmp_path / "stopped", last=2)
    same = run(config, tmp_path / "stopped", resume=True) == whole
    assert same
    before, codes = unique_state(new_model(config.model, 0)), unique_state(load_model(tmp_path / "codes"))
    assert {n.startswith(FROZEN["janus"]) for n in before if not torch.equal(before[n], codes[n])} == {True}
    after = run_config("janus", "pretrain_unified", init=((FROZEN["janus"], "codes"),))
    run(after, tmp_path / "unified")
    unified = unique_state(load_model(tmp_path / "unified"))
    assert all(torch.equal(unified[n], codes[n]) for n in codes if n.startswith(FROZEN["janus"]))


@kinds
def test_an_inherited_autoencoder_is_not_fitted_again(kind: str):
    for init, kept in (((), kind == "janus"), ((("autoencoder.", "x"),), True), ((("", "x"),), True)):
        model, fresh = new_model(CONFIGS[kind], 0), unique_state(new_model(CONFIGS[kind], 0))
        make_stage(run_config(kind, "pretrain_unified", init=init)).prepare(model)
        state = unique_state(model)
        assert all(torch.equal(state[name], fresh[name]) for name in state) == kept


@kinds
def test_pretraining_in_bfloat16(tmp_path: Path, kind: str):
    assert run(run_config(kind, "pretrain_unified", bf16=True, steps=1), tmp_path / "run")


def test_a_stage_for_another_kind_of_model_is_an_error():
    with pytest.raises(UserError, match="sft trains omnibridge, and the model of sft is a harmon"):
        make_stage(run_config("harmon", "sft"))
    with pytest.raises(UserError, match="pretrain_codes trains janus, and the model of pretrain_codes is a omnibridge"):
        make_stage(run_config("janus", "pretrain_codes", model=ModelConfig()))
    everyone: Any = [stage for stage in STAGES.values() if set(UNIFIED) <= set(stage.trains)]  # pyright: ignore
    assert len(everyone) == 5, "all methods of post-training"


# --- codes ----------------------------------------------------------------------------------------


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(7, 3, 16, 16, generator=torch_rng(0, "pixels")) * 2 - 1


def vq_model() -> Any:
    model: Any = new_model(CONFIGS["janus"], 0)
    return model.model.model.vqmodel


def test_codes_are_initialized_from_images(pixels: torch.Tensor):
    vq = vq_model()
    random_used = codes_loss(vq, pixels).used.item()
    init_codes(vq, pixels, torch_rng(0, "codes"))
    found = codes_loss(vq, pixels)
    assert found.used.item() > max(0.9, random_used), "7 * 16 different squares for 61 codes"
    latents = square_latents(vq, pixels)
    nearest = codebook(vq)[nearest_codes(latents, codebook(vq))]
    assert (latents * nearest).sum(-1).mean() > 0.9
    plain = torch.ones(2, 3, 16, 16)
    init_codes(vq, plain, torch_rng(0, "codes"))
    assert vq.quantize.embedding.weight.isfinite().all(), "fewer squares than codes"


def test_the_codes_loss_by_hand(pixels: torch.Tensor):
    vq = vq_model()
    found = codes_loss(vq, pixels)
    latents, book = square_latents(vq, pixels), codebook(vq)
    nearest = torch.cdist(latents, book[None].expand(7, -1, -1)).argmin(-1)  # of unit vectors the nearest by cosine
    distance = (latents - book[nearest]).square().mean()
    torch.testing.assert_close(found.quantisation, 1.25 * distance)
    drawn = vq.decode(nearest)
    torch.testing.assert_close(found.reconstruction, (drawn - pixels).square().mean(), atol=1e-5, rtol=1e-4)
    assert found.used.item() == pytest.approx(len(nearest.unique()) / 61)


def test_squares_loss_equals_the_codes_loss_with_a_code_per_square(pixels: torch.Tensor):
    vq = vq_model()
    two = pixels[:2]
    with torch.no_grad():
        vq.quantize.embedding.weight[:32] = square_latents(vq, two).flatten(0, 1)
        torch.testing.assert_close(squares_loss(vq, two), codes_loss(vq, two).reconstruction)
        assert squares_loss(vq, pixels) != codes_loss(vq, pixels).reconstruction


def test_gradients_use_the_straight_through_estimator(pixels: torch.Tensor):
    vq = vq_model()
    codes_loss(vq, pixels).reconstruction.backward()
    assert vq.encoder.conv_in.weight.grad.abs().max() > 0
    assert vq.quantize.embedding.weight.grad is None, "pictures move the encoder; only the distance moves codes"
    vq.zero_grad()
    codes_loss(vq, pixels).quantisation.backward()
    assert vq.quantize.embedding.weight.grad.abs().max() > 0 and vq.decoder.conv_out.weight.grad is None


# --- recipes --------------------------------------------------------------------------------------


def test_recipes_of_other_backbones_init_from_their_pretraining():
    for kind in CONFIGS:
        base = recipe(f"pretrain-{kind}")
        for method in ("post-sft", "post-latentumm"):
            config, ours = recipe(f"{kind}-{method}"), recipe(method)
            assert config.init == (("", base.name),) and config.model == base.model
            assert (config.stage.kind, config.steps, config.optim) == (ours.stage.kind, ours.steps, ours.optim)
            assert config.stage.own_sources == [] and config.stage.drawings_share == 0
            assert getattr(config.stage, "teacher", "none") == "none"
    for config in RECIPES.values():
        if isinstance(config.stage, DataStageConfig):
            config = replace(config, stage=replace(config.stage, sources=(("shapes", 1.0),)))
        make_stage(config)


@kinds
def test_images_have_the_size_of_the_recipe(kind: str):
    model: Any = new_model(recipe(f"pretrain-{kind}").model, 0)
    model.drawing_options = replace(model.drawing_options, steps=2)
    assert np.shape(model.generate("a star").picture) == (32, 32, 3) and model.drawing_size_px == 32
