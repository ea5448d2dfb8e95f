"""A model written as its authors' release loads as the same model, bit for bit, under the names of the release."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from latentbridge.config import OMNIBRIDGE_8B, ModelConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.load_bagel import load_bagel
from latentbridge.models.backbones.harmon.load_harmon import load_harmon
from latentbridge.models.backbones.harmon.parity import fixture_sizes, write_release
from latentbridge.models.backbones.janus.load_janus import load_janus
from latentbridge.models.backbones.release_files import write_release as write_files
from latentbridge.models.checkpoint import TINY, load_model, new_model, outline
from latentbridge.models.exporting import Layout, release_files
from latentbridge.models.omnibridge.load_omnibridge import load_released

GOLDEN = Path(__file__).parents[1] / "golden"


def write(model: Any, folder: Path, layout: Layout, base: Path | None = None) -> None:
    write_files(release_files(model, layout), model.tokenizer, folder, base)


def names(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


def train_a_little(model: nn.Module) -> None:
    """Move every weight that a release stores."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(0.01 * (index % 7 + 1))


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_bagel_goes_back_to_its_authors_files(tmp_path: Path):
    base = GOLDEN / "bagel"
    model = load_bagel(base)
    train_a_little(model)
    write(model, tmp_path, "authors", base)
    assert same(load_bagel(tmp_path), model)
    for name in ("ema.safetensors", "ae.safetensors"):
        assert names(tmp_path / name) == names(base / name)
        stored, released = load_file(tmp_path / name), load_file(base / name)
        assert all(stored[each].shape == released[each].shape for each in stored)
    written, released = (json.loads((folder / "vit_config.json").read_text()) for folder in (tmp_path, base))
    assert released.items() <= written.items()
    written, released = (json.loads((folder / "llm_config.json").read_text()) for folder in (tmp_path, base))
    assert written["rope_theta"] == 1e6 and {"hidden_size", "vocab_size"} <= written.keys() & released.keys()
    with pytest.raises(UserError, match="not a model of transformers"):
        release_files(model, "transformers")


@pytest.mark.parametrize("layout", ["authors", "transformers"])
def test_janus_goes_to_both_layouts(tmp_path: Path, layout):
    base = GOLDEN / "janus"
    model = load_janus(base, vision_heads=4)
    train_a_little(model)
    write(model, tmp_path, layout, base if layout == "authors" else None)
    loaded = load_janus(tmp_path)
    assert same(loaded, model)
    assert loaded.image_processor.to_dict() == model.image_processor.to_dict()
    assert loaded.model.config.vision_config.num_attention_heads == 4
    if layout == "authors":
        assert names(tmp_path / "model.safetensors") == names(base / "model.safetensors")
        written, released = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, base))
        for part in ("aligner", "gen_aligner", "gen_head", "gen_vision"):
            assert written[f"{part}_config"] == released[f"{part}_config"]
        preprocessor = [json.loads((folder / "preprocessor_config.json").read_text()) for folder in (tmp_path, base)]
        assert preprocessor[0] == preprocessor[1]
    else:
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "janus"


@pytest.mark.parametrize("layout", ["authors", "transformers"])
def test_harmon_goes_to_both_layouts(tmp_path: Path, layout):
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    write_release(GOLDEN / "harmon", base)
    sizes = [fixture_sizes(GOLDEN / "harmon")]
    model = load_harmon(base, sizes)
    train_a_little(model)
    write(model, out, layout, base)
    assert same(load_harmon(out, sizes), model)
    released = names(GOLDEN / "harmon" / "harmon_tiny.safetensors")
    vae = set(json.loads((GOLDEN / "harmon" / "kl16_shapes.json").read_text())["shapes"])
    if layout == "authors":
        assert set(torch.load(out / "harmon.pth", weights_only=True)) == released
        assert set(torch.load(out / "kl16.ckpt", weights_only=True)["model"]) == vae
    else:
        expected = released - {"llm.lm_head.weight"} | {f"vae.{name}" for name in vae}
        assert names(out / "model.safetensors") == expected


@pytest.mark.parametrize("layout", ["authors", "transformers"])
def test_omnibridge_goes_to_old_and_new_names(tmp_path: Path, small_config: ModelConfig, layout):
    retrieval = replace(small_config.retrieval, num_heads=OMNIBRIDGE_8B.retrieval.num_heads)
    model = new_model(replace(small_config, retrieval=retrieval), 0).bfloat16()
    write(model, tmp_path, layout)
    loaded = load_released(tmp_path)
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() > theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {name.partition(".")[0] for name in theirs} == {"backbone", "projector", "aligner", "retrieval"}
    assert loaded.config.backbone.system_prompt == model.config.backbone.system_prompt
    stored = names(tmp_path / "model.safetensors")
    old = "model.layers.0.mlp.up_proj.weight" in stored
    assert old == (layout == "authors")
    assert json.loads((tmp_path / "config.json").read_text())["mm_added_mlp"] is True
    assert "decoder" in release_files(model, layout).left_out


def test_every_tensor_of_omnibridge_has_its_released_name():
    released = json.loads((GOLDEN / "omnibridge" / "full_state_dict_shapes.json").read_text())
    model = outline(OMNIBRIDGE_8B)
    written = release_files(model, "authors").weights["model.safetensors"]
    assert {name: list(tensor.shape) for name, tensor in written.items()} == released and len(released) == 1046


def test_a_bridge_that_no_release_can_hold_is_refused(small_config: ModelConfig):
    with pytest.raises(UserError, match="whose retrieval.num_heads is 2 where every release has 16"):
        release_files(new_model(small_config, 0), "authors")
    with pytest.raises(UserError, match="whose aligner.cross_bias is True where every release has False"):
        release_files(load_model(TINY), "authors")


def test_files_of_the_base_come_along_but_its_weights_do_not(tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(GOLDEN / "bagel", base)
    (base / "generation_config.json").write_text('{"do_sample": false}')
    (base / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    (base / "notes.bin").write_bytes(b"weights")
    model = load_bagel(base)
    write(model, tmp_path / "out", "authors", base)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert "generation_config.json" in written
    assert not written & {"model.safetensors.index.json", "notes.bin", "expected.safetensors", "README.md"}
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_models_of_no_release_are_refused(small_harmon, small_bagel):
    with pytest.raises(UserError, match="predicts no variances or has an autoencoder of its own"):
        release_files(small_harmon, "authors")
    patched = copy.deepcopy(small_bagel)
    patched.autoencoder = nn.Identity()
    with pytest.raises(UserError, match="autoencoder of its own"):
        release_files(patched, "authors")
