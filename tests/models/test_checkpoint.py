from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latentbridge.config import ModelConfig
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import TINY, load, load_model, load_parts, new_model, save_model, unique_state
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.tensors import open_tensors
from latentbridge.models.weights import empty_weights


@pytest.fixture
def saved(small_model: OmniBridge, tmp_path: Path) -> Path:
    save_model(small_model, tmp_path / "saved")
    return tmp_path / "saved"


def equal(first: OmniBridge, second: OmniBridge, parts: str | tuple[str, ...] = "") -> bool:
    one, two = unique_state(first), unique_state(second)
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one if name.startswith(parts))


def test_a_new_model_depends_on_its_seed_alone(small_config: ModelConfig):
    first = new_model(small_config, seed=3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert equal(first, new_model(small_config, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    assert not equal(first, new_model(small_config, seed=4))


def test_a_saved_model_comes_back_bit_for_bit(small_model: OmniBridge, saved: Path, three_pictures):
    again = load_model(saved)
    assert equal(again, small_model) and again.config == small_model.config and not again.training
    assert again.backbone.tokenizer.get_vocab() == small_model.backbone.tokenizer.get_vocab()
    assert again.understand(three_pictures, max_tokens=6) == small_model.understand(three_pictures, max_tokens=6)
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]


def test_a_run_folder_stands_for_its_model(small_model: OmniBridge, saved: Path):
    run = saved.parent / "run"
    run.mkdir()
    saved.rename(run / "model")
    (run / "config.json").write_text("{}")
    assert equal(load(str(run)), small_model)


def test_tied_weights_are_stored_once(small_model: OmniBridge, saved: Path):
    names = load_file(saved / "model.safetensors").keys()
    assert "backbone.model.model.language_model.embed_tokens.weight" in names
    assert not [name for name in names if "lm_head" in name]
    again = load_model(saved).backbone.model
    assert again.lm_head.weight.data_ptr() == again.model.language_model.embed_tokens.weight.data_ptr()


def test_rounded_weights_halve_the_file_and_load_as_float32(small_model: OmniBridge, saved: Path):
    save_model(small_model, saved.parent / "half", torch.bfloat16)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (saved, saved.parent / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = load_model(saved.parent / "half")
    weight, rounded = small_model.projector.weight, again.projector.weight
    assert rounded.dtype == torch.float32 and torch.equal(rounded, weight.bfloat16().float())


def damage(folder: Path, how: str) -> None:
    path = folder / "model.safetensors"
    if how == "truncated weights":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "no weights":
        path.unlink()
    elif how == "damaged config":
        (folder / "config.json").write_text('{"backbone": ')
    elif how == "unknown key":
        (folder / "config.json").write_text(json.dumps({"backbones": {}}))
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        tensors = load_file(path)
        if how == "missing tensor":
            del tensors["projector.weight"]
        elif how == "odd tensor":
            tensors["projector.bias"] = torch.zeros(32)
        else:
            tensors["projector.weight"] = torch.zeros(32, 33)
        save_file(tensors, path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated weights", "Cannot read"),
        ("no weights", "Cannot read"),
        ("damaged config", "damaged"),
        ("unknown key", "did you mean 'backbone'"),
        ("no config", "holds no model"),
        ("no tokenizer", "tokenizer"),
        ("missing tensor", "projector.weight"),
        ("odd tensor", "projector.bias"),
        ("wrong shape", "projector.weight"),
    ],
)
def test_damage_is_one_sentence(saved: Path, how: str, message: str):
    damage(saved, how)
    with pytest.raises(UserError, match=message) as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


def test_parts_come_alone(small_config: ModelConfig, small_model: OmniBridge, saved: Path):
    model, fresh = new_model(small_config, seed=5), new_model(small_config, seed=5)
    load_parts(model, saved, ["backbone.", "decoder."])
    assert equal(model, small_model, ("backbone.", "decoder."))
    assert equal(model, fresh, ("projector.", "aligner.", "retrieval.", "text_encoder.", "autoencoder."))
    assert not equal(model, small_model, "text_encoder.")


def test_a_part_that_names_nothing_is_refused(small_config: ModelConfig, saved: Path):
    with pytest.raises(UserError, match="bakcbone"):
        load_parts(new_model(small_config, seed=5), saved, ["bakcbone."])


# --- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lack", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(), None]
)
def test_a_device_that_is_too_small_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, lack: Any):
    def fill(*_: Any) -> None:
        if lack is not None:
            raise lack
        torch.empty(2**60)  # as torch says it of the host

    monkeypatch.setattr("latentbridge.models.checkpoint.place", fill)
    with pytest.raises(UserError, match=r"^cpu has too little memory for tiny; `latentbridge plan tiny` .*--quantize"):
        load("tiny")


def test_other_errors_of_a_device_are_its_own(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("latentbridge.models.checkpoint.place", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        load("tiny")


def test_loading_leaves_the_generator_and_other_threads_alone():
    state = torch.get_rng_state()
    built: list[bool] = []
    with empty_weights():
        worker = Thread(target=lambda: built.append(nn.Linear(2, 2).weight.is_meta))
        worker.start()
        worker.join()
        inside = nn.Linear(2, 2)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert inside.weight.is_meta and built == [False] and not nn.Linear(2, 2).weight.is_meta


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    whole = (TINY / "model.safetensors").read_bytes()
    path.write_bytes(whole)
    tensors = open_tensors(path, "")
    path.write_bytes(whole[: len(whole) // 2])  # after the header was read
    with pytest.raises(UserError, match="cut short"):
        [tensor.read() for tensor in tensors.values()]
