from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentbridge.models.backbones.harmon.load_harmon import load_harmon
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.harmon.parity import fixture_sizes, model_arrays, write_release
from latentbridge.models.backbones.parity import ArrayDifference, compare_arrays, run_fixture
from latentbridge.models.weights import Placement

FOLDER = Path(__file__).parents[2] / "golden" / "harmon"
with safe_open(FOLDER / "expected.safetensors", "pt") as _file:
    NAMES = sorted(_file.keys())
INPUTS = re.compile(r"picture\d+|gen\d+\.\d+px\.(order|initial_noise|step_noise)")
OUTPUTS = [name for name in NAMES if not INPUTS.fullmatch(name)]


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FOLDER / "expected.safetensors")


@pytest.fixture(scope="module")
def differences() -> dict[str, ArrayDifference]:
    report = run_fixture(FOLDER)
    assert report.kind == "Harmon" and not report.not_computed
    return {each.name: each for each in report.arrays}


def test_every_output_is_compared(differences: dict[str, ArrayDifference]):
    assert sorted(differences) == OUTPUTS and len(OUTPUTS) > 100


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_array_is_the_authors(differences: dict[str, ArrayDifference], name: str):
    assert differences[name].is_within, differences[name]


@pytest.fixture(scope="module")
def harmon(tmp_path_factory: pytest.TempPathFactory) -> Harmon:
    release = tmp_path_factory.mktemp("release")
    write_release(FOLDER, release)
    return load_harmon(release, [fixture_sizes(FOLDER)], Placement(torch.float32))


MOVES = [
    ("autoencoder.vae.encoder.conv_in.weight", 0.1, r"und.*\.(latents|encoded|for_words|states|first_logits)"),
    ("encoder.embed.weight", 0.1, r"und.*\.encoded|gen.*step2\.(encoded|decoded)"),
    ("encoder.positions", 0.1, r"und.*\.(encoded|for_words)"),
    ("proj_in.2.weight", 0.1, r"und.*\.(for_words|states|first_logits)|gen.*\.encoded"),
    ("language_model.model.norm.weight", 30.0, r"und.*\.tokens"),
    ("language_model.model.layers.1.mlp.down_proj.weight", 0.1, r"und.*\.(states|first_logits)|gen.*\.encoded"),
    ("proj_out.2.bias", 0.1, r"gen.*\.(encoded|decoded)"),
    ("decoder.mask", 0.1, r"gen.*\.decoded"),
    ("head.embed_state.bias", 1.0, r"gen.*\.(net_out_t500|drawn|tokens|picture)"),
    ("head.out.weight", 3.0, r"gen.*\.(net_out_t500|drawn|tokens|picture)"),  # the half that predicts variances
    ("autoencoder.vae.decoder.conv_out.weight", 0.1, r"gen.*\.picture"),
]
ALWAYS_THE_SAME = r".*step0\.tokens"
"""No token is known before the first step."""


@pytest.mark.parametrize(("weight", "by", "arrays"), MOVES, ids=[weight for weight, *_ in MOVES])
def test_a_weight_that_moves_is_noticed(
    harmon: Harmon, expected: dict[str, Tensor], weight: str, by: float, arrays: str
):
    moved = copy.deepcopy(harmon)
    with torch.no_grad():
        values = moved.get_parameter(weight)
        values.view(-1)[values.numel() // 2] += by
    differences = compare_arrays(model_arrays(moved, FOLDER), expected)
    outside = {each.name for each in differences if not each.is_within}
    affected = {name for name in OUTPUTS if re.fullmatch(arrays, name) and not re.fullmatch(ALWAYS_THE_SAME, name)}
    assert affected and affected <= outside, affected - outside


def test_the_moved_weights_cover_every_array_that_depends_on_weights():
    free = re.compile(r".*\.(resized|ids|attention_mask|known|places\d+)|diffusion\..*|counts_.*|" + ALWAYS_THE_SAME)
    assert not [
        name for name in OUTPUTS if not free.fullmatch(name) and not any(re.fullmatch(m[2], name) for m in MOVES)
    ]


def test_both_published_layouts_hold_the_same_model(harmon: Harmon, tmp_path: Path):
    write_release(FOLDER, tmp_path)
    tensors = torch.load(tmp_path / "harmon_tiny.pth", weights_only=True)
    tensors |= {
        f"vae.{name}": tensor for name, tensor in torch.load(tmp_path / "kl16.ckpt", weights_only=True)["model"].items()
    }
    del tensors["llm.lm_head.weight"]  # a transformers class saves tied weights once
    for name in ("harmon_tiny.pth", "kl16.ckpt"):
        (tmp_path / name).unlink()
    save_file(tensors, tmp_path / "model.safetensors")
    state = load_harmon(tmp_path, [fixture_sizes(FOLDER)], Placement(torch.float32)).state_dict()
    ours = harmon.state_dict()
    assert state.keys() == ours.keys() and all(torch.equal(state[name], ours[name]) for name in ours)
