"""A folder is loaded as the backbone it holds."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latentbridge.config import BackboneConfig, ModelConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.models.backbones.loading import prepare_for_training, starting_network
from latentbridge.models.checkpoint import ASSETS, load, new_model, save_model, save_tokenizer
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.tokenization import load_tokenizer

SMALL_QWEN = ModelConfig(
    parts=("backbone",),
    backbone=BackboneConfig(
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=48,
        vision_width=32,
        vision_layers=1,
        vision_heads=2,
    ),
)


@torch.no_grad()
def test_our_model_and_run_folders_are_omnibridges(small_model: OmniBridge, tmp_path: Path):
    save_model(small_model, tmp_path / "run" / "model")
    expected = small_model.und_latent(["a red circle"])
    for source in (tmp_path / "run" / "model", str(tmp_path / "run")):
        assert torch.equal(load(source).und_latent(["a red circle"]), expected)


@torch.no_grad()
def test_a_folder_that_says_janus_is_one(small_janus: JanusPro, tmp_path: Path):
    for part in (small_janus.model, small_janus.tokenizer, small_janus.image_processor):
        part.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, JanusPro)
    assert torch.equal(loaded.und_latent(["a star"]), small_janus.und_latent(["a star"]))


def test_a_folder_of_nothing_is_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(UserError, match="holds no model"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vit_config.json", "{}", "looks like BAGEL but lacks llm_config.json, ema.safetensors"),
        ("config.json", '{"model_type": "llama"}', "a model of the type 'llama', which is not one"),
        ("adapter_config.json", "{}", "is a LoRA adapter"),
    ],
)
def test_a_folder_of_no_model_is_told_what_it_looks_like(tmp_path: Path, file: str, content: str, message: str):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_what_a_run_asks_of_round_trips_reaches_the_backbones_that_have_it(small_harmon: Harmon, small_bagel: Bagel):
    assert not small_harmon.through_pixels
    backbones: list[Any] = [
        prepare_for_training(copy.deepcopy(each), 3, through_pixels=True) for each in (small_harmon, small_bagel)
    ]
    assert backbones[0].through_pixels and backbones[1].roundtrip_steps == 3


# --- what a run starts from ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen2-VL as transformers saves it."""
    folder = tmp_path_factory.mktemp("qwen")
    model = new_model(SMALL_QWEN, seed=3)
    model.backbone.model.save_pretrained(folder)
    model.backbone.tokenizer.save_pretrained(folder)
    return folder


def test_a_run_starts_from_a_whole_release_in_float32(qwen_folder: Path) -> None:
    started, plain = starting_network(SMALL_QWEN, 0, [("", qwen_folder)]), new_model(SMALL_QWEN, 3)
    assert started.config == SMALL_QWEN
    ours, theirs = plain.state_dict(), started.state_dict()
    assert ours.keys() == theirs.keys() and all(tensor.dtype == torch.float32 for tensor in theirs.values())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_release_of_other_sizes_is_refused(qwen_folder: Path) -> None:
    wider = replace(SMALL_QWEN, backbone=replace(SMALL_QWEN.backbone, intermediate_size=64))
    with pytest.raises(UserError, match="does not fit"):
        starting_network(wider, 0, [("", qwen_folder)])


@pytest.mark.parametrize("part", ["", "backbone."])
def test_a_backbone_of_a_fixed_vocabulary_brings_its_words(part: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    tokenizer.add_tokens(["unheard-of"])
    config = replace(SMALL_QWEN, backbone=replace(SMALL_QWEN.backbone, vocab_size=len(tokenizer)))
    saved = new_model(config, 1)
    save_model(saved, tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    started = starting_network(config, 0, [(part, tmp_path)])
    assert started.tokenizer.encode("unheard-of") == [len(tokenizer) - 1]
    assert torch.equal(started.backbone.model.lm_head.weight, saved.backbone.model.lm_head.weight)
