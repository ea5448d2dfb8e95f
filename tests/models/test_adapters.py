"""Adapters change what they should, merge into plain weights, come out without a trace, and fit only what they were made for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2VLForConditionalGeneration

import latentbridge
from latentbridge.cli import main
from latentbridge.config import SceneConfig
from latentbridge.errors import UserError
from latentbridge.models.adapters import (
    CONFIG,
    WEIGHTS,
    add_adapter,
    attach_adapter,
    detach_adapter,
    is_adapter,
    merge_adapter,
    save_adapter,
)
from latentbridge.models.checkpoint import load_model, new_model, save_model
from latentbridge.types import Conversation

RANK = 3
KINDS = ("omnibridge", "janus", "bagel", "harmon")
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """A small network of a kind, as new."""

    def build(kind: str) -> Any:
        name = "small_model" if kind == "omnibridge" else f"small_{kind}"
        return new_model(request.getfixturevalue(name).config, 5)

    return build


def tuned(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with an adapter that acts."""
    add_adapter(network, RANK)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.2, generator=generator)
    return network


@torch.no_grad()
def reading(network: Any) -> torch.Tensor:
    return network.und_latent(["two red circles"])


@kinds
def test_an_adapter_sits_in_the_language_model_alone(kind: str, network: Callable[[str], Any]) -> None:
    model = tuned(network(kind))
    sites = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if is_adapter(name)}
    experts = 2 if kind == "bagel" else 1
    assert len(sites) == experts * 2 * 7  # two layers of seven projections
    assert all("language_model" in site and "vision" not in site and "visual" not in site for site in sites)


@kinds
def test_merging_leaves_plain_weights_that_do_the_same(kind: str, network: Callable[[str], Any]) -> None:
    plain, model = network(kind), tuned(network(kind))
    adapted = reading(model)
    merge_adapter(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    scale = adapted.abs().max()
    assert (reading(model) - adapted).abs().max() < 1e-4 * scale  # float32 rounding of the merged products
    assert (reading(plain) - adapted).abs().max() > 1e-2 * scale


@kinds
def test_adapters_are_swapped_bit_for_bit(kind: str, network: Callable[[str], Any], tmp_path: Path) -> None:
    read: list[torch.Tensor] = []
    for seed in range(2):
        model = tuned(network(kind), seed)
        save_adapter(model, tmp_path / str(seed))
        read.append(reading(model))
    model = network(kind)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = reading(model)
    for seed in range(2):
        attach_adapter(model, tmp_path / str(seed))
        assert torch.equal(reading(model), read[seed])
        with pytest.raises(UserError, match="has an adapter already"):
            attach_adapter(model, tmp_path / str(seed))
        detach_adapter(model)
        assert torch.equal(reading(model), before)
    after = model.state_dict()
    assert after.keys() == plain.keys() and all(torch.equal(after[name], plain[name]) for name in plain)


def test_others_read_our_adapters(network: Callable[[str], Any], tmp_path: Path) -> None:
    ours = tuned(network("omnibridge"))
    save_adapter(ours, tmp_path)
    theirs: Any = Qwen2VLForConditionalGeneration(ours.backbone.model.config)
    plain = network("omnibridge").backbone.model.state_dict()
    theirs.load_state_dict(plain)
    theirs = PeftModel.from_pretrained(theirs, str(tmp_path)).eval()
    batch = ours.backbone.tokenize([Conversation((("Hi", "yes"),))])
    with torch.no_grad():
        ids = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        assert torch.allclose(theirs(**ids).logits, ours.backbone.model(**ids).logits, atol=1e-6)


# --- what does not fit ---------------------------------------------------------------------------


def broken(change: str, folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[0]
    if change == "missing":
        del tensors[name]
    elif change == "old names":  # those of transformers before 4.52; peft only warns (spec libraries 4)
        tensors = {name.replace("model.language_model.", "model."): tensor for name, tensor in tensors.items()}
    elif change == "shape":
        tensors[name] = torch.zeros(RANK, 2)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("change", ["missing", "old names", "shape"])
def test_an_adapter_that_does_not_fit_is_refused(change: str, network: Callable[[str], Any], tmp_path: Path) -> None:
    save_adapter(tuned(network("omnibridge")), tmp_path)
    broken(change, tmp_path)
    model = network("omnibridge")
    names = list(model.state_dict())
    with pytest.raises(UserError, match="does not fit this model: .*first: base_model"):
        attach_adapter(model, tmp_path)
    assert list(model.state_dict()) == names


def test_an_adapter_of_another_backbone_is_refused(network: Callable[[str], Any], tmp_path: Path) -> None:
    save_adapter(tuned(network("bagel")), tmp_path)
    with pytest.raises(UserError, match="does not fit this model"):
        attach_adapter(network("omnibridge"), tmp_path)


@kinds
def test_weights_that_it_was_not_trained_beside_are_refused(
    kind: str, network: Callable[[str], Any], tmp_path: Path
) -> None:
    """Merged already, or trained further; the same weights in half the precision are the same."""
    model = tuned(network(kind))
    save_adapter(model, tmp_path)
    merge_adapter(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match="other weights than this model has"):
        attach_adapter(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    attach_adapter(network(kind).to(torch.bfloat16), tmp_path)


def test_what_is_no_adapter_is_refused(network: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        attach_adapter(network("omnibridge"), tmp_path)
    save_adapter(tuned(network("omnibridge")), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(UserError, match="kind IA3"):
        attach_adapter(network("omnibridge"), tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        attach_adapter(network("omnibridge"), tmp_path)


def test_a_network_without_a_language_model_takes_none() -> None:
    with pytest.raises(UserError, match="lora_rank=0"):
        add_adapter(new_model(SceneConfig(picture_width=32, picture_layers=1, text_width=32, text_layers=1), 0), RANK)


# --- at load, and by command ---------------------------------------------------------------------


@pytest.fixture
def folders(network: Callable[[str], Any], tmp_path: Path) -> tuple[Path, Path]:
    """A model's folder, and that of an adapter for it."""
    save_model(network("omnibridge"), tmp_path / "model")
    save_adapter(tuned(network("omnibridge")), tmp_path / "adapter")
    return tmp_path / "model", tmp_path / "adapter"


def test_a_model_is_loaded_with_its_adapter(folders: tuple[Path, Path], network: Callable[[str], Any]) -> None:
    model, adapter = folders
    assert torch.equal(reading(latentbridge.load(model, adapter=adapter)), reading(tuned(network("omnibridge"))))


def test_merging_by_command(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, adapter = folders
    with pytest.raises(SystemExit) as end:
        main(["adapters", "merge", str(model), str(adapter), "--out", str(tmp_path / "merged")])
    assert end.value.code == 0 and "merged" in capsys.readouterr().out
    both = reading(latentbridge.load(model, adapter=adapter))
    assert torch.allclose(reading(load_model(tmp_path / "merged")), both, rtol=1e-4, atol=1e-5)
    shutil.rmtree(adapter)
    with pytest.raises(SystemExit) as end:
        main(["adapters", "merge", str(model), str(adapter), "--out", str(tmp_path / "other")])
    assert end.value.code == 2 and "holds no adapter" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
