"""Parity folders: which model they hold, how arrays are grouped, and what is not computed (`latentbridge doctor --fixture`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentbridge.errors import UserError
from latentbridge.models.backbones.parity import ArrayDifference, FixtureReport, compare_arrays, run_fixture

GOLDEN = Path(__file__).parents[2] / "golden"


def test_differences_are_relative_to_the_authors_largest_value():
    expected = {
        "a": torch.tensor([1.0, -4.0]),
        "b": torch.tensor([1, 2, 3, 4]),
        "c": torch.ones(3),
        "d": torch.ones(2),
    }
    computed = [
        ("a", torch.tensor([1.0, -4.002]), 1e-3),
        ("b", torch.tensor([1, 2, 3, 5]), 0.2),
        ("c", torch.ones(4), 9.0),
        ("d", torch.tensor([1.0, float("nan")]), 9.0),
        ("not recorded", torch.ones(1), 0.0),
    ]
    found = {each.name: each for each in compare_arrays(computed, expected)}
    assert found.keys() == expected.keys()
    assert found["a"].difference == pytest.approx(5e-4, rel=1e-3) and found["a"].is_within
    assert found["b"].difference == 0.25 and not found["b"].is_within
    assert found["c"].difference == found["d"].difference == float("inf")


def test_groups_start_with_the_worst_array_by_its_own_tolerance():
    arrays = [
        ArrayDifference("und0.states", 2e-6, 1e-5),
        ArrayDifference("und1.states", 4e-6, 1e-5),
        ArrayDifference("gen0.cfg1.5_t0.25", 1e-3, 2e-3),
        ArrayDifference("und0.ids", 0.0, 0.0),
        ArrayDifference("gen0.ids", 0.1, 0.0),
    ]
    report = FixtureReport("x", arrays, [])
    groups = report.groups()
    assert [group.name for group in groups] == ["gen*.ids", "gen*.cfg*_t*", "und*.states", "und*.ids"]
    assert groups[2].worst.name == "und1.states" and len(groups[2].arrays) == 2
    assert not report.is_within and report._replace(arrays=arrays[:-1]).is_within
    assert not FixtureReport("x", arrays[:-1], ["und9.states"]).is_within


def test_the_command_finds_a_moved_weight_and_an_array_that_nothing_computes(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
):
    folder = tmp_path / "janus"
    shutil.copytree(GOLDEN / "janus", folder)
    code, out, _ = call("doctor", "--fixture", str(folder))
    assert (
        code == 0 and out.splitlines()[-1].startswith("Janus-Pro: ") and "0 outside their tolerance, 0 missing" in out
    )
    expected = load_file(folder / "expected.safetensors")
    save_file({**expected, "und0.unheard_of": torch.ones(2)}, folder / "expected.safetensors")
    weights = load_file(folder / "model.safetensors")
    weights["language_model.lm_head.weight"].view(-1)[0] += 4
    save_file(weights, folder / "model.safetensors")
    code, out, _ = call("doctor", "--fixture", str(folder), "--json")
    report = json.loads(out)
    assert code == 1 and not report["within"] and report["not_computed"] == ["und0.unheard_of"]
    outside = {group["group"] for group in report["groups"] if not group["within"]}
    assert {"und*.first_logits", "und*.first_logits_nosystem"} <= outside and "und*.states" not in outside


def test_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"is no parity folder \(no meta.json\)"):
        run_fixture(tmp_path)
    for name in ("meta.json", "expected.safetensors"):
        shutil.copy(GOLDEN / "bagel" / name, tmp_path)
    with pytest.raises(UserError, match="holds the weights of none of BAGEL, Janus-Pro, Harmon"):
        run_fixture(tmp_path)
