"""A model small enough for every test, with weights that make it talkative."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latentbridge.config import (
    AlignerConfig,
    BackboneConfig,
    DecoderConfig,
    MarConfig,
    ModelConfig,
    RetrievalConfig,
    TinyBagelConfig,
    TinyHarmonConfig,
    TinyJanusConfig,
)
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.rng import numpy_rng, torch_rng

if TYPE_CHECKING:
    import torch
    from torch import nn

    from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
    from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
    from latentbridge.models.backbones.janus.modeling_janus import JanusPro
    from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge


def pytest_configure(config: pytest.Config) -> None:
    """Tests hold bits against bits, which are the CPU's: only those that ask for an accelerator see the machine's."""
    if config.option.markexpr != "accelerator":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["MKL_CBWR"] = "AUTO,STRICT"  # as servers have it (latentbridge/cli/serving.py)


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """The shipped layout at a fortieth of its size."""
    return ModelConfig(
        backbone=BackboneConfig(
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            intermediate_size=48,
            vision_width=32,
            vision_layers=2,
            vision_heads=2,
        ),
        aligner=AlignerConfig(d_model=32, d_ff=48, d_kv=8, num_heads=2, num_layers=2, cross_layers=(0, 1)),
        retrieval=RetrievalConfig(num_image_queries=4, num_text_queries=4, embedding_size=16, num_heads=2),
        decoder=DecoderConfig(width=32, num_layers=2, num_heads=2),
    )


@pytest.fixture(scope="session")
def small_model(small_config: ModelConfig) -> OmniBridge:
    """A model with random weights, wide enough that replies vary, end, and reach the decoder; not to be changed."""
    import torch

    from latentbridge.models.checkpoint import new_model

    model, rng = new_model(small_config, seed=0), torch_rng(0, "small model")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name.startswith(("backbone.", "projector.", "aligner.")):
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * parameter[0].numel() ** -0.5)
        model.backbone.model.lm_head.weight[model.backbone.end_of_turn] *= 3
    return model


@pytest.fixture(scope="session")
def small_janus() -> JanusPro:
    """A Janus-Pro of 16 codes with random weights that keep the size of what passes; not to be changed."""
    from latentbridge.models.checkpoint import new_model

    sizes = TinyJanusConfig(width=32, num_layers=2, num_heads=2, image_size_px=32, codebook_size=61)
    model = new_model(sizes, seed=0)
    keep_sizes(model, torch_rng(0, "small janus"))
    model.reply_options = replace(model.reply_options, max_tokens=5)
    return model


@pytest.fixture(scope="session")
def small_harmon() -> Harmon:
    """A Harmon of 16 tokens with random weights that keep the size of what passes; not to be changed."""
    from latentbridge.models.checkpoint import new_model

    mar = MarConfig(
        width=28, num_layers=2, num_heads=2, grid=4, channels=5, num_buffers=3, head_width=31, head_layers=2
    )
    sizes = TinyHarmonConfig(width=32, num_layers=2, num_heads=2, mar=mar, autoencoder="kl", vae_channels=8)
    model = new_model(sizes, seed=0)
    keep_sizes(model, torch_rng(0, "small harmon"))
    model.drawing_options = replace(model.drawing_options, steps=3, denoising_steps=3)
    model.reply_options = replace(model.reply_options, max_tokens=5)
    return model


@pytest.fixture(scope="session")
def small_bagel() -> Bagel:
    """A BAGEL of 16 latent tokens with random weights that keep the size of what passes; not to be changed.

    As in the release, the eye's patches are smaller than the squares of latent tokens.
    """
    from latentbridge.models.checkpoint import new_model

    sizes = TinyBagelConfig(
        width=32, num_layers=2, num_heads=2, num_kv_heads=1, image_size_px=32, eye_patch_px=7, autoencoder="kl"
    )
    model = new_model(sizes, seed=0)
    keep_sizes(model, torch_rng(0, "small bagel"))
    model.roundtrip_steps, model.reply_options = 2, replace(model.reply_options, max_tokens=5)
    model.drawing_options = replace(model.drawing_options, steps=3)
    return model


def keep_sizes(model: nn.Module, rng: torch.Generator) -> None:
    """Random matrices that keep the size of what passes."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * parameter[0].numel() ** -0.5)


@pytest.fixture(scope="session")
def three_pictures() -> list[np.ndarray]:
    """Three different scenes, uint8 [64, 64, 3] each."""
    return [render(scene) for scene in distinct_scenes("train", numpy_rng(0, "three pictures"), 3)]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs one command in this process; returns its exit code, output and errors."""
    from latentbridge.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return int(str(end.value.code or 0)), *capsys.readouterr()

    return run
