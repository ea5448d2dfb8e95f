"""Offloaded weights: on the CPU in this process, and on a fake device (`tests/pretend_device.py`) in another."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests import pretend_device
from tests.conftest import keep_sizes
from tests.training.test_native import CONFIGS

from latentbridge.devices import device_of, resolve_device
from latentbridge.models.checkpoint import load, new_model
from latentbridge.models.offload import Offload, block_parts, place
from latentbridge.models.quantization import quantize
from latentbridge.rng import torch_rng

ROOT = Path(__file__).parents[2]
MODELS = ("tiny", *CONFIGS)
OFFLOADS = get_args(Offload)


def small(name: str) -> Any:
    if name == "tiny":
        return load("tiny")
    model = new_model(CONFIGS[name], seed=0)
    keep_sizes(model, torch_rng(0, "small"))
    return model


def results(model: Any) -> dict[str, Any]:
    """Return what each skill gives, as plain values."""
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:44, 20:44] = (255, 0, 0)
    found = {
        "understand": model.understand(picture, "What is this?", max_tokens=4),
        "generate": model.generate("a red circle", seed=7, steps=2 if model.kind != "janus" else None).picture.tolist(),
        "embed": [model.embed(images=picture).tolist(), model.embed(texts="a red square").tolist()],
    }
    if "edit" in model.skills:
        found["edit"] = model.edit(picture, "make the square blue", seed=7, steps=2).picture.tolist()
    return found


def blocks_on(model: Any, device: str) -> int:
    return sum(parameter.device.type == device for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_offloaded_models_compute_the_same_on_the_cpu(name: str):
    expected = results(small(name))
    for offload in OFFLOADS:
        model = small(name)
        place(model, torch.device("cpu"), offload)
        assert results(model) == expected
        assert device_of(model) == torch.device("cpu")


@pytest.mark.parametrize("offload", OFFLOADS)
def test_tied_weights_stay_one(monkeypatch: pytest.MonkeyPatch, offload: Offload):
    monkeypatch.setattr("latentbridge.models.offload._on", lambda parameter, device: copy.deepcopy(parameter))
    model = new_model(CONFIGS["harmon"], seed=0)
    place(model, torch.device("cpu"), offload)
    assert model.language_model.lm_head.weight is model.language_model.get_input_embeddings().weight


@pytest.mark.parametrize("offload", OFFLOADS)
def test_int8_weights_leave_the_device(offload: Offload):
    pytest.importorskip("bitsandbytes")
    model = small("janus")
    quantize(model, "int8")
    place(model, torch.device("cpu"), offload)
    results(model)
    holding = {
        number
        for number, part in enumerate(block_parts(model))
        for block in part
        for module in block.modules()
        if getattr(getattr(module, "state", None), "CB", None) is not None
    }
    assert len(holding) == 1  # of the part that ran last


def main(folder: Path) -> None:
    """Write the results of every model on the fake device, plain and offloaded."""
    torch.set_num_threads(1)
    document: dict[str, Any] = {}
    computes = pretend_device.begin()
    device = resolve_device("auto")
    with computes:
        for name in MODELS:
            for offload in (None, *OFFLOADS):
                model = small(name)
                place(model, device, offload)
                document[f"{name} {offload}"] = results(model)
                document[f"{name} {offload} there"] = blocks_on(model, device.type)
    (folder / "results.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def on_device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("offload")
    command = [sys.executable, "-m", "tests.models.test_offload", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloaded_models_compute_the_same_on_a_device_and_need_less_of_it(
    on_device: dict[str, Any], name: str, offload: str
):
    assert on_device[f"{name} {offload}"] == on_device[f"{name} None"]
    assert 0 < on_device[f"{name} {offload} there"] < on_device[f"{name} None there"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
