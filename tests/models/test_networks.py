"""Whatever a config builds is saved, found again and loaded as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentbridge.config import MarConfig, TinyBagelConfig, TinyHarmonConfig, from_dict, to_dict
from latentbridge.errors import UserError
from latentbridge.files import read_json, write_json
from latentbridge.models.checkpoint import Network, as_omnibridge, load, load_model, new_model, save_model, unique_state

ATTRIBUTES_NOT_SAVED = ("reply_options", "drawing_options", "edit_options")
"""How long answers and drawings take is said anew by whoever loads a model."""

networks = pytest.mark.parametrize("name", ["omnibridge", "janus", "bagel", "harmon"])
"""The others are of released sizes."""


def network(request: pytest.FixtureRequest, name: str) -> Any:
    return request.getfixturevalue("small_model" if name == "omnibridge" else f"small_{name}")


def save_in_a_run(model: Network, run: Path) -> Path:
    """The folder of the model."""
    save_model(model, run / "model")
    write_json(run / "config.json", {"name": "a run"})
    return run / "model"


@networks
def test_what_was_saved_answers_and_draws_as_before(request, tmp_path: Path, three_pictures, name: str):
    saved = network(request, name)
    folder = save_in_a_run(saved, tmp_path / "run")
    again: Any = load_model(tmp_path / "run")
    assert again.config == saved.config and not again.training
    state, expected = unique_state(again), unique_state(saved)
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    save_model(again, tmp_path / "twice")
    for file in folder.iterdir():
        same = (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes()
        assert same, file.name
    for attribute in ATTRIBUTES_NOT_SAVED:
        if hasattr(saved, attribute):
            setattr(again, attribute, getattr(saved, attribute))
    first, second = saved, again
    words = ["a large red circle", "two stars"]
    assert np.array_equal(first.draw_descriptions(words, [3, 5]), second.draw_descriptions(words, [3, 5]))
    assert first.understand(three_pictures, ["What?"] * 3) == second.understand(three_pictures, ["What?"] * 3)


@networks
@torch.no_grad()
def test_a_folder_of_ours_is_found_whatever_it_holds(request, tmp_path: Path, name: str):
    folder = save_in_a_run(network(request, name), tmp_path / "run")
    expected = network(request, name).und_latent(["a red circle"])
    for source in (folder, tmp_path / "run", str(tmp_path / "run")):
        found = load(source)
        assert found.kind == name
        assert torch.equal(found.und_latent(["a red circle"]), expected)


def test_what_takes_an_omnibridge_says_so(small_harmon, tmp_path: Path):
    save_model(small_harmon, tmp_path)
    with pytest.raises(UserError, match="This harmon model cannot be served; load an OmniBridge"):
        as_omnibridge(load(tmp_path), "be served")


def test_loading_is_strict(small_bagel, tmp_path: Path):
    save_model(small_bagel, tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", config | {"autoencoder": "linear"})
    with pytest.raises(UserError, match="does not fit this model"):
        load(tmp_path)
    write_json(tmp_path / "config.json", config | {"kind": "bagle"})
    with pytest.raises(UserError, match="Unknown kind of model 'bagle'; did you mean 'bagel'"):
        load(tmp_path)


def test_a_released_model_is_not_saved_as_one_of_ours(small_janus, tmp_path: Path):
    from latentbridge.models.backbones.janus.modeling_janus import JanusPro

    released = JanusPro(small_janus.model, small_janus.tokenizer, small_janus.image_processor)
    with pytest.raises(UserError, match="stays in the folder of its release"):
        save_model(released, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@networks
def test_a_new_network_depends_on_its_seed_alone(request, name: str):
    config = network(request, name).config
    torch.manual_seed(5)
    first, other = (unique_state(new_model(config, seed)) for seed in (3, 4))
    torch.manual_seed(6)
    again = unique_state(new_model(config, 3))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


LINEAR = (
    TinyBagelConfig(width=32, num_layers=1, num_heads=2, num_kv_heads=1, image_size_px=16, eye_patch_px=4),
    TinyHarmonConfig(width=32, num_layers=1, num_heads=2, mar=MarConfig(width=28, num_layers=1, num_heads=2, grid=3)),
)


@pytest.mark.parametrize("config", LINEAR, ids=["bagel", "harmon"])
def test_a_linear_autoencoder_travels_with_its_fit(config, tmp_path: Path):
    model: Any = new_model(config, 0)
    side = model.drawing_size_px
    pictures = torch.rand(40, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model.autoencoder.fit(pictures)
    assert not list(model.autoencoder.parameters()), "nothing in it can be moved by a step"
    save_model(model, tmp_path)
    again: Any = load_model(tmp_path)
    assert from_dict(type(config), to_dict(config)) == again.config == config
    expected = model.autoencoder.encode(pictures)
    assert torch.equal(again.autoencoder.encode(pictures), expected)
    assert expected.square().mean().sqrt().item() == pytest.approx(1, abs=0.05), "unit spread, as noise has"
