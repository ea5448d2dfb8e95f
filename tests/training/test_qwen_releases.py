"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as backbones of SFT and of stage 2, from the recipes' config of Qwen2-VL-7B."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.qwen_vl.tiny_releases import KINDS, save_release
from tests.training.runs import run

import latentbridge as lb
from latentbridge.config import (
    OMNIBRIDGE_8B,
    QWEN2_VL_7B,
    AlignConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SftConfig,
)
from latentbridge.models.backbones.loading import starting_network
from latentbridge.models.checkpoint import load_model, save_tokenizer
from latentbridge.models.tokenization import SPECIAL_TOKENS, load_tokenizer, token_id, train_tokenizer


@pytest.fixture(autouse=True)
def use_a_temporary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("latentbridge.training.fits.autoencoder._FIT_PICTURES", 64)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def config_of(name: str, stage: Any, model: ModelConfig, init: str, part: str) -> RunConfig:
    return RunConfig(
        name=name,
        stage=stage,
        steps=1,
        batch_size=3,
        model=model,
        init=((part, init),),
        optim=OptimConfig(warmup_steps=1),
        bf16=False,
        log_every=1,
        threads=1,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sft_and_stage_2_train_from_a_release(kind: str, small_config: ModelConfig, tmp_path: Path):
    release = save_release(kind, tmp_path / "release", repetition_penalty=1.1)
    sft = config_of("sft", SftConfig(), ModelConfig(parts=("backbone",), backbone=QWEN2_VL_7B), "release", "")
    run(sft, tmp_path / "sft")
    before, after = lb.load(release).float().state_dict(), load_model(tmp_path / "sft").state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model.layers." in name for name in moved)
    trained: Any = load_model(tmp_path / "sft")
    assert trained.backbone.model.config.model_type == kind
    assert trained.backbone.reply_options.repetition_penalty == 1.1

    second = replace(small_config, backbone=replace(QWEN2_VL_7B, image_size_px=0))
    align = config_of("align", AlignConfig(items=6), second, "sft", "backbone.")
    run(align, tmp_path / "align")
    aligned: Any = load_model(tmp_path / "align")
    assert aligned.skills == {"understand", "generate", "edit", "embed"}
    state = aligned.state_dict()
    assert all(torch.equal(state[name], after[name]) for name in after), "stage 2 leaves the backbone as it is"
    picture = np.zeros((33, 40, 3), np.uint8)
    assert aligned.embed(images=picture).shape == (aligned.embedding_size,)


def test_parts_come_from_a_release_as_well(small_config: ModelConfig, tmp_path: Path):
    release = save_release("qwen2_5_vl", tmp_path / "release")
    config = replace(small_config, backbone=QWEN2_VL_7B)
    network: Any = starting_network(config, 0, [("backbone.", release)])
    expected = lb.load(release).float().state_dict()
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert network.projector.weight.dtype == torch.float32 and OMNIBRIDGE_8B.backbone == QWEN2_VL_7B


def test_training_adds_the_markers_that_a_release_lacks(tmp_path: Path):
    release = save_release("qwen2_vl", tmp_path / "release")
    plain = train_tokenizer(["a red circle"] * 3, 300)
    plain = type(plain)(
        vocab={word: index for word, index in plain.get_vocab().items() if word not in SPECIAL_TOKENS},
        merges=[],
        extra_special_tokens=list(SPECIAL_TOKENS[1:-2]),
    )
    plain.chat_template = load_tokenizer(release).chat_template
    save_tokenizer(plain, release)
    count = len(load_tokenizer(release))
    network: Any = starting_network(ModelConfig(parts=("backbone",), backbone=QWEN2_VL_7B), 0, [("", release)])
    assert [token_id(network.tokenizer, name) for name in ("<img>", "</img>")] == [count, count + 1]
    assert [token_id(network.tokenizer, name) for name in SPECIAL_TOKENS[:-2]] == [
        token_id(plain, name) for name in SPECIAL_TOKENS[:-2]
    ]
