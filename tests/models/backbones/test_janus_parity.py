"""Every array that the authors' code of Janus-Pro computed at tiny width, recomputed by what users run (tests/golden/janus)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from latentbridge.models.backbones.parity import run_fixture

FIXTURE = Path(__file__).parents[2] / "golden" / "janus"


def test_every_output_of_the_authors_code_is_recomputed():
    expected = load_file(FIXTURE / "expected.safetensors")
    report = run_fixture(FIXTURE)
    assert report.kind == "Janus-Pro"
    assert {each.name for each in report.arrays} == {name for name in expected if not name.startswith("picture")}
    assert len(report.arrays) == len(expected) - 2
    assert [each for each in report.arrays if not each.is_within] == [] and report.is_within


@pytest.mark.parametrize(
    ("tensor", "arrays"),
    [
        ("vision_model.vision_tower.blocks.1.attn.qkv.weight", {"und0.vision", "und1.aligned", "und0.states"}),
        ("vision_model.vision_tower.pos_embed", {"und0.vision", "und1.first_logits"}),
        ("aligner.layers.2.bias", {"und0.aligned", "und1.states_nosystem"}),
        ("language_model.model.layers.0.self_attn.k_proj.weight", {"und0.states", "gen1.logits", "und1.states"}),
        ("language_model.lm_head.weight", {"und0.first_logits", "und1.first_logits_nosystem"}),
        ("gen_aligner.layers.0.weight", {"gen0.logits", "gen1.logits"}),
        ("gen_head.vision_head.bias", {"gen0.logits", "gen1.logits"}),
        ("gen_vision_model.encoder.mid.1.norm.bias", {"vq0.codes", "vq1.codes"}),
        ("gen_vision_model.decoder.conv_blocks.0.upsample.conv.weight", {"vq0.decoded", "gen1.decoded"}),
    ],
)
def test_one_weight_that_moves_is_noticed(tensor: str, arrays: set[str], tmp_path: Path):
    folder = tmp_path / "moved"
    shutil.copytree(FIXTURE, folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor].view(-1)[0] += 4
    save_file(weights, folder / "model.safetensors")
    assert arrays <= {each.name for each in run_fixture(folder).arrays if not each.is_within}
