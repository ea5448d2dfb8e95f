"""A folder is loaded as the backbone it holds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.model import Bagel
from latentbridge.models.backbones.harmon.model import Harmon
from latentbridge.models.backbones.janus.model import JanusPro
from latentbridge.models.backbones.loading import as_backbone, load_backbone
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.checkpoint import save_model
from latentbridge.models.unified import Model


@torch.no_grad()
def test_our_model_and_run_folders_are_omnibridges(small_model: Model, tmp_path: Path):
    save_model(small_model, tmp_path / "run" / "model")
    expected = OmniBridge(small_model).und_latent(["a red circle"])
    for source in (tmp_path / "run" / "model", str(tmp_path / "run")):
        assert torch.equal(load_backbone(source).und_latent(["a red circle"]), expected)


@torch.no_grad()
def test_a_folder_that_says_janus_is_one(small_janus: JanusPro, tmp_path: Path):
    for part in (small_janus.model, small_janus.tokenizer, small_janus.image_processor):
        part.save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path)
    assert isinstance(loaded, JanusPro)
    assert torch.equal(loaded.und_latent(["a star"]), small_janus.und_latent(["a star"]))


def test_a_folder_of_nothing_is_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(UserError, match="holds no model"):
        load_backbone(tmp_path)


def test_what_a_run_asks_of_round_trips_reaches_the_backbones_that_have_it(small_harmon: Harmon, small_bagel: Bagel):
    assert not small_harmon.through_pixels
    backbones: list[Any] = [
        as_backbone(copy.deepcopy(each), 3, through_pixels=True) for each in (small_harmon, small_bagel)
    ]
    assert backbones[0].through_pixels and backbones[1].roundtrip_steps == 3
