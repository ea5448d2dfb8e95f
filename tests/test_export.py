"""`latentbridge export`: the folder of a run as a release with its model card, and adapters as peft loads them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from torch import nn

from latentbridge.config import to_dict
from latentbridge.files import write_json
from latentbridge.models.adapters import add_adapter, is_adapter, merge_adapter, save_adapter
from latentbridge.models.backbones.bagel.export import release_files as bagel_files
from latentbridge.models.backbones.bagel.load_bagel import load_bagel
from latentbridge.models.backbones.janus.load_janus import load_janus
from latentbridge.models.backbones.loading import load_release
from latentbridge.models.checkpoint import save_model
from latentbridge.models.weights import Placement
from latentbridge.recipes import recipe
from latentbridge.run_folder import RunFolder, describe_environment

GOLDEN = Path(__file__).parent / "golden"
Call = Callable[..., tuple[int, str, str]]


def finished_run(path: Path, model: Any, name: str, **changes: Any) -> RunFolder:
    """The folder that training would have left."""
    config = recipe(name)
    stage = replace(config.stage, lora_rank=changes.pop("lora_rank", config.stage.lora_rank))
    config = replace(config, model=model.config, stage=stage, steps=7, batch_size=3, **changes)
    run = RunFolder(path)
    write_json(path / "config.json", to_dict(config))
    write_json(run.environment, describe_environment() | {"device": "cuda:0", "threads": 2, "bfloat16": False})
    write_json(run.size, {"moving": 12345, "peak_mib": 1})
    run.log({"step": 7, "seconds": 7200.0, "samples": 21, "waiting": 0.1, "loss": 0.5})
    save_model(model, run.model)
    return run


@pytest.fixture(scope="module")
def bagel_run(small_bagel: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    runs = tmp_path_factory.mktemp("runs")
    (runs / "BAGEL-7B-MoT").mkdir()
    (runs / "BAGEL-7B-MoT" / "generation_config.json").write_text("{}")
    init = (("", "BAGEL-7B-MoT"),)
    return finished_run(runs / "mine", small_bagel, "bagel-7b-latentumm", init=init, lora_rank=0)


def test_a_run_becomes_a_release_that_loads_as_the_same_model(
    bagel_run: RunFolder, small_bagel: Any, tmp_path: Path, call: Call
):
    out = tmp_path / "out"
    code, printed, _ = call("export", str(bagel_run.path), "--out", str(out))
    assert code == 0 and printed == f"The model is in {out}, its card in {out / 'README.md'}\n"
    loaded = load_bagel(out, Placement(torch.float32)).state_dict()
    ours = small_bagel.state_dict()
    assert loaded.keys() == ours.keys() and all(torch.equal(loaded[name], ours[name]) for name in ours)
    assert (out / "generation_config.json").is_file()  # of the release beside the run
    code, printed, _ = call(
        "export", str(bagel_run.path), "--out", str(tmp_path / "half"), "--dtype", "bfloat16", "--json"
    )
    assert code == 0 and json.loads(printed)["layout"] == "authors"
    assert load_bagel(tmp_path / "half").language_model.embed_tokens.weight.dtype == torch.bfloat16
    assert isinstance(load_release(out), type(small_bagel))


def test_the_card_says_what_the_run_recorded(bagel_run: RunFolder, tmp_path: Path, call: Call):
    rows = [
        {"skill": "understand", "metric": "questions", "value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "unit": "share"}
    ]
    scores = tmp_path / "scores.json"
    write_json(scores, {"rows": rows, "world": "shapes", "seed": 1, "date": "2026-12-01", "hardware": "a laptop"})
    code, _, _ = call("export", str(bagel_run.path), "--out", str(tmp_path / "out"), "--scores", str(scores))
    assert code == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == ["ByteDance-Seed/BAGEL-7B-MoT"] and card.data.license == "apache-2.0"
    assert card.data.library_name == "latentbridge" and "text-to-image" in (card.data.tags or [])
    said = dict(line.strip("| ").split(" | ")[:2] for line in card.text.splitlines() if line.count(" | ") == 1)
    assert said["recipe"] == "bagel-7b-latentumm" and said["steps"] == "7" and said["batch size"] == "3"
    assert said["seed"] == "0" and said["time"] == "2.00 hours" and said["trained parameters"] == "12,345"
    assert said["hardware"].startswith("cuda:0: ") and said["loss"] == "0.5" and "torch" in said["packages"]
    assert "| understand | questions | 50.0 % | 40.0 % to 60.0 % | 40 |" in card.text
    assert "- ByteDance-Seed/BAGEL-7B-MoT: apache-2.0" in card.text and '"name": "bagel-7b-latentumm"' in card.text


def test_a_folder_of_a_model_alone_has_a_card_without_training(tmp_path: Path, call: Call):
    code, _, _ = call("export", str(GOLDEN / "janus"), "--out", str(tmp_path / "out"), "--layout", "transformers")
    assert code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## Training" not in text and "None were recorded" in text
    assert load_janus(tmp_path / "out").kind == "janus"


def adapted(model: Any, path: Path, name: str) -> tuple[RunFolder, Any]:
    """A run with an adapter that changes something, and the model with it merged."""
    trained = copy.deepcopy(model)
    torch.manual_seed(0)
    add_adapter(trained, 2)
    with torch.no_grad():
        for parameter_name, parameter in trained.named_parameters():
            if is_adapter(parameter_name):
                parameter.normal_(std=0.5)
    save_adapter(trained, path / "adapter")
    merge_adapter(trained)
    return finished_run(path, trained, name, lora_rank=2), trained


def modules_named(weights: dict[str, torch.Tensor]) -> nn.Module:
    """Linear layers under the authors' names, as their class has them."""
    root = nn.Module()
    root.config = {"model_type": "bagel"}  # pyright: ignore[reportAttributeAccessIssue]  # peft asks for it
    for name, weight in weights.items():
        *parents, leaf, _ = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        layer = nn.Linear(*weight.shape[::-1], bias=False)
        layer.weight = nn.Parameter(weight.clone())
        module.add_module(leaf, layer)
    return root


def test_an_adapter_of_bagel_fits_the_authors_modules(small_bagel: Any, tmp_path: Path, call: Call):
    run, trained = adapted(small_bagel, tmp_path / "adapted", "bagel-7b-latentumm")
    code, _, _ = call("export", str(run.path), "--out", str(tmp_path / "peft"), "--layout", "peft")
    assert code == 0
    layers = "language_model.model.layers."

    def projections(model: Any) -> dict[str, torch.Tensor]:
        released = bagel_files(model).weights["ema.safetensors"]
        return {
            name: tensor
            for name, tensor in released.items()
            if name.startswith(layers) and tensor.ndim == 2 and name.endswith("weight")
        }

    base = modules_named(projections(small_bagel))
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "peft"))  # pyright: ignore[reportArgumentType]
    merged: Any = loaded.merge_and_unload()
    expected = projections(trained)
    got = {name: merged.get_parameter(name) for name in expected}
    assert all(torch.allclose(got[name], expected[name], atol=1e-6) for name in expected)
    moved = [name for name in expected if not torch.equal(expected[name], projections(small_bagel)[name])]
    assert len(moved) == len(expected) and any("moe_gen" in name for name in moved)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "ByteDance-Seed/BAGEL-7B-MoT"
    assert ModelCard.load(tmp_path / "peft" / "README.md").data.library_name == "peft"


@pytest.mark.parametrize(
    ("kind", "name"), [("small_janus", "janus-pro-7b-latentumm"), ("small_harmon", "harmon-1.5b-latentumm")]
)
def test_other_adapters_fit_the_library_module(
    kind: str, name: str, tmp_path: Path, call: Call, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(kind)
    run, trained = adapted(model, tmp_path / "adapted", name)
    code, _, _ = call("export", str(run.path), "--out", str(tmp_path / "peft"), "--layout", "peft")
    assert code == 0
    base = copy.deepcopy(model.adapter_host)
    merged: Any = PeftModel.from_pretrained(base, str(tmp_path / "peft")).merge_and_unload()
    expected = trained.adapter_host.state_dict()
    assert all(torch.allclose(tensor, expected[each], atol=1e-6) for each, tensor in merged.state_dict().items())
    before = model.adapter_host.state_dict()
    moved = [each for each in expected if not torch.equal(expected[each], before[each])]
    assert len(moved) == 2 * 7 and all("_proj" in each for each in moved)  # two layers of seven projections


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["RUN", "--layout", "author"], "did you mean 'authors'"),
        (["RUN", "--layout", "peft"], "holds no adapter; give the folder of a run with stage.lora_rank"),
        (["RUN", "--layout", "transformers"], "BAGEL is not a model of transformers"),
    ],
)
def test_mistakes_take_one_sentence(
    arguments: list[str], message: str, bagel_run: RunFolder, tmp_path: Path, call: Call
):
    words = [str(bagel_run.path) if word == "RUN" else word for word in arguments]
    code, _, error = call("export", *words, "--out", str(tmp_path / "out"))
    assert code == 2 and message in error and error.count("\n") == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    code, _, error = call("export", str(bagel_run.path), "--out", str(tmp_path / "full"))
    assert code == 2 and "is not empty" in error
